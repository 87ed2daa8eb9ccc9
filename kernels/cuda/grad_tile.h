// Products of the backward operations, on the matrix units: 64 by 64 numbers to a block.
//
// C[i, j] = sum over k of A(i, k) B(k, j), where A and B are views of matrices that lie either way: frozen
// weights of any format serve x w^T and dy w from the same bytes. Both go through shared memory, 32 numbers
// of k at a time, the next ones on their way meanwhile; each of the eight warps multiplies 32 lines of A by
// 16 of B.
//
// Gradients are float32: numbers are split into BF16 ones (parts), whose products are exact, and those below
// 2^-24 of the largest are left out, so that a product errs as one of float32 numbers does. Sums are in
// float32, each in ascending steps of k.
#pragma once

#include "kernels/cuda/large_tile.h"

namespace moebius::cuda {

inline constexpr int kGradLines = 64;  // of A, and of B, in a tile
inline constexpr int kGradChunk = 32;  // of k in shared memory at a time
// Eights of bytes from line to line, so that the lanes of a warp read from different banks.
inline constexpr int kGradLine8 = 12;

// ---- views: matrices by four neighbouring numbers of a row, zeros outside ----

// float32 rows; row r is row index[r] of the memory, where there is an index.
struct FloatView {
  static constexpr int kParts = 3;
  struct Four {
    Bytes16 bytes{{0, 0, 0, 0}};
  };

  const float* at = nullptr;
  int64_t ld = 0;
  int32_t rows = 0, cols = 0;
  const int32_t* index = nullptr;
  bool wide = false;  // rows start at multiples of 16 bytes

  __device__ Four load(int32_t row, int32_t column) const {
    if (row >= rows || column >= cols) return {};
    const float* from = at + int64_t{index ? index[row] : row} * ld + column;
    if (wide && column + 4 <= cols) return {load16(from)};
    Four four;
    MOEBIUS_UNROLL
    for (int i = 0; i < 4; ++i)
      if (column + i < cols) four.bytes.word[i] = std::bit_cast<uint32_t>(from[i]);
    return four;
  }
  __device__ static void numbers(const Four& four, float (&out)[4]) {
    MOEBIUS_UNROLL
    for (int i = 0; i < 4; ++i) out[i] = std::bit_cast<float>(four.bytes.word[i]);
  }
};
__host__ __device__ inline FloatView float_view(const float* at, int64_t rows, int64_t cols, int64_t ld) {
  FloatView view;
  view.at = at, view.rows = static_cast<int32_t>(rows), view.cols = static_cast<int32_t>(cols), view.ld = ld;
  view.wide = aligned16(at, ld * static_cast<int64_t>(sizeof(float)));
  return view;
}
inline FloatView float_view(const Tensor& t) {
  MOEBIUS_CHECK(t.shape[0] <= INT32_MAX && t.shape[1] <= INT32_MAX, t.describe());
  return float_view(t.f32(), t.shape[0], t.shape[1], t.stride[0]);
}

// The weights of a matrix, as the float32 numbers that they stand for.
template <Format F>
struct WeightView {
  // Of BF16 and F16 the first parts are exact.
  static constexpr int kParts = F == Format::kBF16 ? 1 : F == Format::kF16 ? 2 : 3;
  static constexpr int kBits = F == Format::kF32                         ? 32
                               : F == Format::kBF16 || F == Format::kF16 ? 16
                               : F == Format::kInt4                      ? 4
                                                                         : 8;
  static constexpr int kWords = kBits == 32 ? 4 : kBits == 16 ? 2 : 1;
  struct Four {
    uint32_t word[kWords] = {};
    float scale = 0;
    int count = 0;  // of numbers; zeros behind
  };

  Weight w;

