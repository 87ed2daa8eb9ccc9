// open_finetuning: an adapter on the frozen weights of a checkpoint, in whatever format they are.
#pragma once

#include "engine/options.h"
#include "engine/train/job.h"
#include "engine/train/lora.h"
#include "models/peft.h"

namespace moebius {

struct FinetuningOptions {
  std::string model;            // folder, or Hugging Face cache id; "": the model that ships with the program
  std::string data, eval_data;  // JSONL, see dataset.h
  double eval_part = 0.05;      // of data, held out when there is no eval_data; 0: none
  std::string out;              // becomes a PEFT adapter folder
  bool cut_long = false;        // cut examples that are longer than max_tokens instead of refusing them
  int64_t max_tokens = 0;       // of an example; 0: what a micro-batch holds
  double epochs = 1;            // taken when trainer.steps is 0
  TrainerOptions trainer;
  LoraOptions lora;
  AdapterLayout layout = AdapterLayout::kFused;
  bool exact_activations = false;  // integer formats on unrounded activations
  int threads = 0;
  DeviceOptions device;  // changes no result of integer formats, nor what a checkpoint holds
};
Result<std::unique_ptr<TrainingJob>> open_finetuning(const FinetuningOptions& options,
                                                     const JobProgress& progress);

}  // namespace moebius
