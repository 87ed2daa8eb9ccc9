// Gradients of the router's logits: through the weights of the chosen slots, and of the balance loss. Both
// are small beside everything else and full of differences of like numbers: they are computed in double.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cuda/context.h"

namespace moebius::cuda {
namespace {

constexpr int kWarps = 4;  // tokens in a block
constexpr int kCountThreads = 256;

__device__ double warp_sum_f64(double value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

// The scores of a token: score(e) from its logits, after what they share has been found by its warp.
struct Scores {
  const float* logits;
  Scoring scoring;
  double highest = 0, sum = 1;

  __device__ Scores(const float* row, int64_t rows, Scoring how) : logits(row), scoring(how) {
    if (scoring == Scoring::kSigmoid) return;
    float top = -INFINITY;
    for (int64_t e = lane(); e < rows; e += kWarp) top = fmaxf(top, logits[e]);
    highest = warp_max(top);
    double mine = 0;
    for (int64_t e = lane(); e < rows; e += kWarp) mine += exp(logits[e] - highest);
    sum = warp_sum_f64(mine);
  }
  __device__ double operator[](int64_t e) const {
    if (scoring == Scoring::kSigmoid) return 1.0 / (1.0 + exp(-static_cast<double>(logits[e])));
    return exp(logits[e] - highest) / sum;
  }
};

struct RouterGradient {
  const float* logits;
  const int32_t* ids;
  const float* dweights;
  float* dlogits;
  int64_t n, rows, k, n_experts;
  int64_t logits_stride, ids_stride, dweights_stride, dlogits_stride;
  Scoring scoring;
  bool normalize;
  float scale;
};

// A warp to a token.
__global__ void router_gradient(RouterGradient r) {
  const int64_t t = block_x() * kWarps + warp();
  if (t >= r.n) return;
  const int32_t* ids = r.ids + t * r.ids_stride;
  const float* dweights = r.dweights + t * r.dweights_stride;
  const Scores scores(r.logits + t * r.logits_stride, r.rows, r.scoring);
  const auto dweight = [&](int64_t s) {  // zero experts' weights are constants
    return ids[s] < r.n_experts ? static_cast<double>(r.scale) * dweights[s] : 0.0;
  };
  double sum = 0, weighted = 0;
  for (int64_t s = lane(); s < r.k; s += kWarp) {
    const double score = scores[ids[s]];
    sum += score, weighted += dweight(s) * score;
  }
  sum = warp_sum_f64(sum) + 1e-20, weighted = warp_sum_f64(weighted);
  const auto dscore = [&](int64_t e) {
    for (int64_t s = 0; s < r.k; ++s) {
      if (ids[s] != e) continue;
      return r.normalize ? (dweight(s) - weighted / sum) / sum : dweight(s);
    }
    return 0.0;
  };
  double mean = 0;
  if (r.scoring == Scoring::kSoftmax) {
    for (int64_t s = lane(); s < r.k; s += kWarp) mean += scores[ids[s]] * dscore(ids[s]);
    mean = warp_sum_f64(mean);
  }
  float* dlogits = r.dlogits + t * r.dlogits_stride;
  for (int64_t e = lane(); e < r.rows; e += kWarp) {
    const double score = scores[e], d = dscore(e);
    const double slope = r.scoring == Scoring::kSigmoid ? d * (1.0 - score) : d - mean;
    dlogits[e] = static_cast<float>(dlogits[e] + score * slope);
  }
}

struct BalanceGradient {
  const float* logits;
  const int32_t* ids;
  const int64_t* starts;
  const int32_t* sequence;  // [n]: of each token
  int32_t* counts;          // [sequences, rows]: slots that chose the row
  float* dlogits;
  int64_t n, rows, k, n_experts;
  int64_t logits_stride, ids_stride, dlogits_stride;
  Scoring scoring;
  float alpha, zero_weight;
};

// A block to a row of the gate and a sequence: its ids come from the cache for all rows but the first.
__global__ void count_chosen(BalanceGradient b) {
  MOEBIUS_SHARED(int32_t, partial, kCountThreads / kWarp);
  const int64_t sequence = block_x() / b.rows, row = block_x() % b.rows;
  int32_t count = 0;
  for (int64_t i = b.starts[sequence] * b.k + thread(); i < b.starts[sequence + 1] * b.k; i += kCountThreads)
    count += b.ids[i / b.k * b.ids_stride + i % b.k] == row;
  for (int mask = kWarp / 2; mask > 0; mask /= 2) count += shuffle_xor(count, mask);
  if (lane() == 0) partial[warp()] = count;
  barrier();
  if (thread() > 0) return;
  int32_t total = 0;
  for (int w = 0; w < kCountThreads / kWarp; ++w) total += partial[w];
  b.counts[block_x()] = total;
}

// A warp to a token. A row's part of the loss is that of its group's, where there are groups.
__global__ void balance_gradient(BalanceGradient b) {
  const int64_t t = block_x() * kWarps + warp();
  if (t >= b.n) return;
  const int64_t sequence = b.sequence[t];
  const int32_t* counts = b.counts + sequence * b.rows;
  const double tokens = static_cast<double>(b.starts[sequence + 1] - b.starts[sequence]);
  const double weight = static_cast<double>(b.alpha) * static_cast<double>(b.rows) /
                        (static_cast<double>(b.k) * tokens * tokens);
  double of_real = 0, of_zero = 0;
  if (b.zero_weight > 0) {
    const double real = static_cast<double>(b.n_experts);
    const double zero = static_cast<double>(b.zero_weight) * (static_cast<double>(b.rows) - real);
    const double scale = weight * (real + zero) / static_cast<double>(b.rows);
    for (int64_t e = lane(); e < b.rows; e += kWarp) (e < b.n_experts ? of_real : of_zero) += counts[e];
    of_real = warp_sum_f64(of_real) * scale / real, of_zero = warp_sum_f64(of_zero) * scale / zero;
  }
  const auto dshare = [&](int64_t e) {
    if (b.zero_weight > 0) return e < b.n_experts ? of_real : of_zero;
    return weight * counts[e];
  };
  const Scores scores(b.logits + t * b.logits_stride, b.rows, b.scoring);
  double sum = 0, mean = 0;
  for (int64_t e = lane(); e < b.rows; e += kWarp) {
    const double score = scores[e];
    sum += score, mean += score * dshare(e);
  }
  sum = warp_sum_f64(sum), mean = warp_sum_f64(mean) / sum;
  float* dlogits = b.dlogits + t * b.dlogits_stride;
  for (int64_t e = lane(); e < b.rows; e += kWarp) {
    const double score = scores[e], slope = b.scoring == Scoring::kSigmoid ? 1.0 - score : 1.0;
    dlogits[e] = static_cast<float>(dlogits[e] + score / sum * slope * (dshare(e) - mean));
  }
}

}  // namespace

// Reads the logits, and reads and writes their gradients: 12 bytes a number.
void router_backward(Context& context, const RouterBackwardArgs& args) {
  const int64_t n = args.logits.shape[0], rows = args.logits.shape[1];
  if (n == 0 || rows == 0) return;
  RouterGradient r{};
  r.logits = args.logits.f32(), r.ids = args.ids.i32(), r.dweights = args.dweights.f32();
  r.dlogits = args.dlogits.f32();
  r.n = n, r.rows = rows, r.k = args.ids.shape[1], r.n_experts = args.n_experts;
  r.logits_stride = args.logits.stride[0], r.ids_stride = args.ids.stride[0];
  r.dweights_stride = args.dweights.stride[0], r.dlogits_stride = args.dlogits.stride[0];
  r.scoring = args.scoring, r.normalize = args.normalize, r.scale = args.scale;
  launch(context.compute(), router_gradient, Grid{blocks_for(n, kWarps)}, kWarps * kWarp, 0, r);
}

// Reads the logits, and reads and writes their gradients: 12 bytes a number; ids come from the cache.
void balance_backward(Context& context, const BalanceBackwardArgs& args) {
  const int64_t n = args.logits.shape[0], rows = args.logits.shape[1];
  const int64_t sequences = std::ssize(args.starts) - 1;
  if (n == 0 || rows == 0) return;
  std::vector<int32_t> sequence(static_cast<size_t>(n));
  for (int64_t s = 0; s < sequences; ++s)
    std::fill(sequence.begin() + args.starts[static_cast<size_t>(s)],
              sequence.begin() + args.starts[static_cast<size_t>(s) + 1], static_cast<int32_t>(s));
  BalanceGradient b{};
  b.logits = args.logits.f32(), b.ids = args.ids.i32(), b.dlogits = args.dlogits.f32();
  b.starts = context.upload(args.starts.data(), sequences + 1);
  b.sequence = context.upload(sequence.data(), n);
  b.counts = static_cast<int32_t*>(context.scratch(sequences * rows * static_cast<int64_t>(sizeof(int32_t))));
  if (!b.starts || !b.sequence || !b.counts) return;
  b.n = n, b.rows = rows, b.k = args.ids.shape[1], b.n_experts = args.n_experts;
  b.logits_stride = args.logits.stride[0], b.ids_stride = args.ids.stride[0];
  b.dlogits_stride = args.dlogits.stride[0];
  b.scoring = args.scoring, b.alpha = args.alpha, b.zero_weight = args.zero_weight;
  launch(context.compute(), count_chosen, Grid{sequences * rows}, kCountThreads, 0, b);
  launch(context.compute(), balance_gradient, Grid{blocks_for(n, kWarps)}, kWarps * kWarp, 0, b);
}

}  // namespace moebius::cuda
