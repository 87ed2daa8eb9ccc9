// Jobs: the fine-tuning jobs of this server: what is on disk, a thread that runs one at a time, and what
// clients may do to them.
//
//   queued -> validating_files -> running -> succeeded | failed
//   any of the first three -> paused -> queued,  any that has not ended -> cancelled
//
// Every change is on disk before it is told. A server that stops has the running job write a checkpoint; that
// job, like one that a killed server ran, is queued when the next server opens the folder, and goes on from
// its last checkpoint. Paused jobs stay so. May be used from several threads.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <spdlog/logger.h>

#include "server/files/file_store.h"
#include "server/jobs/job_run.h"

namespace moebius {

struct JobsOptions {
  std::string folder;
  std::vector<std::string>
      models;  // names of the base; jobs of another one wait, and its models are not offered
  TrainingPlace place;
  std::chrono::milliseconds stop{30'000};  // that a job gets to stop with a checkpoint when the server ends
  int64_t unfinished = 100;                // jobs at most
};

// What a job made: an adapter, under the name by which clients ask for it.
struct TunedModel {
  std::string name, folder;
  int64_t created_at = 0;
};

class Jobs {
 public:
  // files and log outlive the jobs.
  static Result<std::unique_ptr<Jobs>> open(JobsOptions options, FileStore& files, spdlog::logger& log);
  ~Jobs();  // stop()

  std::optional<ApiError> create(JobRequest request, Job& out);
  std::optional<Job> find(const std::string& id);
  std::vector<Job> list();                                 // the oldest first
  std::vector<std::string> events(const std::string& id);  // as JobFolder has them

  // Wait a moment for what they ask for; the job is as it is then.
  std::optional<ApiError> pause(const std::string& id, Job& out);
  std::optional<ApiError> resume(const std::string& id, Job& out);
  std::optional<ApiError> cancel(const std::string& id, Job& out);

  // The checkpoints whose adapters are there, the oldest first.
  std::vector<Json> checkpoints(const Job& job);

  // Of the jobs that succeeded: their models, and the models of their checkpoints, the oldest first.
  std::vector<TunedModel> models();
  // Deletes one of them, with those of its checkpoints; false: there is none of that name.
  bool erase_model(const std::string& name);

  void begin_stop();  // returns at once
  void stop();        // returns when nothing runs any more

 private:
  enum class Wish : uint8_t { kNone, kPause, kCancel };

  Jobs(JobsOptions options, FileStore& files, spdlog::logger& log);
  Status load();
  JobFolder folder_of(const std::string& id) const { return JobFolder(options_.folder + "/" + id); }
  bool is_served(const Job& job) const;  // its base is here
  Job* at(const std::string& id);        // with mutex_ held, as the next ones
  void save(Job& job);
  void set(Job& job, JobStatus status, const std::string& event, EventLevel level = EventLevel::kInfo);
  std::optional<ApiError> ask(const std::string& id, Wish wish, Job& out);

  void work();
  void run(std::unique_lock<std::mutex>& lock, const std::string& id);
  std::unique_ptr<JobRun> start(std::unique_lock<std::mutex>& lock, const std::string& id);
  void watch(std::unique_lock<std::mutex>& lock, const std::string& id, JobRun& run);
  void note_progress(Job& job, JobRun& run);
  void finish(Job& job, JobRun& run, int exit);
  void succeed(Job& job);

  const JobsOptions options_;
  FileStore& files_;
  spdlog::logger& log_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Job> jobs_;    // the oldest first
  std::string running_;      // the job that the thread works on, or ""
  Wish wish_ = Wish::kNone;  // of a client, for that job
  bool stopping_ = false;
  std::thread thread_;
};

ApiError job_not_found();

}  // namespace moebius
