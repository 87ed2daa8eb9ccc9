#include "tools/eval_score.h"

#include <algorithm>
#include <cmath>

namespace moebius {
namespace {

struct Softmax {
  double highest = 0, log_sum = 0;  // ln of the sum of exponentials relative to the highest
  size_t top = 0;
  double log_share(float logit) const { return static_cast<double>(logit) - highest - log_sum; }
};

Result<Softmax> softmax_of(std::span<const float> logits) {
  Softmax out;
  bool finite = true;
  for (size_t i = 0; i < logits.size(); ++i) {
    finite = finite && std::isfinite(logits[i]);
    if (logits[i] > logits[out.top]) out.top = i;
  }
  if (!finite || logits.empty()) {
    return invalid("the model gives logits that are not finite; the checkpoint is damaged or overflows");
  }
  out.highest = logits[out.top];
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - out.highest);
  out.log_sum = std::log(sum);
  return out;
}

}  // namespace

std::vector<Window> plan_windows(int64_t tokens, int64_t size, int64_t stride, bool prefixed) {
  std::vector<Window> windows;
  int64_t reached = 0;
  for (int64_t begin = 0; reached < tokens; begin += stride) {
    const int64_t end = std::min(begin + size, tokens);
    const int64_t scored = std::max(reached, prefixed ? begin : begin + 1);
    if (scored < end) windows.push_back({begin, end, scored});
    reached = end;
  }
  return windows;
}

Result<double> token_nats(std::span<const float> logits, int32_t id) {
  MOEBIUS_CHECK(id >= 0 && static_cast<size_t>(id) < logits.size());
  MOEBIUS_ASSIGN(const Softmax softmax, softmax_of(logits));
  return -softmax.log_share(logits[static_cast<size_t>(id)]);
}

Result<Comparison> compare_rows(std::span<const float> reference, std::span<const float> model) {
  MOEBIUS_CHECK(reference.size() == model.size());
  MOEBIUS_ASSIGN(const Softmax p, softmax_of(reference));
  MOEBIUS_ASSIGN(const Softmax q, softmax_of(model));
  double divergence = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double log_p = p.log_share(reference[i]);
    divergence += std::exp(log_p) * (log_p - q.log_share(model[i]));
  }
  return Comparison{std::max(divergence, 0.), p.top == q.top};
}

Distribution summarize(std::vector<double> values) {
  MOEBIUS_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const auto quantile = [&](double share) {
    const double rank = share * static_cast<double>(values.size() - 1);
    const size_t below = static_cast<size_t>(rank);
    const double above = values[std::min(below + 1, values.size() - 1)];
    return values[below] + (rank - static_cast<double>(below)) * (above - values[below]);
  };
  double sum = 0;
  for (double value : values) sum += value;
  return {sum / static_cast<double>(values.size()), quantile(0.5), quantile(0.99), values.back()};
}

}  // namespace moebius
