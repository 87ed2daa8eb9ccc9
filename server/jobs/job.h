// Job: what is known of one fine-tuning job, as clients see it and as it lies on disk.
#pragma once

#include <string>
#include <vector>

#include "engine/train/training_log.h"
#include "server/jobs/job_request.h"

namespace moebius {

enum class JobStatus : uint8_t { kQueued, kValidating, kRunning, kPaused, kSucceeded, kFailed, kCancelled };

const char* status_text(JobStatus status);  // OpenAI's names, and "paused"
bool has_ended(JobStatus status);

struct JobError {
  std::string code, message, param;  // param: "" for none
};

// Of an evaluation whose adapter is kept.
struct JobCheckpoint {
  int64_t step = 0, created_at = 0;
};

struct Job {
  std::string id;
  JobRequest request;
  JobStatus status = JobStatus::kQueued;
  int64_t created_us = 0, finished_at = 0;         // since 1970; finished_at in seconds
  int64_t steps = 0, total_steps = 0, tokens = 0;  // done, of the whole run (0: not known yet), trained on
  double seconds = 0;                              // of training
  std::vector<std::string> result_files;
  std::vector<JobCheckpoint> checkpoints;
  JobError error;  // of a failed one

  std::string model_name() const;                    // ft:BASE:ORGANIZATION:SUFFIX:ID
  std::string model_name(int64_t checkpoint) const;  // of that step
  Json json() const;                                 // OpenAI's object
  Json state() const;                                // all of it, for the disk
};

std::optional<Job> job_of_state(const Json& state);  // nullopt: it is not one

// The data of a metrics event, and the metrics of a checkpoint.
Json row_metrics(const TrainingRow& row);

}  // namespace moebius
