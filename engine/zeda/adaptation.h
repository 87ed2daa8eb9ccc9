// Adaptation: a model with zero experts learns to choose them (ZEDA, arXiv 2605.18643), from the model it was
// made from. First it is trained on that model's own answers, then on its own, each token of which weighs as
// much as the teacher thinks more of it; both with the group balance loss, whose least lies at the wanted
// share of zero experts. Selection biases stay as they are.
//
// Teacher and student read the same weights where those are frozen: the teacher is the injected checkpoint
// without the rows of the zero experts.
#pragma once

#include <memory>
#include <string>

#include "engine/train/job.h"
#include "engine/train/lora.h"

namespace moebius {

struct AdaptationOptions {
  std::string model;  // an injected checkpoint (zero_experts.h)
  std::string data;  // JSONL as `moebius finetune` reads it: of an example, what comes before its last answer
  std::string out;   // becomes the adapted model; answers.jsonl, sft/ and opd/ lie there too
  double zero_rate = 0.5;       // of expert slots, that the balance loss asks for; above 0 and below 1
  double balance = 0.1;         // alpha of the group loss
  int64_t prompts = 0;          // of the data, taken from its beginning; 0: all
  int64_t answer_tokens = 512;  // of an answer at most
  float temperature = 1;        // of the answers
  double eval_part = 0.02;      // of the teacher's answers, held out
  double epochs = 1;            // of stage one, when its steps are 0
  TrainerOptions sft, opd;      // of the stages
  int64_t opd_prompts = 16, opd_samples = 2;  // of a step of stage two
  bool lora = false;                          // routers and adapters, in place of every weight
  LoraOptions adapters;
  uint64_t seed = 0;
  int threads = 0;  // 0: one per physical core
};

// The weight w of zero experts in the group loss whose least lies at this share of zero experts: with N
// experts and Z zero experts it is w Z / (N + w Z).
double zero_weight_for(double zero_rate, int64_t experts, int64_t zero_experts);

class Adaptation {
 public:
  // Opens the model and the data. kInvalid: options out of range, a model that is not injected or was adapted
  // already, data without prompts that leave room for an answer.
  static Result<std::unique_ptr<Adaptation>> open(const AdaptationOptions& options);
  ~Adaptation();

  // The teacher's answers to all prompts, into out/answers.jsonl; those that are there already are kept.
  // progress: answers done and in total.
  Status sample(const JobProgress& progress);
  // The stages; sample() must have returned. Both write the model into out. The second goes on from where the
  // first one ended, and the first one's job must live until then.
  Result<std::unique_ptr<TrainingJob>> supervised();
  Result<std::unique_ptr<TrainingJob>> on_policy();

 private:
  struct Impl;
  explicit Adaptation(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moebius
