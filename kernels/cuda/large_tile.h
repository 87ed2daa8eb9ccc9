// Products for many tokens, on the matrix units: 64 rows of a matrix with up to 64 tokens, by a block.
//
// Rows and tokens go through shared memory, 128 bytes or one chunk of columns of each at a time, the next
// chunk on its way meanwhile; each of the eight warps multiplies 32 rows by 16 tokens of it.
//
// Integer formats: one step of the matrix units is one group of 32 columns, exactly; its sums are made floats
// and added up as quant.h says, so that the bits are those of tile.h. Float formats: weights and activations
// as sums of BF16 numbers (parts), whose products are exact; those below 2^-24 of the largest are left out.
#pragma once

#include "kernels/cuda/matrix_units.h"
#include "kernels/cuda/tile.h"

namespace moebius::cuda {

inline constexpr int kLargeRows = 64, kLargeTokens = 64;

// Which tokens a tile takes: number j is row `first` + j, or that place's in an order of slots, k to a token.
struct TokenRange {
  const int32_t* order = nullptr;
  int32_t k = 1;
  int64_t first = 0;
  int count = 0;
  __device__ int64_t operator[](int j) const {  // -1: none
    if (j >= count) return -1;
    return order ? order[first + j] / k : first + j;
  }
};

// What a thread has of the product of a tile: row(i) of the tile times token(i), i in [0, 16).
struct LargeSums {
  float at[2][2][4] = {};
  __device__ static int row(int i) { return warp() / 4 * 32 + i / 8 * 16 + i % 4 / 2 * 8 + lane() / 4; }
  __device__ static int token(int i) { return warp() % 4 * 16 + i / 4 % 2 * 8 + lane() % 4 * 2 + i % 2; }
  __device__ float operator[](int i) const { return at[i / 8][i / 4 % 2][i % 4]; }
  __device__ float& operator[](int i) { return at[i / 8][i / 4 % 2][i % 4]; }
  __device__ void add(float factor, const LargeSums& more) {
    MOEBIUS_UNROLL
    for (int i = 0; i < 16; ++i) (*this)[i] = fmaf(factor, more[i], (*this)[i]);
  }
};

struct alignas(8) Bytes8 {
  uint32_t word[2];
};

// Bytes from row to row of 128 bytes in shared memory, so that the lanes of a warp read from different banks.
inline constexpr int kLine16 = 10, kLine8 = 2 * kLine16;

// ---- integer formats ----

template <Format F>
struct LargeInts {
  static constexpr int kGroups = 4;                           // of a chunk
  static constexpr int kPieces = F == Format::kInt4 ? 4 : 8;  // of 16 bytes, of a row in a chunk
  static constexpr int kCodeLine = F == Format::kInt4 ? 5 : kLine16;
  static constexpr int kMine = kLargeRows * kPieces / kTileBlock;  // pieces that a thread loads
  static constexpr int kCodeBytes = kLargeRows * kCodeLine * 16, kTokenBytes = kLargeTokens * kLine16 * 16;
  static constexpr int kBytes = kCodeBytes + kTokenBytes + 3 * kGroups * 64 * 4;
  static_assert(kGroups * kLargeRows == kTileBlock && kGroups * kLargeTokens == kTileBlock);

  const Weight& w;
  const Tokens& x;
  int64_t first, end;  // rows
  int groups = static_cast<int>((w.cols + kActivationGroup - 1) / kActivationGroup);
  Shared<Bytes16> codes = dynamic_shared<Bytes16>(0, kLargeRows* kCodeLine);
  Shared<Bytes16> tokens = dynamic_shared<Bytes16>(kCodeBytes, kLargeTokens* kLine16);
  Shared<uint32_t> code_words = dynamic_shared<uint32_t>(0, kLargeRows* kCodeLine * 4);
  Shared<Bytes8> token_pairs = dynamic_shared<Bytes8>(kCodeBytes, kLargeTokens* kLine8);
  Shared<float> w_scale = dynamic_shared<float>(kCodeBytes + kTokenBytes, kGroups * 64);
  Shared<float> x_scale = dynamic_shared<float>(kCodeBytes + kTokenBytes + kGroups * 64 * 4, kGroups * 64);
  Shared<int32_t> start = dynamic_shared<int32_t>(kCodeBytes + kTokenBytes + kGroups * 64 * 8, kGroups * 64);

