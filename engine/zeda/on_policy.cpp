#include "engine/zeda/on_policy.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

namespace moebius {

// The prompts of a step, each `samples` times; an epoch ends with its last whole step.
std::vector<std::vector<int32_t>> OnPolicySteps::choose(BatchPosition& position) {
  if (order_epoch_ != position.epoch) {
    order_.resize(prompts_.size());
    std::iota(order_.begin(), order_.end(), int64_t{0});
    shuffle_for_epoch(order_, options_.seed, position.epoch);
    order_epoch_ = position.epoch;
  }
  std::vector<std::vector<int32_t>> chosen;
  const int64_t count = std::min(options_.prompts, std::ssize(order_));
  for (int64_t i = 0; i < count; ++i) {
    const auto& prompt = prompts_[static_cast<size_t>(order_[static_cast<size_t>(position.index + i)])];
    for (int64_t s = 0; s < options_.samples; ++s) chosen.push_back(prompt);
  }
  position.index += count;
  if (position.index + count > std::ssize(order_)) position = {position.epoch + 1, 0};
  return chosen;
}

// At the end of the last micro-batch, or of a new one where it is full. Weights are the student's
// log-probabilities until weigh().
void OnPolicySteps::add(const std::vector<int32_t>& prompt, const SampledAnswer& answer,
                        std::vector<MicroBatch>& micro) const {
  const int64_t rows = std::ssize(prompt) + std::ssize(answer.ids) - 1;
  if (rows < 1 || answer.ids.empty()) return;
  if (micro.empty() || std::ssize(micro.back().ids) + rows > options_.micro_tokens)
    micro.emplace_back().starts.push_back(0);
  MicroBatch& m = micro.back();
  std::vector<int32_t> ids = prompt;
  ids.insert(ids.end(), answer.ids.begin(), answer.ids.end());
  m.ids.insert(m.ids.end(), ids.begin(), ids.end() - 1);
  const bool known = routing_.read(std::span(ids).first(static_cast<size_t>(rows)), m.routing);
  MOEBIUS_CHECK(known, "an answer whose routing was not kept");
  for (int64_t t = 0; t < rows; ++t) {
    const int64_t of_answer = t + 1 - std::ssize(prompt);
    m.targets.push_back(of_answer >= 0 ? ids[static_cast<size_t>(t + 1)] : -1);
    m.weights.push_back(of_answer >= 0 ? answer.logprobs[static_cast<size_t>(of_answer)] : 0);
  }
  m.counted += std::ssize(answer.ids);
  m.starts.push_back(std::ssize(m.ids));
}

Status OnPolicySteps::weigh(MicroBatch& m) {
  MOEBIUS_ASSIGN(const std::vector<float> losses, teacher_.losses({m.ids, m.targets, {}, m.starts}));
  double divergence = 0;
  for (size_t i = 0; i < losses.size(); ++i) {
    if (m.targets[i] < 0) continue;
    const float advantage = -losses[i] - m.weights[i];
    divergence -= static_cast<double>(advantage);
    m.weights[i] = advantage;
  }
  m.reported = divergence;
  return Status();
}

Result<std::vector<MicroBatch>> OnPolicySteps::next(BatchPosition& position) {
  SampleOptions how;
  how.temperature = options_.temperature;
  how.seed = options_.seed;
  how.first = (position.epoch * std::ssize(prompts_) + position.index) * options_.samples;
  how.max_tokens = options_.max_tokens;
  how.state = fmt::format("{} {}", position.epoch, position.index);
  const std::vector<std::vector<int32_t>> prompts = choose(position);
  routing_.clear();
  std::vector<MicroBatch> micro;
  MOEBIUS_TRY(sampler_.run(prompts, how, [&](int64_t i, const SampledAnswer& answer) {
    add(prompts[static_cast<size_t>(i)], answer, micro);
    return Status();
  }));
  for (MicroBatch& m : micro) MOEBIUS_TRY(weigh(m));
  return micro;
}

}  // namespace moebius
