// The loop of `moebius train` and `moebius finetune`: progress, log, plot, checkpoints, Ctrl-C. SIGTERM
// counts as Ctrl-C.
#pragma once

#include <functional>
#include <string>

#include "engine/train/job.h"
#include "engine/train/lora.h"
#include "tools/command.h"

namespace moebius {

struct TrainingLoopOptions {
  std::string out;
  int64_t eval_every = 0;  // steps; 0: ten times in a run
  int64_t save_every = 0;  // steps; 0: ten times in a run
  int64_t patience = 0;    // evaluations without a better loss until the run ends early; 0: never
  bool resume = false;
  int64_t keep = 0;    // results of earlier evaluations that stay, beside the newest
  int64_t parent = 0;  // the process that started this one, with which it ends; 0: it goes on without it
  bool json = false;
};

void add_lora_options(CLI::App& app, LoraOptions& options);
void add_trainer_options(CLI::App& app, TrainerOptions& options);
void add_training_loop_options(CLI::App& app, TrainingLoopOptions& options);

// Opens the job and runs it to its end; the exit code. Leaves in out: run.json, log.csv, loss.svg,
// checkpoints/, what the job writes, and with --keep a folder step-NUMBER with what it wrote at an
// evaluation. run.json is there once the data are read and the log goes on: {"steps": of the run, "examples",
// "eval_examples", "description"}.
using OpenJob = std::function<Result<std::unique_ptr<TrainingJob>>(const JobProgress&)>;
int run_training(const std::string& name, const TrainingLoopOptions& options, const OpenJob& open);

}  // namespace moebius
