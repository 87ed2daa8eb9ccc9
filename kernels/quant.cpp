#include "kernels/quant.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include <fmt/format.h>

#include "kernels/half.h"
#include "kernels/rows.h"

namespace moebius {

const char* format_name(Format format) {
  static constexpr const char* kNames[kFormats] = {"f32", "bf16", "f16", "fp8", "int8", "int4"};
  return kNames[static_cast<int>(format)];
}

int64_t Matrix::row_bytes() const {
  switch (format) {
    case Format::kF32:
      return cols * 4;
    case Format::kBF16:
    case Format::kF16:
      return cols * 2;
    case Format::kFp8Block:
      return cols;
    case Format::kInt8:
      return (cols + 3) / 4 * 4;
    case Format::kInt4:
      return (cols + 7) / 8 * 4;
  }
  MOEBIUS_CHECK(false, "unknown format");
}

int64_t Matrix::bytes() const {
  const int64_t scale_rows = format == Format::kFp8Block ? (rows + kFp8Block - 1) / kFp8Block : rows;
  const int64_t scale_bytes = scales ? static_cast<int64_t>(dtype_bytes(scale_dtype)) : 0;
  return rows * row_bytes() + scale_rows * scales_per_row() * scale_bytes;
}

std::string Matrix::describe() const { return fmt::format("{}[{}, {}]", format_name(format), rows, cols); }

float matrix_scale(const Matrix& w, int64_t r, int64_t c) {
  if (!w.scales) return 1;
  const int64_t row = w.format == Format::kFp8Block ? r / kFp8Block : r;
  const int64_t at = row * w.scales_per_row() + c / w.group;
  switch (w.scale_dtype) {
    case DType::kBF16:
      return bf16_to_f32(load_unaligned<uint16_t>(w.scales, at));
    case DType::kF16:
      return f16_to_f32(load_unaligned<uint16_t>(w.scales, at));
    default:
      return load_unaligned<float>(w.scales, at);
  }
}

namespace {

// Integer comparison orders magnitudes as floats do, with infinity and then NaN on top.
float largest_magnitude(const float* x, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  return std::bit_cast<float>(largest);
}

void quantize_group(const float* x, int64_t n, int8_t* q, float* scale, int32_t* sum) {
  const float m = largest_magnitude(x, n);
  std::fill(q, q + kActivationGroup, static_cast<int8_t>(0));
  *sum = 0;
  *scale = m < 0x1p-120f ? 0.0f : m / 127.0f;
  if (m < 0x1p-120f || !std::isfinite(m)) return;
  const float inverse = 127.0f / m;
  constexpr float kRound = 0x1.8p23f;  // adding it leaves no bits for a fraction: rounds to nearest even
  int32_t total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float rounded = (x[i] * inverse + kRound) - kRound;
    const int32_t value = static_cast<int32_t>(std::min(127.0f, std::max(-127.0f, rounded)));
    q[i] = static_cast<int8_t>(value);
    total += value;
  }
  *sum = total;
}

}  // namespace

void quantize_activations(const float* x, int64_t cols, int8_t* q, float* scale, int32_t* sum) {
  for (int64_t c = 0, g = 0; c < cols; c += kActivationGroup, ++g)
    quantize_group(x + c, std::min(kActivationGroup, cols - c), q + c, scale + g, sum + g);
}

std::span<const FormatKernels> format_kernels(Format format) {
#define MOEBIUS_ROWS(suffix, isa) \
  {"rows_" #suffix, isa, dot_rows_##suffix, axpy_rows_##suffix, dequantize_rows_##suffix}
#define MOEBIUS_ROWS_WIDE(suffix, isa, axpy, dequantize) \
  { "rows_" #suffix, isa, dot_rows_##suffix, axpy_rows_##axpy, dequantize_rows_##dequantize }
#define MOEBIUS_KERNELS(type, axpy, dequantize)                                                            \
  MOEBIUS_ROWS_WIDE(type##_avx512, Isa::kAvx512, axpy, dequantize), MOEBIUS_ROWS(type##_avx2, Isa::kAvx2), \
      MOEBIUS_ROWS(type##_ref, Isa::kScalar)
#define MOEBIUS_FORMAT(name, type, axpy, dequantize) \
  static constexpr FormatKernels name[] = {MOEBIUS_KERNELS(type, axpy, dequantize)}
#define MOEBIUS_AMX_FORMAT(name, type, axpy, dequantize)                                               \
  static constexpr FormatKernels name[] = {MOEBIUS_ROWS_WIDE(type##_amx, Isa::kAmx, axpy, dequantize), \
                                           MOEBIUS_KERNELS(type, axpy, dequantize)}
  MOEBIUS_FORMAT(kF32, f32, f32_avx512, f32_avx2);
  MOEBIUS_AMX_FORMAT(kBF16, bf16, bf16_avx512, bf16_avx2);
  MOEBIUS_FORMAT(kF16, f16, f16_avx512, f16_avx2);
  MOEBIUS_AMX_FORMAT(kFp8, fp8, fp8_avx512, fp8_avx2);
  MOEBIUS_AMX_FORMAT(kInt8, int8, int8_exact_avx512, int8_avx2);
  MOEBIUS_AMX_FORMAT(kInt4, int4, int4_exact_avx512, int4_avx512);
#undef MOEBIUS_AMX_FORMAT
#undef MOEBIUS_FORMAT
#undef MOEBIUS_KERNELS
#undef MOEBIUS_ROWS_WIDE
#undef MOEBIUS_ROWS
  switch (format) {
    case Format::kF32:
      return kF32;
    case Format::kBF16:
      return kBF16;
    case Format::kF16:
      return kF16;
    case Format::kFp8Block:
      return kFp8;
    case Format::kInt8:
      return kInt8;
    case Format::kInt4:
      return kInt4;
  }
  MOEBIUS_CHECK(false, "unknown format");
}

const FormatKernels& best_kernels(Format format, Isa most) {
  const std::span<const FormatKernels> all = format_kernels(format);
  for (const FormatKernels& kernels : all)
    if (kernels.isa <= most) return kernels;
  MOEBIUS_CHECK(false, format_name(format));
}

}  // namespace moebius
