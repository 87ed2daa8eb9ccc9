// Products of a block of threads: R rows of a matrix with up to T tokens.
//
// Both ways read every weight once and a chunk ahead, 16 bytes an access, neighbours in a warp side by side.
// Float formats, and integer ones on activations that are not rounded: a warp to each R / 8 rows, a piece of
// 16 bytes of each to a lane, sums over the lanes at the end. Integer formats on rounded activations: a group
// of 32 columns to a lane; its exact sums go through shared memory to one thread for each (row, token), which
// adds them up in ascending order. So a result depends on its row and its token alone.
#pragma once

#include "kernels/cuda/rows.h"
#include "kernels/cuda/tokens.h"

namespace moebius::cuda {

inline constexpr int kTileBlock = 256;
inline constexpr int kTileWarps = kTileBlock / kWarp;

// Tokens in every form that a format reads them in; a form that nothing asks for is null.
struct Inputs {
  const float* x = nullptr;  // [n, cols], rows ld apart
  int64_t ld = 0;
  bool wide = false;  // rows of x start at multiples of 16 bytes
  Tokens plain, even_odd;
  SplitTokens split;
};
inline Inputs inputs_of(const float* x, int64_t ld) {
  Inputs in;
  in.x = x, in.ld = ld, in.wide = aligned16(x, ld * static_cast<int64_t>(sizeof(float)));
  return in;
}
// Rounds what w needs and is not rounded yet. False: no memory.
inline bool round_for(Context& context, Format format, int64_t n, int64_t cols, Inputs& in) {
  if (!is_integer(format)) return true;
  Tokens& tokens = format == Format::kInt4 ? in.even_odd : in.plain;
  if (!tokens.q) tokens = round_tokens(context, in.x, n, cols, in.ld, order_of(format));
  return tokens.q != nullptr;
}

// Rows [first, end) of a matrix, the first R of them, times these rows of the inputs.
template <int T>
struct TileOf {
  int64_t first = 0, end = 0;
  int64_t token[T];
  int count = 0;  // of tokens
};

template <int Half, int Mask, int N>
__device__ void sum_lanes_step(float (&v)[N]) {
  if constexpr (Mask > 0) {
    if constexpr (Half == 0) {
      v[0] += shuffle_xor(v[0], Mask);
    } else {
      const bool upper = (lane() & Mask) != 0;
      MOEBIUS_UNROLL
      for (int i = 0; i < Half; ++i) {
        const float sent = upper ? v[i] : v[i + Half], kept = upper ? v[i + Half] : v[i];
        v[i] = kept + shuffle_xor(sent, Mask);
      }
    }
    sum_lanes_step<Half / 2, Mask / 2>(v);
  }
}
// Adds v[i] over the lanes of a warp, always in the same order: lane l gets the sum of v[l / (32 / N)] in
// v[0].
template <int N>
__device__ void sum_lanes(float (&v)[N]) {
  sum_lanes_step<N / 2, kWarp / 2>(v);
}

// Elements of shared memory that a tile works in.
template <Format F, bool kRounded, int R, int T>
inline constexpr int kTileFloats = kInteger<F>&& kRounded ? kWarp*(R* T + 1) + kWarp*(R + 1) : R* T;

template <Format F, int R, int T>
__device__ float float_tile(const Weight& w, const TileOf<T>& tile, const Inputs& in,
                            const Shared<float>& shared) {
  constexpr int kRows = R / kTileWarps, kStep = kWarp * kColumns<F>;
  int64_t r[kRows];
  const float* x[T];
  Bytes16 next[kRows];
  float sum[kRows * T];
  const int first = lane() * kColumns<F>;
  MOEBIUS_UNROLL
  for (int j = 0; j < kRows; ++j) {
    const int64_t row = tile.first + warp() * kRows + j;
    r[j] = row < tile.end ? row : tile.end - 1;
    next[j] = load_row16(w, w.row(r[j]), lane() * 16);
  }
  MOEBIUS_UNROLL
  for (int t = 0; t < T; ++t) x[t] = in.x + tile.token[t] * in.ld;
  MOEBIUS_UNROLL
  for (int i = 0; i < kRows * T; ++i) sum[i] = 0;

  for (int c = first; c < w.cols; c += kStep) {
    Bytes16 now[kRows];
    float scale[kRows];
    MOEBIUS_UNROLL
    for (int j = 0; j < kRows; ++j) {
      now[j] = next[j];
      if constexpr (kScaled<F>) scale[j] = scale_at<F>(w, r[j], c);
      next[j] = load_row16(w, w.row(r[j]), int64_t{c + kStep} / kColumns<F> * 16);
    }
    MOEBIUS_UNROLL
    for (int piece = 0; piece < kColumns<F> / 4; ++piece) {
      float value[kRows][4];
      MOEBIUS_UNROLL
      for (int j = 0; j < kRows; ++j) {
        unpack4<F>(now[j], piece, value[j]);
        if constexpr (kScaled<F>) {
          MOEBIUS_UNROLL
          for (int i = 0; i < 4; ++i) value[j][i] *= scale[j];
        }
      }
      MOEBIUS_UNROLL
      for (int t = 0; t < T; ++t) {
        if (t >= tile.count) continue;
        const Bytes16 four = load_floats4(x[t], c + 4 * piece, w.cols, in.wide);
        MOEBIUS_UNROLL
        for (int j = 0; j < kRows; ++j) {
          MOEBIUS_UNROLL
          for (int i = 0; i < 4; ++i)
            sum[j * T + t] = fmaf(value[j][i], std::bit_cast<float>(four.word[i]), sum[j * T + t]);
        }
      }
    }
  }
  sum_lanes(sum);
  constexpr int kLanes = kWarp / (kRows * T);
  if (lane() % kLanes == 0) {
    const int i = lane() / kLanes;
    shared[i % T * R + warp() * kRows + i / T] = sum[0];
  }
  barrier();
  const float result = thread() < R * T ? static_cast<float>(shared[thread()]) : 0.0f;
  barrier();
  return result;
}

// A group of 32 integer weights, and its exact product with a group of a token.
template <Format F>
struct Codes {
  static constexpr int kParts = F == Format::kInt4 ? 1 : 2;
  Bytes16 part[kParts];