  __device__ Four load(int32_t row, int32_t column) const {
    Four four;
    if (row >= w.rows || column >= w.cols) return four;
    const uint8_t* from = w.row(row) + int64_t{column} * kBits / 8;
    const int32_t left = w.cols - column;
    four.count = left < 4 ? left : 4;
    four.scale = 1;
    if constexpr (kScaled<F>) four.scale = scale_at<F>(w, row, column);
    if (left < 4) {
      const int bytes = (left * kBits + 7) / 8;
      MOEBIUS_UNROLL
      for (int i = 0; i < 4 * kWords; ++i)
        if (i < bytes) four.word[i / 4] |= static_cast<uint32_t>(from[i]) << 8 * (i % 4);
    } else if constexpr (kBits == 4) {
      four.word[0] = load_u16(from);
    } else if (kWords > 1 && w.wide) {
      struct alignas(4 * kWords) Words {
        uint32_t word[kWords];
      };
      const Words words = *static_cast<const Words*>(static_cast<const void*>(from));
      MOEBIUS_UNROLL
      for (int i = 0; i < kWords; ++i) four.word[i] = words.word[i];
    } else {
      MOEBIUS_UNROLL
      for (int i = 0; i < kWords; ++i) four.word[i] = load_u32(from + 4 * i);
    }
    return four;
  }
  __device__ static void numbers(const Four& four, float (&out)[4]) {
    Bytes16 bytes{{0, 0, 0, 0}};
    MOEBIUS_UNROLL
    for (int i = 0; i < kWords; ++i) bytes.word[i] = four.word[i];
    unpack4<F>(bytes, 0, out);
    MOEBIUS_UNROLL
    for (int i = 0; i < 4; ++i) out[i] = i < four.count ? (kScaled<F> ? out[i] * four.scale : out[i]) : 0.0f;
  }
};

// ---- a side of a product: 64 lines, from `first` on ----

// How a view lies: its rows are lines and its columns k, or its columns are lines and its rows k.
enum class Lie : uint8_t { kAlong, kAcross };

template <class View, Lie L>
struct Side {
  static constexpr int kParts = View::kParts;
  static constexpr int kBytes = kParts * kGradLines * kGradLine8 * 8;

  View view;
  int32_t first = 0;
  typename View::Four ahead[2] = {};  // on their way from device memory

  __device__ void fetch(int32_t k) {
    MOEBIUS_UNROLL
    for (int i = 0; i < 2; ++i) {
      if constexpr (L == Lie::kAlong)
        ahead[i] = view.load(first + thread() / 8 + 32 * i, k + thread() % 8 * 4);
      else
        ahead[i] = view.load(k + lane() % 16 * 2 + i, first + quad() * 4);
    }
  }
  // offset: of this side's part of the block's shared memory.
  __device__ void store(int64_t offset) const {
    float one[4], two[4];
    View::numbers(ahead[0], one), View::numbers(ahead[1], two);
    if constexpr (L == Lie::kAlong) {
      const Shared<Bytes8> eights = dynamic_shared<Bytes8>(offset, kParts * kGradLines * kGradLine8);
      MOEBIUS_UNROLL
      for (int part = 0; part < kParts; ++part) {
        const int at = (part * kGradLines + thread() / 8) * kGradLine8 + thread() % 8;
        eights[at] = split_four(one);
        eights[at + 32 * kGradLine8] = split_four(two);
      }
    } else {
      const Shared<uint32_t> words = dynamic_shared<uint32_t>(offset, kParts * kGradLines * kGradLine8 * 2);
      MOEBIUS_UNROLL
      for (int part = 0; part < kParts; ++part) {
        MOEBIUS_UNROLL
        for (int i = 0; i < 4; ++i) {
          const uint32_t low = split_off(one[i]), high = split_off(two[i]);
          words[(part * kGradLines + quad() * 4 + i) * (kGradLine8 * 2) + lane() % 16] = low | high << 16;
        }
      }
    }
  }

