// Row-wise inner loops with AVX2, called only where the processor has it. n >= 0 numbers; any alignment.
#pragma once

#include <cstdint>

namespace moebius {

void rms_norm_row_avx2(const float* x, const float* weight, float eps, int64_t n, float* y);
void rotary_row_avx2(float* x, const float* cos, const float* sin, int64_t half, bool interleaved);
// One group of an int8 cache, n <= 32: see ops.h.
void round_group_avx2(const float* x, int64_t n, int8_t* codes, uint16_t* scale);
void narrow_row_avx2(const float* x, int64_t n, uint16_t* bf16);  // to nearest even, NaN stays NaN
void add_scaled_row_avx2(float weight, const float* x, int64_t n, float* y);  // y = fma(weight, x, y)
// y = fma(weights[j], x[j], y), j ascending; x [count, n], rows ld apart
void add_scaled_rows_avx2(const float* weights, int64_t count, const float* x, int64_t ld, int64_t n,
                          float* y);
void swiglu_row_avx2(const float* gate, const float* up, int64_t n, float* y);
void exp_row_avx2(const float* x, int64_t n, float* y);
// The bits of quantize_activations.
void quantize_activations_avx2(const float* x, int64_t cols, int8_t* q, float* scale, int32_t* sum);

}  // namespace moebius
