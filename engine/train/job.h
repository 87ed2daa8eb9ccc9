// TrainingJob: a training run as the tools see it: opened from files, stepped, evaluated, saved.
//
// Two kinds: open_training() trains every weight of a small model from scratch, open_finetuning() an adapter
// on the frozen weights of a checkpoint (engine/train/finetuning.h).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/train/full.h"
#include "engine/train/trainer.h"

namespace moebius {

class TrainingJob {
 public:
  virtual ~TrainingJob() = default;
  virtual Trainer& trainer() = 0;
  virtual TrainingSet training() const = 0;
  virtual const TrainingSet& evaluation() const = 0;  // without examples: nothing is held out
  virtual std::string describe() const = 0;           // one line: parameters, data, device
  virtual std::vector<std::string> notes() const = 0;
  // Writes what has been trained so far into a folder, which is there, atomically.
  virtual Status write_result(const std::string& folder) = 0;
};

// Called while data are read, with bytes done and in total; false cancels.
using JobProgress = std::function<bool(int64_t done, int64_t total)>;

struct TrainingOptions {
  // A folder with config.json, and chat_template.jinja, generation_config.json and tokenizer files if they
  // are not to be made: without a tokenizer one is trained on the data.
  std::string recipe;
  bool keep_weights = false;    // start from the weights of that folder, a checkpoint, not from random ones
  std::string data, eval_data;  // JSONL, see dataset.h; eval_data may be empty
  std::string out;              // becomes a checkpoint folder that transformers reads
  TrainerOptions trainer;
  FullOptions full;
  int threads = 0;  // 0: one per physical core
};
Result<std::unique_ptr<TrainingJob>> open_training(const TrainingOptions& options,
                                                   const JobProgress& progress);

}  // namespace moebius
