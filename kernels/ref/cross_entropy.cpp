#include <algorithm>
#include <cmath>

#include "kernels/grad_ops.h"

namespace moebius::ref {

void cross_entropy(const CrossEntropyArgs& args) {
  const int64_t vocab = args.logits.shape[1];
  for (int64_t t = 0; t < args.logits.shape[0]; ++t) {
    float* logits = args.logits.f32() + t * args.logits.stride[0];
    const int32_t target = args.targets.i32()[t * args.targets.stride[0]];
    if (!args.hits.empty())
      args.hits.i32()[t * args.hits.stride[0]] =
          target >= 0 && std::none_of(logits, logits + vocab, [&](float x) { return x > logits[target]; });
    float& loss = args.loss.f32()[t * args.loss.stride[0]];
    if (target < 0) {
      std::fill(logits, logits + vocab, 0.0f);
      loss = 0;
      continue;
    }
    const double weight = args.weights.empty() ? 1.0 : args.weights.f32()[t * args.weights.stride[0]];
    const double highest = *std::max_element(logits, logits + vocab);
    double sum = 0;
    for (int64_t i = 0; i < vocab; ++i) sum += std::exp(logits[i] - highest);
    loss = static_cast<float>(weight * (std::log(sum) - (logits[target] - highest)));
    for (int64_t i = 0; i < vocab; ++i) {
      const double p = std::exp(logits[i] - highest) / sum;
      logits[i] = static_cast<float>(weight * (i == target ? p - 1.0 : p));
    }
  }
}

}  // namespace moebius::ref