  // On its way from device memory.
  Bytes16 code_piece[kMine] = {}, token_piece[2] = {};
  float w_piece = 0, x_piece = 0;
  int32_t start_piece = 0;
  int64_t token_row[2] = {}, scale_token = 0;

  // A sum starts as the bits of the float 1.5 * 2^23, to which a whole number below 2^22 may be added.
  static constexpr int32_t kStart = 0x4b400000;
  static constexpr float kStartFloat = 0x1.8p23f;

  __device__ void begin(const TokenRange& range) {
    for (int i = 0; i < 2; ++i) token_row[i] = range[thread() / 8 + 32 * i];
    scale_token = range[thread() % 64];
    fetch(0);
  }
  __device__ void fetch(int group) {
    MOEBIUS_UNROLL
    for (int i = 0; i < kMine; ++i) {
      const int at = thread() + kTileBlock * i;
      const int64_t r = first + at / kPieces;
      const int64_t byte = int64_t{group} * (kPieces * 4) + at % kPieces * 16;
      code_piece[i] = r < end ? load_row16(w, w.row(r), byte) : Bytes16{{0, 0, 0, 0}};
    }
    MOEBIUS_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int64_t column = int64_t{group} * kActivationGroup + thread() % 8 * 16;
      const bool there = token_row[i] >= 0 && column < int64_t{groups} * kActivationGroup;
      token_piece[i] =
          there ? load16(x.q + token_row[i] * x.ld * kActivationGroup + column) : Bytes16{{0, 0, 0, 0}};
    }
    const int mine = group + thread() / 64;
    const int64_t r = first + thread() % 64, at = scale_token * x.ld + mine;
    const bool token = mine < groups && scale_token >= 0;
    w_piece = mine < groups && r < end ? scale_at<F>(w, r, mine * static_cast<int>(kActivationGroup)) : 0.0f;
    x_piece = token ? x.scale[at] : 0.0f;
    start_piece = F == Format::kInt4 && token ? kStart - 8 * x.sum[at] : kStart;
  }
  __device__ void store() const {
    MOEBIUS_UNROLL
    for (int i = 0; i < kMine; ++i) {
      const int at = thread() + kTileBlock * i;
      codes[at / kPieces * kCodeLine + at % kPieces] = code_piece[i];
    }
    MOEBIUS_UNROLL
    for (int i = 0; i < 2; ++i) tokens[(thread() / 8 + 32 * i) * kLine16 + thread() % 8] = token_piece[i];
    w_scale[thread()] = w_piece, x_scale[thread()] = x_piece, start[thread()] = start_piece;
  }
  // What row `row` holds for this lane, in two halves.
  __device__ void halves(int row, int group, uint32_t& low, uint32_t& high) const {
    if constexpr (F == Format::kInt4) {
      const uint32_t word = code_words[row * (kCodeLine * 4) + group * 4 + lane() % 4];
      low = word & 0x0f0f0f0fu, high = word >> 4 & 0x0f0f0f0fu;
    } else {
      const int at = row * (kCodeLine * 4) + group * 8 + lane() % 4 * 2;
      low = code_words[at] ^ 0x80808080u, high = code_words[at + 1] ^ 0x80808080u;
    }
  }
  __device__ void multiply(int group, LargeSums& sums) const {
    const int row = LargeSums::row(0), token = LargeSums::token(0);
    uint32_t a[2][4];
    float w_of[2][2];
    MOEBIUS_UNROLL
    for (int m = 0; m < 2; ++m) {
      MOEBIUS_UNROLL
      for (int i = 0; i < 2; ++i) {
        halves(row + 16 * m + 8 * i, group, a[m][i], a[m][2 + i]);
        w_of[m][i] = w_scale[group * 64 + row + 16 * m + 8 * i];
      }
    }
    MOEBIUS_UNROLL
    for (int n = 0; n < 2; ++n) {
      const int column = warp() % 4 * 16 + 8 * n + lane() / 4;
      const Bytes8 pair = token_pairs[column * kLine8 + group * 4 + lane() % 4];
      const uint32_t b[2] = {pair.word[0], pair.word[1]};
      const int32_t start0 = start[group * 64 + token + 8 * n],
                    start1 = start[group * 64 + token + 8 * n + 1];
      const float x0 = x_scale[group * 64 + token + 8 * n], x1 = x_scale[group * 64 + token + 8 * n + 1];
      MOEBIUS_UNROLL
      for (int m = 0; m < 2; ++m) {
        int32_t c[4] = {start0, start1, start0, start1};
        multiply_s8(c, a[m], b);
        MOEBIUS_UNROLL
        for (int i = 0; i < 4; ++i) {
          float& sum = sums.at[m][n][i];
          sum = fmaf(std::bit_cast<float>(c[i]) - kStartFloat, w_of[m][i / 2] * (i % 2 ? x1 : x0), sum);
        }
      }
    }
  }
  __device__ LargeSums run(const TokenRange& range) {
    LargeSums sums;
    begin(range);
    for (int group = 0; group < groups; group += kGroups) {
      store();
      barrier();
      fetch(group + kGroups);
      for (int i = 0; i < kGroups && group + i < groups; ++i) multiply(i, sums);
      barrier();
    }
    return sums;
  }
};