 private:
  __device__ static int quad() { return warp() * 2 + lane() / 16; }  // of lines, for a lane's two rows
  __device__ static Bytes8 split_four(float (&left)[4]) {
    uint32_t bits[4];
    MOEBIUS_UNROLL
    for (int i = 0; i < 4; ++i) bits[i] = split_off(left[i]);
    return {{bits[0] | bits[1] << 16, bits[2] | bits[3] << 16}};
  }
};

// Of a kernel that makes products: two blocks to a multiprocessor, so that one multiplies while the other
// waits.
#define MOEBIUS_PRODUCT_KERNEL __global__ void __launch_bounds__(::moebius::cuda::kTileBlock, 2)

// Lines of a tile that there are; the products of others are not made.
struct TileSize {
  int a = kGradLines, b = kGradLines;
};
__device__ inline int lines_left(int64_t first, int64_t end) {
  return end - first < kGradLines ? static_cast<int>(end - first) : kGradLines;
}

// Sixteen numbers of k, from 16 * step on, of lines in shared memory. `at`: where the parts of a side start,
// `line`: eights of bytes from line to line.
struct Kept {
  int64_t at;
  int line;
};
template <int kPartsA, int kPartsB>
__device__ void multiply_lines(const Kept& a_lines, const Kept& b_lines, int step_a, int step_b,
                               TileSize size, LargeSums& sums) {
  const Shared<Bytes8> as = dynamic_shared<Bytes8>(a_lines.at, kPartsA * kGradLines * a_lines.line);
  const Shared<Bytes8> bs = dynamic_shared<Bytes8>(b_lines.at, kPartsB * kGradLines * b_lines.line);
  const int row = LargeSums::row(0), column = warp() % 4 * 16 + lane() / 4;
  uint32_t b[2][kPartsB][2];
  MOEBIUS_UNROLL
  for (int n = 0; n < 2; ++n) {
    MOEBIUS_UNROLL
    for (int part = 0; part < kPartsB; ++part) {
      const Bytes8 pair = bs[(part * kGradLines + column + 8 * n) * b_lines.line + step_b * 4 + lane() % 4];
      b[n][part][0] = pair.word[0], b[n][part][1] = pair.word[1];
    }
  }
  MOEBIUS_UNROLL
  for (int m = 0; m < 2; ++m) {
    if (warp() / 4 * 32 + 16 * m >= size.a) continue;
    MOEBIUS_UNROLL
    for (int part = 0; part < kPartsA; ++part) {
      const int at = (part * kGradLines + row + 16 * m) * a_lines.line + step_a * 4 + lane() % 4;
      const Bytes8 low = as[at], high = as[at + 8 * a_lines.line];
      const uint32_t a[4] = {low.word[0], high.word[0], low.word[1], high.word[1]};
      constexpr int kLast = kSplitParts - 1;
      MOEBIUS_UNROLL
      for (int n = 0; n < 2; ++n) {
        if (warp() % 4 * 16 + 8 * n >= size.b) continue;
        MOEBIUS_UNROLL
        for (int of = kPartsB - 1; of >= 0; --of)
          if (part + of <= kLast) multiply_bf16(sums.at[m][n], a, b[n][of]);
      }
    }
  }
}

// Shared memory of a block that multiplies these sides, in bytes, from any multiple of 16 on.
template <class A, class B>
inline constexpr int kProductBytes = A::kBytes + B::kBytes;

// All threads call. sums += the product over k in [begin, end), of which the end is the views' own or begin
// plus a multiple of kGradChunk, and begin a multiple of 4 for views that lie along. offset: of kProductBytes
// of shared memory, free again.
template <class A, class B>
__device__ void add_product(A& a, B& b, int32_t begin, int32_t end, TileSize size, int64_t offset,
                            LargeSums& sums) {
  if (begin >= end) return;
  const Kept a_lines{offset, kGradLine8}, b_lines{offset + A::kBytes, kGradLine8};
  a.fetch(begin), b.fetch(begin);
  for (int32_t k = begin; k < end; k += kGradChunk) {
    a.store(a_lines.at), b.store(b_lines.at);
    barrier();
    if (k + kGradChunk < end) a.fetch(k + kGradChunk), b.fetch(k + kGradChunk);
    MOEBIUS_UNROLL
    for (int step = 0; step < kGradChunk / 16; ++step)
      if (k + 16 * step < end) multiply_lines<A::kParts, B::kParts>(a_lines, b_lines, step, step, size, sums);
    barrier();
  }
}

}  // namespace moebius::cuda
