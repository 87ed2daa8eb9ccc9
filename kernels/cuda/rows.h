// Rows of weight matrices of every format (kernels/quant.h), as kernels read them in place.
//
// Kernels go over a row in pieces of 16 bytes, one access each where data and rows are aligned to 16, and
// put together from smaller accesses otherwise: values and the order of sums are the same either way. A read
// never passes the end of a row; what lies beyond it reads as zero bytes.
#pragma once

#include <bit>

#include "kernels/cuda/device.h"
#include "kernels/quant.h"

namespace moebius::cuda {

// A Matrix by value.
struct Weight {
  const uint8_t* data = nullptr;
  const uint8_t* scales = nullptr;  // null where the format has none
  int64_t row_bytes = 0;
  int32_t rows = 0, cols = 0;
  int32_t scales_per_row = 0;
  int32_t span = 1;  // spans of 32 columns that share a scale
  Format format = Format::kF32;
  DType scale_dtype = DType::kF32;
  bool wide = false;  // every row starts at a multiple of 16 bytes

  __device__ const uint8_t* row(int64_t r) const { return data + r * row_bytes; }
};

inline Weight weight_of(const Matrix& m) {
  MOEBIUS_CHECK(m.rows <= INT32_MAX && m.cols <= INT32_MAX - 1024, m.describe());
  Weight w;
  w.data = static_cast<const uint8_t*>(m.data), w.scales = static_cast<const uint8_t*>(m.scales);
  w.row_bytes = m.row_bytes();
  w.rows = static_cast<int32_t>(m.rows), w.cols = static_cast<int32_t>(m.cols);
  w.scales_per_row = static_cast<int32_t>(m.scales_per_row());
  w.span = m.group >= m.cols ? INT32_MAX : static_cast<int32_t>(m.group / kActivationGroup);
  if (m.group == 0) w.span = 1;
  w.format = m.format, w.scale_dtype = m.scale_dtype;
  w.wide = aligned16(m.data, w.row_bytes);
  return w;
}

// Numbers of files, at any address.
__device__ inline uint16_t load_u16(const uint8_t* at) {
  if (reinterpret_cast<uintptr_t>(at) % 2 == 0) return *reinterpret_cast<const uint16_t*>(at);
  return static_cast<uint16_t>(at[0] | at[1] << 8);
}
__device__ inline uint32_t load_u32(const uint8_t* at) {
  if (reinterpret_cast<uintptr_t>(at) % 4 == 0) return *reinterpret_cast<const uint32_t*>(at);
  return static_cast<uint32_t>(load_u16(at)) | static_cast<uint32_t>(load_u16(at + 2)) << 16;
}
// The first `left` of 16 bytes, zeros behind them.
__device__ inline Bytes16 load16_any(const uint8_t* at, int64_t left) {
  Bytes16 b{{0, 0, 0, 0}};
  MOEBIUS_UNROLL
  for (int i = 0; i < 4; ++i) {
    if (4 * i + 4 <= left) {
      b.word[i] = load_u32(at + 4 * i);
    } else {
      for (int k = 4 * i; k < left && k < 4 * i + 4; ++k)
        b.word[i] |= static_cast<uint32_t>(at[k]) << 8 * (k - 4 * i);
    }
  }
  return b;
}
// 16 bytes of a row from `byte` on, a multiple of 16.
__device__ inline Bytes16 load_row16(const Weight& w, const uint8_t* row, int64_t byte) {
  if (byte >= w.row_bytes) return Bytes16{{0, 0, 0, 0}};
  return w.wide ? load16(row + byte) : load16_any(row + byte, w.row_bytes - byte);
}
// Four floats of a vector of `count`, from c on, zeros behind its end. wide: it starts at a multiple of 16
// bytes and so does c.
__device__ inline Bytes16 load_floats4(const float* x, int c, int count, bool wide) {
  if (wide && c + 4 <= count) return load16(x + c);
  Bytes16 b;
  MOEBIUS_UNROLL
  for (int i = 0; i < 4; ++i) b.word[i] = c + i < count ? std::bit_cast<uint32_t>(x[c + i]) : 0u;
  return b;
}

// A half's bits moved into a float's, as E4M3's below, stand for the value divided by 2^112.
__device__ inline float f16_bits(uint32_t half) {
  const uint32_t magnitude = (half & 0x7fff) << 13;
  const uint32_t sign = (half & 0x8000) << 16;
  if (magnitude >= 0x0f800000u) return std::bit_cast<float>(sign | 0x7f800000u | magnitude);
  return std::bit_cast<float>(sign | magnitude) * 0x1p112f;
}
__device__ inline float bf16_bits(uint32_t bits) { return std::bit_cast<float>(bits << 16); }
// The two NaN codes give +-480, as quant.h allows.
__device__ inline float f8e4m3_bits(uint32_t code) {
  return std::bit_cast<float>((code & 0x80) << 24 | (code & 0x7f) << 20) * 0x1p120f;
}
// Codes of integer formats: in the low bits of a float of 2^23, then made a signed number by a subtraction.
__device__ inline float int8_bits(uint32_t code) {
  return std::bit_cast<float>(0x4b000000u | (code & 0xff)) - 0x1.0001p23f;
}
__device__ inline float int4_bits(uint32_t code) {
  return std::bit_cast<float>(0x4b000000u | (code & 0xf)) - 0x1.00001p23f;
}

// Columns that 16 bytes hold.
template <Format F>
inline constexpr int kColumns = F == Format::kF32    ? 4
                                : F == Format::kBF16 ? 8
                                : F == Format::kF16  ? 8
                                : F == Format::kInt4 ? 32
                                                     : 16;
template <Format F>
inline constexpr bool kInteger = F == Format::kInt8 || F == Format::kInt4;
template <Format F>
inline constexpr bool kScaled = F == Format::kFp8Block || kInteger<F>;

// Columns 4 * piece .. 4 * piece + 3 of 16 bytes, before their scale. piece: a constant after unrolling.
template <Format F>
__device__ void unpack4(const Bytes16& b, int piece, float (&out)[4]) {
  MOEBIUS_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int c = 4 * piece + i;
    if constexpr (F == Format::kF32) out[i] = std::bit_cast<float>(b.word[c]);
    if constexpr (F == Format::kBF16) out[i] = bf16_bits(b.word[c / 2] >> 16 * (c % 2) & 0xffff);
    if constexpr (F == Format::kF16) out[i] = f16_bits(b.word[c / 2] >> 16 * (c % 2) & 0xffff);
    if constexpr (F == Format::kFp8Block) out[i] = f8e4m3_bits(b.word[c / 4] >> 8 * (c % 4) & 0xff);
    if constexpr (F == Format::kInt8) out[i] = int8_bits(b.word[c / 4] >> 8 * (c % 4));
    if constexpr (F == Format::kInt4) out[i] = int4_bits(b.word[c / 8] >> 4 * (c % 8));
  }
}

