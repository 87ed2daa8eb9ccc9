// OnPolicySteps: steps of on-policy distillation. The student answers some prompts, and each of its tokens
// weighs as much as the teacher thinks more of it than the student does: the gradient of the reverse
// Kullback-Leibler divergence as a policy's (ZEDA's second stage; Agarwal et al., arXiv 2306.13649). The step
// goes through the experts that the answers were sampled with, so that it weighs the policy that they are of.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/routing_log.h"
#include "engine/train/batches.h"
#include "engine/train/pass.h"
#include "engine/zeda/answers.h"

namespace moebius {

struct OnPolicyOptions {
  int64_t prompts = 16, samples = 2;  // of a step
  int64_t max_tokens = 512;           // of an answer
  int64_t micro_tokens = 4096;
  float temperature = 1;
  uint64_t seed = 0;
};

class OnPolicySteps final : public StepSource {
 public:
  // student: an engine on the weights that are trained, whose routing goes to the log. teacher: of
  // micro_tokens. All outlive this.
  OnPolicySteps(std::span<const std::vector<int32_t>> prompts, Engine& student, RoutingLog& routing,
                TrainingPass& teacher, const OnPolicyOptions& options)
      : prompts_(prompts), sampler_(student), routing_(routing), teacher_(teacher), options_(options) {}

  // A step reports the mean of log p_student - log p_teacher over its tokens, an estimate of the divergence.
  Result<std::vector<MicroBatch>> next(BatchPosition& position) override;

 private:
  std::vector<std::vector<int32_t>> choose(BatchPosition& position);
  void add(const std::vector<int32_t>& prompt, const SampledAnswer& answer,
           std::vector<MicroBatch>& micro) const;
  Status weigh(MicroBatch& batch);

  std::span<const std::vector<int32_t>> prompts_;
  AnswerSampler sampler_;
  RoutingLog& routing_;
  TrainingPass& teacher_;
  OnPolicyOptions options_;
  std::vector<int64_t> order_;
  int64_t order_epoch_ = -1;
};

}  // namespace moebius
