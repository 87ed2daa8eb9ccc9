#include <limits>

#include "kernels/cuda/product.h"

namespace moebius::cuda {
namespace {

constexpr int kWarps = 4;  // tokens in a block
constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr float kTaken = std::numeric_limits<float>::quiet_NaN();

struct Routing {
  float* scores;     // [n, rows]: logits at first
  float* selection;  // [n, rows]
  float* groups;     // [n, n_group]
  const float* bias;
  int32_t *ids, *chosen;
  const int32_t* forced;
  float* weights;
  int64_t n, rows, k, n_experts, n_group, topk_group;
  int64_t ids_stride, weights_stride, chosen_stride, forced_stride;
  Scoring scoring;
  GroupScore group_score;
  bool normalize;
  float scale, skip_below, skip_odd_below;
};

__device__ float key_of(float value) { return value != value ? kLowest : value; }

__device__ void score(float* logits, int64_t rows, Scoring scoring) {
  if (scoring == Scoring::kSigmoid) {
    for (int64_t e = lane(); e < rows; e += kWarp) logits[e] = 1.0f / (1.0f + expf(-logits[e]));
    return;
  }
  float highest = kLowest, sum = 0;
  for (int64_t e = lane(); e < rows; e += kWarp) highest = fmaxf(highest, logits[e]);
  highest = warp_max(highest);
  for (int64_t e = lane(); e < rows; e += kWarp) sum += logits[e] = expf(logits[e] - highest);
  sum = warp_sum(sum);
  for (int64_t e = lane(); e < rows; e += kWarp) logits[e] /= sum;
}

// The largest of `count` keys that is not taken yet, ties by lower index, is taken; every lane gets its
// index. A lane reads and writes only keys of its own.
__device__ int32_t take_largest(float* keys, int64_t count) {
  float best = kLowest;
  int32_t index = INT32_MAX;
  for (int64_t i = lane(); i < count; i += kWarp) {
    const float key = keys[i];
    if (key > best || (key == best && index == INT32_MAX)) best = key, index = static_cast<int32_t>(i);
  }
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const float other = shuffle_xor(best, mask);
    const int32_t other_index = shuffle_xor(index, mask);
    if (other > best || (other == best && other_index < index)) best = other, index = other_index;
  }
  if (index % kWarp == lane()) keys[index] = kTaken;
  return index;
}

// A lane to a group: its value is the largest of its keys, or the sum of the two largest.
__device__ void score_groups(const float* keys, float* groups, int64_t n_group, int64_t size, bool two) {
  for (int64_t g = lane(); g < n_group; g += kWarp) {
    float first = kLowest, second = kLowest;
    for (int64_t i = 0; i < size; ++i) {
      const float key = keys[g * size + i];
      second = fmaxf(second, fminf(first, key));
      first = fmaxf(first, key);
    }
    groups[g] = key_of(two ? first + second : first);
  }
}

// A warp to a token. Its lanes share what they write by warp barriers.
__global__ void route(Routing r) {
  const int64_t t = block_x() * kWarps + warp();
  if (t >= r.n) return;
  float *scores = r.scores + t * r.rows, *selection = r.selection + t * r.rows;
  score(scores, r.rows, r.scoring);
  for (int64_t e = lane(); e < r.rows; e += kWarp)
    selection[e] = key_of(r.bias ? scores[e] + r.bias[e] : scores[e]);
  warp_barrier();
  if (r.group_score != GroupScore::kNone) {
    float* groups = r.groups + t * r.n_group;
    const int64_t size = r.rows / r.n_group;
    score_groups(selection, groups, r.n_group, size, r.group_score == GroupScore::kTop2Sum && size > 1);
    warp_barrier();
    for (int64_t i = 0; i < r.topk_group; ++i) take_largest(groups, r.n_group);
    warp_barrier();
    const float masked = r.group_score == GroupScore::kMax ? 0.0f : kLowest;
    for (int64_t e = lane(); e < r.rows; e += kWarp)
      if (groups[e / size] == groups[e / size]) selection[e] = masked;
  }

  int32_t* ids = r.ids + t * r.ids_stride;
  float* weights = r.weights + t * r.weights_stride;
  float sum = 0;
  for (int64_t s = 0; s < r.k; ++s) {
    const int32_t e = r.forced ? r.forced[t * r.forced_stride + s] : take_largest(selection, r.rows);
    sum += scores[e];
    if (s % kWarp == lane()) ids[s] = e, weights[s] = scores[e];
  }
  for (int64_t s = lane(); s < r.k; s += kWarp) {  // what this lane has written
    const int32_t e = ids[s];
    const float below = e % 2 == 1 ? fmaxf(r.skip_below, r.skip_odd_below) : r.skip_below;
    const bool zero = e >= r.n_experts || weights[s] / (sum + 1e-20f) < below;
    if (r.chosen) r.chosen[t * r.chosen_stride + s] = e;
    if (zero) ids[s] = -1;
    weights[s] = zero ? 0.0f : (r.normalize ? weights[s] / (sum + 1e-20f) : weights[s]) * r.scale;
  }
}

}  // namespace

// Reads the gate once for every eight tokens and x once for every 32 rows of it, all but the first from the
// second level of cache; the logits, 4 bytes a row and token, stay there until they are chosen from.
void router(Context& context, const RouterArgs& args) {
  const int64_t n = args.x.shape[0], rows = args.gate.rows;
  if (n == 0 || rows == 0) return;
  const int64_t numbers = n * (2 * rows + args.n_group);
  float* memory = static_cast<float*>(context.scratch(numbers * static_cast<int64_t>(sizeof(float))));
  if (!memory) return;

  Product product;
  product.w = weight_of(args.gate);
  product.in = inputs_of(args.x.f32(), args.x.stride[0]);
  product.y = memory, product.ldy = rows;
  product.n = n, product.rows = rows;
  with_format(args.gate.format, [&]<Format F>() { launch_product<F, false>(context, product, 1); });

  Routing r{};
  r.scores = memory, r.selection = memory + n * rows, r.groups = memory + 2 * n * rows;
  r.bias = args.bias.empty() ? nullptr : args.bias.f32();
  r.ids = args.ids.i32(), r.weights = args.weights.f32();
  r.chosen = args.chosen.empty() ? nullptr : args.chosen.i32();
  r.forced = args.forced.empty() ? nullptr : args.forced.i32();
  r.n = n, r.rows = rows, r.k = args.ids.shape[1], r.n_experts = args.n_experts;
  r.n_group = args.n_group, r.topk_group = args.topk_group;
  r.ids_stride = args.ids.stride[0], r.weights_stride = args.weights.stride[0];
  r.chosen_stride = args.chosen.stride[0], r.forced_stride = args.forced.stride[0];
  r.scoring = args.scoring, r.group_score = args.group_score;
  r.normalize = args.normalize, r.scale = args.scale;
  r.skip_below = args.skip_below, r.skip_odd_below = args.skip_odd_below;
  launch(context.compute(), route, Grid{blocks_for(n, kWarps)}, kWarps * kWarp, 0, r);
}

}  // namespace moebius::cuda
