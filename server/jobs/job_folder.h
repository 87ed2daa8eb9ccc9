// JobFolder: where a job lies on disk: its state, its events, its data, and what training writes.
//
//   job.json       the state, replaced as a whole
//   events.jsonl   one event a line, appended
//   train.jsonl, valid.jsonl   the data as they were when the job was created: links, where the disk has them
//   adapter/       what `moebius finetune` writes: log.csv, checkpoints/, the adapter, step-NUMBER/
//   finetune.log   what it says
//   lock           held while it runs, also when the server that started it is gone
#pragma once

#include <string>
#include <vector>

#include "server/jobs/job.h"

namespace moebius {

enum class EventLevel : uint8_t { kInfo, kWarn, kError };

class JobFolder {
 public:
  explicit JobFolder(std::string path) : path_(std::move(path)) {}

  // Makes the folder, with data from these files; valid may be "".
  Status create(const std::string& train, const std::string& valid) const;
  void remove() const;
  void drop_data() const;  // and all that a run would need to go on
  Status save(const Job& job) const;
  Result<Job> load() const;  // also repairs the end of the events that a killed server left

  // With data it is an event of type "metrics".
  Status add_event(EventLevel level, const std::string& message, const Json& data = nullptr) const;
  std::vector<std::string> events() const;  // as lines, the oldest first
  // Of the job's event number `index`, as clients see it.
  static std::string event_id(const std::string& job, int64_t index);
  static Json event(const std::string& job, int64_t index, const std::string& line);

  std::string train() const { return path_ + "/train.jsonl"; }
  std::string valid() const { return path_ + "/valid.jsonl"; }
  std::string adapter() const { return path_ + "/adapter"; }
  std::string checkpoint(int64_t step) const;  // the adapter of that step
  std::string output() const { return path_ + "/finetune.log"; }
  std::string lock() const { return path_ + "/lock"; }
  const std::string& path() const { return path_; }

 private:
  std::string events_path() const { return path_ + "/events.jsonl"; }
  const std::string path_;
};

// Bytes of all files below a folder that no other folder has too.
int64_t bytes_below(const std::string& folder);

}  // namespace moebius