// The scale of (r, c) of a matrix with scales.
template <Format F>
__device__ float scale_at(const Weight& w, int64_t r, int c) {
  static_assert(kScaled<F>);
  const int64_t row = F == Format::kFp8Block ? r / kFp8Block : r;
  const int column = c / static_cast<int>(kActivationGroup);
  const int64_t at = row * w.scales_per_row + (w.span == 1 ? column : column / w.span);
  if (w.scale_dtype == DType::kF32) return std::bit_cast<float>(load_u32(w.scales + 4 * at));
  const uint16_t bits = load_u16(w.scales + 2 * at);
  return w.scale_dtype == DType::kBF16 ? bf16_bits(bits) : f16_bits(bits);
}

// One element, for places where speed does not matter.
template <Format F>
__device__ float element_at(const Weight& w, int64_t r, int c) {
  const uint8_t* row = w.row(r);
  if constexpr (F == Format::kF32) return std::bit_cast<float>(load_u32(row + 4 * int64_t{c}));
  if constexpr (F == Format::kBF16) return bf16_bits(load_u16(row + 2 * int64_t{c}));
  if constexpr (F == Format::kF16) return f16_bits(load_u16(row + 2 * int64_t{c}));
  if constexpr (F == Format::kFp8Block) return f8e4m3_bits(row[c]) * scale_at<F>(w, r, c);
  if constexpr (F == Format::kInt8) return int8_bits(row[c]) * scale_at<F>(w, r, c);
  if constexpr (F == Format::kInt4) return int4_bits(row[c / 2] >> c % 2 * 4) * scale_at<F>(w, r, c);
}

// Calls run.template operator()<F>() with the format as a constant.
template <class Run>
void with_format(Format format, const Run& run) {
  switch (format) {
    case Format::kF32:
      return run.template operator()<Format::kF32>();
    case Format::kBF16:
      return run.template operator()<Format::kBF16>();
    case Format::kF16:
      return run.template operator()<Format::kF16>();
    case Format::kFp8Block:
      return run.template operator()<Format::kFp8Block>();
    case Format::kInt8:
      return run.template operator()<Format::kInt8>();
    case Format::kInt4:
      return run.template operator()<Format::kInt4>();
  }
}

}  // namespace moebius::cuda
