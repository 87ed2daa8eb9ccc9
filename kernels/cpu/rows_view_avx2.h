// A matrix as row kernels walk it, and what they ask memory for before they get there. Only files
// for these instruction sets include this; all of it has internal linkage, for the reason that rows_avx2.h
// gives.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "kernels/quant.h"

namespace moebius {
namespace {

struct Rows {
  const uint8_t* data;
  int64_t bytes;  // per row
  int64_t rows, cols;
  const uint8_t* scales;
  DType scale_dtype;
  int64_t group, per_row;  // columns per scale, scales per row

  explicit Rows(const Matrix& w)
      : data(static_cast<const uint8_t*>(w.data)),
        bytes(w.row_bytes()),
        rows(w.rows),
        cols(w.cols),
        scales(static_cast<const uint8_t*>(w.scales)),
        scale_dtype(w.scale_dtype),
        group(w.scales && w.group < w.cols ? w.group : w.cols),
        per_row(w.scales && w.group > 0 ? (w.cols + w.group - 1) / w.group : 0) {}
  const uint8_t* row(int64_t r) const { return data + r * bytes; }
};

static inline float scale_at(const Rows& w, int64_t index) {
  if (w.scale_dtype == DType::kF32) {
    float value;
    std::memcpy(&value, w.scales + index * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, w.scales + index * 2, 2);
  if (w.scale_dtype == DType::kF16) return _cvtsh_ss(bits);
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(bits) << 16)));
}

static inline int64_t scale_bytes(const Rows& w) {  // of a row
  return w.per_row * (w.scale_dtype == DType::kF32 ? 4 : 2);
}

constexpr int64_t kLine = 64;

static inline void prefetch(const uint8_t* at) {  // into the second level
  _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1);
}

// Each line is asked for so many times on its way, for a processor drops a prefetch when too many are under
// way: a Zen 4 with nothing else to do runs through prefetches at 230 GB/s while its memory gives 33. Asked
// for once, int4 rows came at 0.85 of the memory's rate for two threads and 0.7 for one; three times, at 0.95
// and 0.87. Where there is AMX once is enough for int4, whose steps take 0.93 of the time so; int8 keeps to
// three asks there too (rows_int_amx.cpp), else its steps take 1.1 times as long.
#ifdef __AMX_TILE__
constexpr int kAsks = 1;
#else
constexpr int kAsks = 3;
#endif

// For kernels that go through a matrix row by row: asks for the lines that follow one of row r at some
// distance, as far as the matrix goes. With several tokens, which read BF16 and FP8 1.2 to 1.5 times as fast
// so, and where one token takes as many instructions; where it takes few, the processor looks as far ahead by
// itself.
class RowsAhead {
 public:
  RowsAhead(const Rows& w, int64_t r) {
    const int64_t left = (w.rows - 1 - r) * w.bytes;
    for (int i = 0; i < kAsks; ++i) bytes_[i] = kFarthest >> i < left ? kFarthest >> i : left;
  }
  void line(const uint8_t* at) const {
    for (int i = 0; i < kAsks; ++i) prefetch(at + bytes_[i]);
  }

 private:
  static constexpr int64_t kFarthest = 16384;
  int64_t bytes_[kAsks];
};

// For kernels that go through a matrix by blocks of rows, all of them column by column: what comes after
// bytes [from, to) of each row of a block. Asks for the lines of the blocks four, two and one further on, as
// far as the matrix has them, in the order of addresses: the same columns of rows of 1024 bytes, one after
// the other, come a tenth more slowly.
class BlocksAhead {
 public:
  BlocksAhead(const Rows& w, int64_t r, int64_t block, int64_t from, int64_t to)
      : codes_(w.row(r), w.bytes, from, to),
        scales_(w.scales + r * scale_bytes(w), scale_bytes(w), from * scale_bytes(w) / w.bytes,
                (to * scale_bytes(w) + w.bytes - 1) / w.bytes) {
    scales_left_ = block * (scales_.width < scale_bytes(w) ? scales_.width : scale_bytes(w));
    const int64_t last = w.rows - block - r < 0 ? 0 : w.rows - block - r;
    for (int i = 0; i < kAsks; ++i) {
      const int64_t rows = block << (kAsks - 1 - i), on = rows < last ? rows : last;
      codes_ahead_[i] = on * w.bytes, scales_ahead_[i] = on * scale_bytes(w);
    }
  }
  // The next one of codes.
  void line() {
    for (int i = 0; i < kAsks; ++i) prefetch(codes_.at + codes_ahead_[i]);
    codes_.move();
  }
  // The next one of scales, if there is one; a hardware prefetcher would take each block's for a new stream.
  void scales() {
    if (scales_left_ <= 0) return;
    for (int i = 0; i < kAsks; ++i) prefetch(scales_.at + scales_ahead_[i]);
    scales_.move(), scales_left_ -= kLine;
  }

 private:
  struct Lines {  // of bytes [from, to) of each of some rows
    Lines(const uint8_t* row, int64_t bytes, int64_t from, int64_t to)
        : at(row + from),
          width(to - from < bytes ? (to - from + kLine - 1) / kLine * kLine : INT64_MAX),
          left(width),
          gap(bytes - width) {}
    void move() {
      at += kLine, left -= kLine;
      if (left == 0) at += gap, left = width;
    }
    const uint8_t* at;
    int64_t width, left, gap;
  };
  Lines codes_, scales_;
  int64_t scales_left_;  // bytes
  int64_t codes_ahead_[kAsks], scales_ahead_[kAsks];
};

}  // namespace
}  // namespace moebius
