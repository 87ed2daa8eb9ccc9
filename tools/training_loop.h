// The loop of `moebius train` and `moebius finetune` on a terminal: progress, log, plot, checkpoints, Ctrl-C.
#pragma once

#include <functional>
#include <string>

#include "engine/train/job.h"
#include "tools/command.h"

namespace moebius {

struct TrainingLoopOptions {
  std::string out;
  int64_t eval_every = 0;  // steps; 0: ten times in a run
  int64_t save_every = 0;  // steps; 0: ten times in a run
  int64_t patience = 0;    // evaluations without a better loss until the run ends early; 0: never
  bool resume = false;
  bool json = false;
};

void add_trainer_options(CLI::App& app, TrainerOptions& options);
void add_training_loop_options(CLI::App& app, TrainingLoopOptions& options);

// Opens the job and runs it to its end; the exit code. Leaves in out: log.csv, loss.svg, checkpoints/, and
// what the job writes.
using OpenJob = std::function<Result<std::unique_ptr<TrainingJob>>(const JobProgress&)>;
int run_training(const std::string& name, const TrainingLoopOptions& options, const OpenJob& open);

}  // namespace moebius
