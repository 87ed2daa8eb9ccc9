// The row kernels of every format and instruction set, by name; quant.cpp orders them into format_kernels().
// The contracts are those of FormatKernels' members.
#pragma once

#include "kernels/quant.h"

namespace moebius {

#define MOEBIUS_ROW_KERNELS(suffix)                                                                         \
  void dot_rows_##suffix(const Matrix& w, int64_t begin, int64_t end, const Activations& x,                 \
                         const int32_t* tokens, int64_t n, float* y, int64_t ldy);                          \
  void axpy_rows_##suffix(const Matrix& w, int64_t begin, int64_t end, const float* coefficient, float* y); \
  void dequantize_rows_##suffix(const Matrix& w, int64_t begin, int64_t end, float* out, int64_t ld);

MOEBIUS_ROW_KERNELS(f32_ref)
MOEBIUS_ROW_KERNELS(bf16_ref)
MOEBIUS_ROW_KERNELS(f16_ref)
MOEBIUS_ROW_KERNELS(fp8_ref)
MOEBIUS_ROW_KERNELS(int8_ref)
MOEBIUS_ROW_KERNELS(int4_ref)

MOEBIUS_ROW_KERNELS(f32_avx2)
MOEBIUS_ROW_KERNELS(bf16_avx2)
MOEBIUS_ROW_KERNELS(f16_avx2)
MOEBIUS_ROW_KERNELS(fp8_avx2)
MOEBIUS_ROW_KERNELS(int8_avx2)
MOEBIUS_ROW_KERNELS(int4_avx2)

#undef MOEBIUS_ROW_KERNELS

// With AVX-512 VNNI; dequantised rows are the AVX2 kernels', but for int4. int8_exact, int4_exact: on
// activations that are not rounded (their q is not looked at).
#define MOEBIUS_ROW_KERNELS_AVX512(suffix)                                                  \
  void dot_rows_##suffix(const Matrix& w, int64_t begin, int64_t end, const Activations& x, \
                         const int32_t* tokens, int64_t n, float* y, int64_t ldy);          \
  void axpy_rows_##suffix(const Matrix& w, int64_t begin, int64_t end, const float* coefficient, float* y);

MOEBIUS_ROW_KERNELS_AVX512(f32_avx512)
MOEBIUS_ROW_KERNELS_AVX512(bf16_avx512)
MOEBIUS_ROW_KERNELS_AVX512(f16_avx512)
MOEBIUS_ROW_KERNELS_AVX512(fp8_avx512)
MOEBIUS_ROW_KERNELS_AVX512(int8_exact_avx512)
MOEBIUS_ROW_KERNELS_AVX512(int4_exact_avx512)

#undef MOEBIUS_ROW_KERNELS_AVX512

void dequantize_rows_int4_avx512(const Matrix& w, int64_t begin, int64_t end, float* out, int64_t ld);

// The same on rounded ones.
void dot_rows_int8_avx512(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                          const int32_t* tokens, int64_t n, float* y, int64_t ldy);
void dot_rows_int4_avx512(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                          const int32_t* tokens, int64_t n, float* y, int64_t ldy);

// With AMX, for BF16 and FP8 where the tokens have parts, for the others where there are several tokens.
//
// A float32 number is the sum of three BF16 numbers, whose eight bits each follow on one another. Tiles
// multiply all three, and so are as exact as products in float32, but that they take subnormal numbers for 0:
// of a number below 2^-103 the last bits. Rows in sixteens from a multiple of sixteen on go so, others as
// without parts. Parts of n
// tokens are [ceil(n / 16)][ceil(cols / 32)][3, the largest first][16 pairs of columns][16 tokens][2], of
// columns and tokens that are not there 0.
constexpr int64_t kPartTokens = 16, kPartColumns = 32, kParts = 3;
inline int64_t parts_block(int64_t cols) {  // numbers of sixteen tokens
  return (cols + kPartColumns - 1) / kPartColumns * kPartColumns * kPartTokens * kParts;
}
// The parts of up to sixteen tokens, rows x + tokens[i] * ld, or x + i * ld.
void split_tokens_amx(const float* x, int64_t ld, const int32_t* tokens, int64_t n, int64_t cols,
                      uint16_t* parts);
// Whether dot_rows reads parts with a matrix.
bool reads_parts_amx(const Matrix& w);

void dot_rows_bf16_amx(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                       const int32_t* tokens, int64_t n, float* y, int64_t ldy);
void dot_rows_fp8_amx(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                      const int32_t* tokens, int64_t n, float* y, int64_t ldy);
void dot_rows_int8_amx(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                       const int32_t* tokens, int64_t n, float* y, int64_t ldy);
void dot_rows_int4_amx(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                       const int32_t* tokens, int64_t n, float* y, int64_t ldy);

}  // namespace moebius
