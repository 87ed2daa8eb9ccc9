// JobRun: one run of `moebius finetune` for a job, from its start to its end: its progress, and what it said.
#pragma once

#include <csignal>
#include <memory>

#include "server/jobs/child.h"
#include "server/jobs/job_folder.h"

namespace moebius {

struct TrainingPlace {
  std::string program;       // the path of `moebius`
  std::string model;         // folder of the base
  int threads = 1;           // that training may take
  int64_t memory_bytes = 0;  // as ChildOptions has it
};

class JobRun {
 public:
  // kCancelled: an earlier run of this job, of a server that is gone, has not ended yet; try again.
  static Result<std::unique_ptr<JobRun>> start(const JobFolder& folder, const Job& job,
                                               const TrainingPlace& place);
  ~JobRun();  // kills it

  void ask_to_stop() const { child_->signal(SIGTERM); }  // after its step, with a checkpoint
  void kill() const { child_->signal(SIGKILL); }
  std::optional<int> ended() { return child_->ended(); }  // as Child has it

  // Steps in the whole run; 0 while the data are still read.
  int64_t total_steps() const;
  // The rows that were added to the log since the last call, of steps after this one.
  std::vector<TrainingRow> rows_after(int64_t step);
  // What it said last, in a line without the paths of this machine.
  std::string last_words(const Job& job) const;

 private:
  JobRun(const JobFolder& folder, TrainingPlace place) : folder_(folder), place_(std::move(place)) {}
  const JobFolder folder_;
  const TrainingPlace place_;
  int lock_ = -1;
  std::unique_ptr<Child> child_;
  mutable int64_t total_steps_ = 0;
  int64_t log_offset_ = 0;  // what was read of the log
};

// How many adapters of evaluations stay.
inline constexpr int kKeptCheckpoints = 3;

}  // namespace moebius
