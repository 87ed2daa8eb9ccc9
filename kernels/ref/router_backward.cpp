#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/grad_ops.h"
#include "kernels/ref/router_scores.h"

namespace moebius::ref {
namespace {

// Gradients of the scores: from the chosen ones' weights, and through the sum that normalizes them.
std::vector<double> score_gradients(const RouterBackwardArgs& args, int64_t token,
                                    const std::vector<double>& scores) {
  const int32_t* ids = args.ids.i32() + token * args.ids.stride[0];
  const float* dweights = args.dweights.f32() + token * args.dweights.stride[0];
  std::vector<double> dscores(scores.size());
  double sum = 1e-20, weighted = 0;
  for (int64_t s = 0; s < args.ids.shape[1]; ++s) {
    sum += scores[ids[s]];
    if (ids[s] >= args.n_experts) continue;
    dscores[ids[s]] += static_cast<double>(args.scale) * dweights[s];
    weighted += static_cast<double>(args.scale) * dweights[s] * scores[ids[s]];
  }
  if (!args.normalize) return dscores;
  for (int64_t s = 0; s < args.ids.shape[1]; ++s)
    dscores[ids[s]] = dscores[ids[s]] / sum - weighted / (sum * sum);
  return dscores;
}

}  // namespace

std::vector<double> router_scores(const float* logits, int64_t rows, Scoring scoring) {
  std::vector<double> scores(logits, logits + rows);
  if (scoring == Scoring::kSigmoid) {
    for (double& x : scores) x = 1.0 / (1.0 + std::exp(-x));
    return scores;
  }
  const double highest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& x : scores) sum += x = std::exp(x - highest);
  for (double& x : scores) x /= sum;
  return scores;
}

void router_backward(const RouterBackwardArgs& args) {
  const int64_t rows = args.logits.shape[1];
  for (int64_t t = 0; t < args.logits.shape[0]; ++t) {
    const float* logits = args.logits.f32() + t * args.logits.stride[0];
    float* dlogits = args.dlogits.f32() + t * args.dlogits.stride[0];
    const std::vector<double> scores = router_scores(logits, rows, args.scoring);
    const std::vector<double> dscores = score_gradients(args, t, scores);
    double mean = 0;
    for (int64_t e = 0; e < rows; ++e) mean += scores[e] * dscores[e];
    for (int64_t e = 0; e < rows; ++e) {
      const double slope =
          args.scoring == Scoring::kSigmoid ? dscores[e] * (1.0 - scores[e]) : dscores[e] - mean;
      dlogits[e] = static_cast<float>(dlogits[e] + scores[e] * slope);
    }
  }
}

}  // namespace moebius::ref
