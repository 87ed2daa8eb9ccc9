// AnswerSampler: answers of a model in token ids, many at once by the scheduler.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace moebius {

class Scheduler;

struct SampledAnswer {
  std::vector<int32_t> ids;     // a final stop id included
  std::vector<float> logprobs;  // of each id, by the model at temperature 1
  bool ended = false;           // by a stop id, not by the length
};

struct SampleOptions {
  float temperature = 1;
  uint64_t seed = 0;         // prompt i uses a seed that follows from this and first + i
  int64_t first = 0;         // number of the first prompt
  int64_t max_tokens = 512;  // of an answer; less where the context ends
  std::string state;         // of the weights: what was computed in another state is not used again
};

class AnswerSampler {
 public:
  // engine outlives it, has a tokenizer, and is used by nobody else meanwhile.
  explicit AnswerSampler(Engine& engine);
  ~AnswerSampler();

  // One answer to each prompt, handed out in the order of the prompts. The first error, of the engine or of
  // on_answer, ends it. kInvalid: a prompt without room for a token.
  using OnAnswer = std::function<Status(int64_t prompt, SampledAnswer answer)>;
  Status run(std::span<const std::vector<int32_t>> prompts, const SampleOptions& options,
             const OnAnswer& on_answer);

 private:
  struct Pending;
  Result<bool> submit(const std::vector<int32_t>& prompt, int64_t number, const SampleOptions& options,
                      Pending& pending);
  Status collect(Pending& pending);

  Engine& engine_;
  std::unique_ptr<Scheduler> scheduler_;
};

}  // namespace moebius
