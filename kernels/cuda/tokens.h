// Activations as products read them: rounded to int8, to the bits of quantize_activations (kernels/quant.h),
// or split into BF16 numbers for the matrix units.
#pragma once

#include <bit>

#include "kernels/cuda/context.h"

namespace moebius::cuda {

// How the 32 bytes of a group lie in memory. kEvenOdd: within every eight, the even columns and then the odd
// ones, as the nibbles of an int4 word come apart.
enum class Order : uint8_t { kPlain, kEvenOdd };
inline Order order_of(Format format) { return format == Format::kInt4 ? Order::kEvenOdd : Order::kPlain; }

// Rows of rounded tokens, `ld` groups apart, zero-padded to whole groups.
struct Tokens {
  int8_t* q = nullptr;     // [n, ld * 32], at a multiple of 16 bytes
  float* scale = nullptr;  // [n, ld]
  int32_t* sum = nullptr;  // [n, ld]: sum of q over each group
  int64_t ld = 0;
};

// Of scratch, for a token of `cols` numbers, at most, as products with a format take it.
int64_t prepared_bytes(Format format, int64_t cols);
// Memory for n tokens of `cols` numbers from the scratch; q is null when there is none left.
Tokens take_tokens(Context& context, int64_t n, int64_t cols);
// x [n, cols], rows ldx apart, rounded into memory from the scratch; q is null when there is none left.
Tokens round_tokens(Context& context, const float* x, int64_t n, int64_t cols, int64_t ldx, Order order);

// Rows of float32 numbers as sums of three BF16 numbers each, exactly; padded with zeros to 16 bytes.
inline constexpr int kSplitParts = 3;
struct SplitTokens {
  uint16_t* at = nullptr;  // [kSplitParts, n, ld], at a multiple of 16 bytes
  int64_t ld = 0, part_stride = 0;
  __host__ __device__ uint16_t* part(int i) const { return at + i * part_stride; }
};
// Memory from the scratch; `at` is null when there is none left.
SplitTokens split_tokens(Context& context, const float* x, int64_t n, int64_t cols, int64_t ldx);

// The bits of the first BF16 part of a number, of which the rest is left: the next eight bits of its
// mantissa.
__device__ inline uint32_t split_off(float& left) {
  const uint32_t bits = std::bit_cast<uint32_t>(left), magnitude = bits & 0x7fffffffu;
  // Of NaN, a quiet one must stay; nothing is left of it and of infinity.
  const uint32_t part = bits >> 16 | (magnitude > 0x7f800000u ? 0x40u : 0u);
  left = magnitude < 0x7f800000u ? left - std::bit_cast<float>(bits & 0xffff0000u) : 0.0f;
  return part;
}

// A warp rounds one group, a column to a lane; `value` of columns past the end of the row is 0. Lane i has
// column i.
__device__ inline void round_group(float value, Order order, int8_t* q, float* scale, int32_t* sum) {
  // Integer comparison orders magnitudes as floats do, with infinity and then NaN on top.
  uint32_t largest = std::bit_cast<uint32_t>(value) & 0x7fffffffu;
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const uint32_t other = shuffle_xor(largest, mask);
    largest = other > largest ? other : largest;
  }
  const float m = std::bit_cast<float>(largest);
  const bool zero = m < 0x1p-120f, finite = largest < 0x7f800000u;
  int32_t rounded = 0;
  if (!zero && finite) {
    constexpr float kRound = 0x1.8p23f;  // adding it leaves no bits for a fraction: rounds to nearest even
    const float scaled = (value * (127.0f / m) + kRound) - kRound;
    rounded = static_cast<int32_t>(fminf(127.0f, fmaxf(-127.0f, scaled)));
  }
  int32_t total = rounded;
  for (int mask = kWarp / 2; mask > 0; mask /= 2) total += shuffle_xor(total, mask);
  const int c = lane();
  const int at = order == Order::kPlain ? c : (c & ~7) | (c & 1) << 2 | (c & 7) >> 1;
  q[at] = static_cast<int8_t>(rounded);
  if (c == 0) *scale = zero ? 0.0f : m / 127.0f, *sum = total;
}

}  // namespace moebius::cuda