// ---- float formats ----

template <Format F>
inline constexpr int kWeightParts = F == Format::kF32   ? 3
                                    : F == Format::kF16 ? 2
                                                        : 1;

template <Format F>
struct LargeFloats {
  static constexpr int kChunk = 64;  // columns
  static constexpr int kParts = kWeightParts<F>;
  static constexpr int kPieces = kChunk / kColumns<F>;  // of 16 bytes, of a row in a chunk
  static constexpr int kMine = kLargeRows * kPieces / kTileBlock;
  static constexpr int kTokenPieces = kSplitParts * 2;  // that a thread loads
  static constexpr int kWeightBytes = kParts * kLargeRows * kLine16 * 16;
  static constexpr int kBytes = kWeightBytes + kSplitParts * kLargeTokens * kLine16 * 16;

  const Weight& w;
  const SplitTokens& x;
  int64_t first, end;  // rows
  Shared<Bytes8> weights = dynamic_shared<Bytes8>(0, kParts* kLargeRows* kLine8);
  Shared<Bytes16> tokens = dynamic_shared<Bytes16>(kWeightBytes, kSplitParts* kLargeTokens* kLine16);
  Shared<Bytes8> token_pairs = dynamic_shared<Bytes8>(kWeightBytes, kSplitParts* kLargeTokens* kLine8);

  // On its way from device memory.
  Bytes16 weight_piece[kMine] = {}, token_piece[kTokenPieces] = {};
  int64_t token_row[2] = {};