  __device__ void load(const Weight& w, int64_t r, int64_t group) {
    MOEBIUS_UNROLL
    for (int i = 0; i < kParts; ++i) part[i] = load_row16(w, w.row(r), (group * kParts + i) * 16);
  }
  // sum: of the token's group
  __device__ int32_t dot(const Bytes16& low, const Bytes16& high, int32_t sum) const {
    if constexpr (F == Format::kInt8) {
      int32_t s = 0;
      MOEBIUS_UNROLL
      for (int i = 0; i < 4; ++i) {
        s = dot4(part[0].word[i] ^ 0x80808080u, low.word[i], s);
        s = dot4(part[1].word[i] ^ 0x80808080u, high.word[i], s);
      }
      return s;
    } else {
      int32_t s = -8 * sum;
      MOEBIUS_UNROLL
      for (int i = 0; i < 4; ++i) {
        const Bytes16& q = i < 2 ? low : high;
        s = dot4(part[0].word[i] & 0x0f0f0f0fu, q.word[i % 2 * 2], s);
        s = dot4(part[0].word[i] >> 4 & 0x0f0f0f0fu, q.word[i % 2 * 2 + 1], s);
      }
      return s;
    }
  }
};

template <Format F, int R, int T>
__device__ float int_tile(const Weight& w, const TileOf<T>& tile, const Tokens& x,
                          const Shared<float>& shared) {
  constexpr int kRows = R / kTileWarps, kLine = R * T + 1, kScales = kWarp * kLine;
  const int groups = static_cast<int>((w.cols + kActivationGroup - 1) / kActivationGroup);
  int64_t r[kRows];
  Codes<F> codes[kRows];
  float scale[kRows];
  const auto load = [&](int group) {
    MOEBIUS_UNROLL
    for (int j = 0; j < kRows; ++j) {
      codes[j].load(w, r[j], group);
      scale[j] = group < groups ? scale_at<F>(w, r[j], group * static_cast<int>(kActivationGroup)) : 0.0f;
    }
  };
  MOEBIUS_UNROLL
  for (int j = 0; j < kRows; ++j) {
    const int64_t row = tile.first + warp() * kRows + j;
    r[j] = row < tile.end ? row : tile.end - 1;
  }
  load(lane());

  const int my_row = thread() % R, my_token = thread() / R;
  int64_t my_first = 0;  // group of my token
  MOEBIUS_UNROLL
  for (int t = 0; t < T; ++t)
    if (my_token == t) my_first = tile.token[t] * x.ld;
  float result = 0;
  for (int first = 0; first < groups; first += kWarp) {
    const int group = first + lane();
    if (group < groups) {
      MOEBIUS_UNROLL
      for (int t = 0; t < T; ++t) {
        if (t >= tile.count) continue;
        const int64_t at = tile.token[t] * x.ld + group;
        const Bytes16 low = load16(x.q + at * kActivationGroup),
                      high = load16(x.q + at * kActivationGroup + 16);
        const int32_t sum = F == Format::kInt4 ? x.sum[at] : 0;
        MOEBIUS_UNROLL
        for (int j = 0; j < kRows; ++j)
          shared[lane() * kLine + t * R + warp() * kRows + j] =
              static_cast<float>(codes[j].dot(low, high, sum));
      }
      MOEBIUS_UNROLL
      for (int j = 0; j < kRows; ++j) shared[kScales + lane() * (R + 1) + warp() * kRows + j] = scale[j];
    }
    load(group + kWarp);
    barrier();
    if (my_token < tile.count) {
      const int count = groups - first < kWarp ? groups - first : kWarp;
      for (int i = 0; i < count; ++i) {
        const float both = shared[kScales + i * (R + 1) + my_row] * x.scale[my_first + first + i];
        result = fmaf(shared[i * kLine + thread()], both, result);
      }
    }
    barrier();
  }
  return result;
}

// All threads call. The result of thread i < R * T: row first + i % R times token i / R; of no meaning past
// the last row or token. shared: kTileFloats, free again.
template <Format F, bool kRounded, int R, int T>
__device__ float tile_product(const Weight& w, const TileOf<T>& tile, const Inputs& in,
                              const Shared<float>& shared) {
  if constexpr (kInteger<F> && kRounded)
    return int_tile<F, R, T>(w, tile, F == Format::kInt4 ? in.even_odd : in.plain, shared);
  else
    return float_tile<F, R, T>(w, tile, in, shared);
}

// The dot product of two vectors by a warp; every lane gets it.
__device__ inline float warp_dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
  for (int64_t i = lane(); i < n; i += kWarp) sum = fmaf(a[i], b[i], sum);
  return warp_sum(sum);
}

// What an adapter adds to (row, token): the row of b times scale * a x, made before.
struct Adapter {
  const float* b = nullptr;    // [rows, rank], null for none
  const float* mid = nullptr;  // [n, rank], rows ld apart
  int32_t rank = 0, ld = 0;
};
__device__ inline float adapter_part(const Adapter& adapter, int64_t row, int64_t token) {
  if (!adapter.b) return 0;
  float sum = 0;
  for (int32_t i = 0; i < adapter.rank; ++i)
    sum = fmaf(adapter.b[row * adapter.rank + i], adapter.mid[token * adapter.ld + i], sum);
  return sum;
}

}  // namespace moebius::cuda
