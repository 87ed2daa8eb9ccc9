// Softmax cross-entropy: a pass over the logits that finds the largest and the sum of exponentials as it
// goes, and a pass that turns them into their gradients. A row is cut into pieces, so that few rows fill the
// device.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "kernels/cuda/elementwise.h"

namespace moebius::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int64_t kLeastPiece = 16 * kThreads;  // numbers of a row
constexpr int64_t kMostPieces = 32;             // of a row

// Of some numbers of a row: the largest, and the sum of exp(number - highest) over all but the target, so
// that what a confident model is wrong by keeps its digits. The sum is double, since a row may have hundreds
// of thousands of terms.
struct Softmax {
  double others;
  float highest;
};
constexpr Softmax kNothing{0, -FLT_MAX};  // finite, so that numbers of -infinity count as 0

__device__ Softmax joined(const Softmax& a, const Softmax& b) {
  const float top = fmaxf(a.highest, b.highest);
  return {a.others * expf(a.highest - top) + b.others * expf(b.highest - top), top};
}

struct Entropy {
  float* logits;
  const int32_t* targets;
  const float* weights;  // or null
  float* loss;
  int32_t* hits;         // or null
  Softmax* parts;        // [n, pieces]
  float* targets_logit;  // [n]: kept, since the logits are overwritten
  int64_t vocab, pieces, piece;
  int64_t logits_stride, targets_stride, weights_stride, loss_stride, hits_stride;
};

template <int N>
__global__ void find_softmax(Entropy e) {
  MOEBIUS_SHARED(Softmax, partial, kWarps);
  const int64_t row = block_x() / e.pieces, part = block_x() % e.pieces;
  const int32_t target = e.targets[row * e.targets_stride];
  if (target < 0) return;
  const float* logits = e.logits + row * e.logits_stride;
  const int64_t begin = part * e.piece, end = begin + e.piece < e.vocab ? begin + e.piece : e.vocab;
  Softmax mine = kNothing;
  for (int64_t i = begin + N * thread(); i < end; i += N * kThreads) {
    const Floats<N> v = load<N>(logits + i);
    float top = v.at[0];
    for (int k = 1; k < N; ++k) top = fmaxf(top, v.at[k]);
    if (top > mine.highest) mine.others *= expf(mine.highest - top), mine.highest = top;
    float sum = 0;
    for (int k = 0; k < N; ++k) sum += i + k == target ? 0.0f : expf(v.at[k] - mine.highest);
    mine.others += sum;
  }
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const Softmax other{shuffle_xor(mine.others, mask), shuffle_xor(mine.highest, mask)};
    mine = (lane() & mask) == 0 ? joined(mine, other) : joined(other, mine);  // the same for both
  }
  if (lane() == 0) partial[warp()] = mine;
  barrier();
  if (thread() > 0) return;
  if (part == 0) e.targets_logit[row] = logits[target];
  Softmax all = partial[0];
  for (int w = 1; w < kWarps; ++w) all = joined(all, partial[w]);
  e.parts[block_x()] = all;
}

template <int N>
__global__ void write_gradient(Entropy e) {
  const int64_t row = block_x() / e.pieces, part = block_x() % e.pieces;
  const int32_t target = e.targets[row * e.targets_stride];
  float* logits = e.logits + row * e.logits_stride;
  const int64_t begin = part * e.piece, end = begin + e.piece < e.vocab ? begin + e.piece : e.vocab;
  if (target < 0) {
    for (int64_t i = begin + N * thread(); i < end; i += N * kThreads) store(logits + i, Floats<N>{});
    if (part > 0 || thread() > 0) return;
    e.loss[row * e.loss_stride] = 0;
    if (e.hits) e.hits[row * e.hits_stride] = 0;
    return;
  }
  Softmax all = kNothing;
  for (int64_t p = 0; p < e.pieces; ++p) all = joined(all, e.parts[row * e.pieces + p]);
  const double weight = e.weights ? e.weights[row * e.weights_stride] : 1.0f;
  const double off = static_cast<double>(e.targets_logit[row]) - all.highest, mine = exp(off);
  const double sum = all.others + mine;
  const float factor = static_cast<float>(weight / sum);
  for (int64_t i = begin + N * thread(); i < end; i += N * kThreads) {
    Floats<N> v = load<N>(logits + i);
    for (int k = 0; k < N; ++k)
      v.at[k] = i + k == target ? static_cast<float>(-weight * (all.others / sum))
                                : expf(v.at[k] - all.highest) * factor;
    store(logits + i, v);
  }
  if (part > 0 || thread() > 0) return;
  e.loss[row * e.loss_stride] =
      static_cast<float>(weight * (mine > all.others ? log1p(all.others / mine) : log(sum) - off));
  if (e.hits) e.hits[row * e.hits_stride] = off >= 0;
}

}  // namespace

// Reads the logits twice and writes them once: 12 bytes a number.
void cross_entropy(Context& context, const CrossEntropyArgs& args) {
  const int64_t n = args.logits.shape[0], vocab = args.logits.shape[1];
  if (n == 0 || vocab == 0) return;
  Entropy e{};
  e.logits = args.logits.f32(), e.targets = args.targets.i32(), e.loss = args.loss.f32();
  e.weights = args.weights.empty() ? nullptr : args.weights.f32();
  e.hits = args.hits.empty() ? nullptr : args.hits.i32(), e.hits_stride = args.hits.stride[0];
  e.vocab = vocab;
  const int64_t wanted = blocks_for(4 * int64_t{context.multiprocessors()}, n);
  const int64_t most = std::max<int64_t>(1, std::min(kMostPieces, vocab / kLeastPiece));
  e.piece = blocks_for(blocks_for(vocab, std::min(wanted, most)), 4) * 4;
  e.pieces = blocks_for(vocab, e.piece);
  e.logits_stride = args.logits.stride[0], e.targets_stride = args.targets.stride[0];
  e.weights_stride = args.weights.stride[0], e.loss_stride = args.loss.stride[0];
  e.parts = static_cast<Softmax*>(context.scratch(n * e.pieces * static_cast<int64_t>(sizeof(Softmax))));
  e.targets_logit = static_cast<float*>(context.scratch(n * static_cast<int64_t>(sizeof(float))));
  if (!e.parts || !e.targets_logit) return;
  const bool wide = vocab % 4 == 0 && aligned_rows(args.logits);
  launch(context.compute(), wide ? find_softmax<4> : find_softmax<1>, Grid{n * e.pieces}, kThreads, 0, e);
  launch(context.compute(), wide ? write_gradient<4> : write_gradient<1>, Grid{n * e.pieces}, kThreads, 0, e);
}

}  // namespace moebius::cuda