  __device__ void begin(const TokenRange& range) {
    for (int i = 0; i < 2; ++i) token_row[i] = range[thread() / 8 + 32 * i];
    fetch(0);
  }
  __device__ void fetch(int column) {
    MOEBIUS_UNROLL
    for (int i = 0; i < kMine; ++i) {
      const int at = thread() + kTileBlock * i;
      const int64_t r = first + at / kPieces;
      const int64_t byte = int64_t{column} / kColumns<F> * 16 + at % kPieces * 16;
      weight_piece[i] = r < end ? load_row16(w, w.row(r), byte) : Bytes16{{0, 0, 0, 0}};
    }
    MOEBIUS_UNROLL
    for (int i = 0; i < kTokenPieces; ++i) {
      const int64_t row = token_row[i % 2], c = column + thread() % 8 * 8;
      token_piece[i] = row >= 0 && c < x.ld ? load16(x.part(i / 2) + row * x.ld + c) : Bytes16{{0, 0, 0, 0}};
    }
  }
  // Four columns of a row in each part, from column 4 * quarter of the chunk on.
  __device__ void store_weights(int row, int quarter, const Bytes16& piece, int of_piece) const {
    if constexpr (F == Format::kBF16) {
      weights[row * kLine8 + quarter] = Bytes8{{piece.word[2 * of_piece], piece.word[2 * of_piece + 1]}};
    } else {
      float left[4];
      unpack4<F>(piece, of_piece, left);
      MOEBIUS_UNROLL
      for (int part = 0; part < kParts; ++part) {
        uint32_t bits[4];
        MOEBIUS_UNROLL
        for (int i = 0; i < 4; ++i) bits[i] = split_off(left[i]);
        weights[(part * kLargeRows + row) * kLine8 + quarter] =
            Bytes8{{bits[0] | bits[1] << 16, bits[2] | bits[3] << 16}};
      }
    }
  }
  __device__ void store() const {
    constexpr int kQuarters = kColumns<F> / 4;
    MOEBIUS_UNROLL
    for (int i = 0; i < kMine; ++i) {
      const int at = thread() + kTileBlock * i;
      MOEBIUS_UNROLL
      for (int q = 0; q < kQuarters; ++q)
        store_weights(at / kPieces, at % kPieces * kQuarters + q, weight_piece[i], q);
    }
    MOEBIUS_UNROLL
    for (int i = 0; i < kTokenPieces; ++i)
      tokens[(i / 2 * kLargeTokens + thread() / 8 + 32 * (i % 2)) * kLine16 + thread() % 8] = token_piece[i];
  }
  // Sixteen columns.
  __device__ void multiply(int step, LargeSums& sums) const {
    const int row = LargeSums::row(0), at = step * 4 + lane() % 4;
    uint32_t b[2][kSplitParts][2];
    MOEBIUS_UNROLL
    for (int n = 0; n < 2; ++n) {
      MOEBIUS_UNROLL
      for (int part = 0; part < kSplitParts; ++part) {
        const int column = warp() % 4 * 16 + 8 * n + lane() / 4;
        const Bytes8 pair = token_pairs[(part * kLargeTokens + column) * kLine8 + at];
        b[n][part][0] = pair.word[0], b[n][part][1] = pair.word[1];
      }
    }
    MOEBIUS_UNROLL
    for (int m = 0; m < 2; ++m) {
      MOEBIUS_UNROLL
      for (int part = 0; part < kParts; ++part) {
        const int line = part * kLargeRows + row + 16 * m;
        const Bytes8 low = weights[line * kLine8 + at], high = weights[(line + 8) * kLine8 + at];
        const uint32_t a[4] = {low.word[0], high.word[0], low.word[1], high.word[1]};
        MOEBIUS_UNROLL
        for (int n = 0; n < 2; ++n) {
          MOEBIUS_UNROLL
          for (int of = kSplitParts - 1 - part; of >= 0; --of) multiply_bf16(sums.at[m][n], a, b[n][of]);
        }
      }
    }
  }
  // sums += this chunk's, times its scales.
  __device__ void add_scaled(int column, const LargeSums& chunk, LargeSums& sums) const {
    MOEBIUS_UNROLL
    for (int m = 0; m < 2; ++m) {
      MOEBIUS_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int64_t r = first + LargeSums::row(8 * m + i);
        const float scale = r < end ? scale_at<F>(w, r, column) : 0.0f;
        MOEBIUS_UNROLL
        for (int n = 0; n < 2; ++n) sums.at[m][n][i] = fmaf(chunk.at[m][n][i], scale, sums.at[m][n][i]);
      }
    }
  }
  __device__ LargeSums run(const TokenRange& range) {
    LargeSums sums;
    begin(range);
    for (int column = 0; column < w.cols; column += kChunk) {
      store();
      barrier();
      fetch(column + kChunk);
      if constexpr (kScaled<F>) {
        static_assert(kFp8Block % kChunk == 0);
        LargeSums chunk;
        for (int step = 0; step < kChunk / 16; ++step) multiply(step, chunk);
        add_scaled(column, chunk, sums);
      } else {
        for (int step = 0; step < kChunk / 16; ++step) multiply(step, sums);
      }
      barrier();
    }
    return sums;
  }
};

// Shared memory of a block, in bytes.
template <Format F>
constexpr int large_tile_bytes() {
  if constexpr (kInteger<F>)
    return LargeInts<F>::kBytes;
  else
    return LargeFloats<F>::kBytes;
}

// All threads call. Rows [first, end) of w, the first 64 of them, times the tokens of `range`.
template <Format F>
__device__ LargeSums large_tile_product(const Weight& w, int64_t first, int64_t end, const Inputs& in,
                                        const TokenRange& range) {
  if constexpr (kInteger<F>)
    return LargeInts<F>{w, F == Format::kInt4 ? in.even_odd : in.plain, first, end}.run(range);
  else
    return LargeFloats<F>{w, in.split, first, end}.run(range);
}

}  // namespace moebius::cuda
