#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/ops.h"

namespace moebius::ref {
namespace {

// Indices of the `count` largest values, ties and NaN (which counts as -infinity) by lower index.
std::vector<int64_t> largest(const std::vector<float>& values, int64_t count) {
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  const auto key = [&](int64_t i) { return std::isnan(values[i]) ? -INFINITY : values[i]; };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return key(a) > key(b); });
  order.resize(static_cast<size_t>(count));
  return order;
}

void score(std::vector<float>& logits, Scoring scoring) {
  if (scoring == Scoring::kSigmoid) {
    for (float& x : logits) x = 1.0f / (1.0f + std::exp(-x));
    return;
  }
  const float highest = *std::max_element(logits.begin(), logits.end());
  float sum = 0;
  for (float& x : logits) sum += x = std::exp(x - highest);
  for (float& x : logits) x /= sum;
}

void mask_groups(std::vector<float>& selection, const RouterArgs& args) {
  const int64_t size = static_cast<int64_t>(selection.size()) / args.n_group;
  std::vector<float> value(static_cast<size_t>(args.n_group));
  for (int64_t g = 0; g < args.n_group; ++g) {
    const std::vector<float> members(selection.begin() + g * size, selection.begin() + (g + 1) * size);
    const bool two = args.group_score == GroupScore::kTop2Sum && size > 1;
    const std::vector<int64_t> best = largest(members, two ? 2 : 1);
    value[g] = two ? members[best[0]] + members[best[1]] : members[best[0]];
  }
  std::vector<bool> kept(static_cast<size_t>(args.n_group));
  for (const int64_t g : largest(value, args.topk_group)) kept[g] = true;
  const float masked = args.group_score == GroupScore::kMax ? 0.0f : -INFINITY;
  for (size_t e = 0; e < selection.size(); ++e)
    if (!kept[e / size]) selection[e] = masked;
}

}  // namespace

void router(const RouterArgs& args, bool) {
  const int64_t n = args.x.shape[0], rows = args.gate.rows, k = args.ids.shape[1];
  const FormatKernels& kernels = format_kernels(args.gate.format).back();
  for (int64_t t = 0; t < n; ++t) {
    std::vector<float> scores(static_cast<size_t>(rows));
    Activations x;
    x.x = args.x.f32() + t * args.x.stride[0], x.ld = args.gate.cols, x.cols = args.gate.cols;
    kernels.dot_rows(args.gate, 0, rows, x, nullptr, 1, scores.data(), rows);
    score(scores, args.scoring);
    std::vector<float> selection = scores;
    if (!args.bias.empty())
      for (int64_t e = 0; e < rows; ++e) selection[e] += args.bias.f32()[e];
    if (args.group_score != GroupScore::kNone) mask_groups(selection, args);

    std::vector<int64_t> chosen = largest(selection, k);
    for (int64_t s = 0; s < k && !args.forced.empty(); ++s)
      chosen[s] = args.forced.i32()[t * args.forced.stride[0] + s];
    float sum = 0;
    for (const int64_t e : chosen) sum += scores[e];
    for (int64_t s = 0; s < k; ++s) {
      const int64_t e = chosen[s];
      const float weight = (args.normalize ? scores[e] / (sum + 1e-20f) : scores[e]) * args.scale;
      const float share = scores[e] / (sum + 1e-20f);
      const bool zero =
          e >= args.n_experts || share < args.skip_below || (e % 2 == 1 && share < args.skip_odd_below);
      args.ids.i32()[t * args.ids.stride[0] + s] = zero ? -1 : static_cast<int32_t>(e);
      args.weights.f32()[t * args.weights.stride[0] + s] = zero ? 0.0f : weight;
      if (!args.chosen.empty()) args.chosen.i32()[t * args.chosen.stride[0] + s] = static_cast<int32_t>(e);
    }
  }
}

}  // namespace moebius::ref
