#include "kernels/cpu/vector_ops.h"

#include "kernels/cpu/simd_avx2.h"

namespace moebius {
namespace {

float sum_of_squares(const float* x, int64_t n) {
  __m256 sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) {
      const __m256 v = _mm256_loadu_ps(x + i + k * kLanes);
      sum[k] = _mm256_fmadd_ps(v, v, sum[k]);
    }
  }
  for (; i < n; i += kLanes) {
    const __m256 v = _mm256_maskload_ps(x + i, first_lanes(n - i));
    sum[0] = _mm256_fmadd_ps(v, v, sum[0]);
  }
  return sum_lanes(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3])));
}

void rotate_halves(float* x, const float* cos, const float* sin, int64_t half) {
  const auto rotate = [](__m256 a, __m256 b, __m256 c, __m256 s, __m256& first, __m256& second) {
    first = _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s));
    second = _mm256_add_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, s));
  };
  __m256 first, second;
  by_eight(
      half,
      [&](int64_t i) {
        rotate(_mm256_loadu_ps(x + i), _mm256_loadu_ps(x + half + i), _mm256_loadu_ps(cos + i),
               _mm256_loadu_ps(sin + i), first, second);
        _mm256_storeu_ps(x + i, first);
        _mm256_storeu_ps(x + half + i, second);
      },
      [&](int64_t i, __m256i m) {
        rotate(_mm256_maskload_ps(x + i, m), _mm256_maskload_ps(x + half + i, m),
               _mm256_maskload_ps(cos + i, m), _mm256_maskload_ps(sin + i, m), first, second);
        _mm256_maskstore_ps(x + i, m, first);
        _mm256_maskstore_ps(x + half + i, m, second);
      });
}

void rotate_pairs(float* x, const float* cos, const float* sin, int64_t half) {
  // (a, b) -> (a c - b s, b c + a s), four pairs at a time: every angle twice, pairs swapped for the second
  // term.
  int64_t i = 0;
  for (; i + 4 <= half; i += 4) {
    const __m256 v = _mm256_loadu_ps(x + 2 * i), swapped = _mm256_permute_ps(v, 0xb1);
    const __m128 c = _mm_loadu_ps(cos + i), s = _mm_loadu_ps(sin + i);
    const __m256 cc = _mm256_set_m128(_mm_unpackhi_ps(c, c), _mm_unpacklo_ps(c, c));
    const __m256 ss = _mm256_set_m128(_mm_unpackhi_ps(s, s), _mm_unpacklo_ps(s, s));
    _mm256_storeu_ps(x + 2 * i, _mm256_addsub_ps(_mm256_mul_ps(v, cc), _mm256_mul_ps(swapped, ss)));
  }
  for (; i < half; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cos[i] - b * sin[i];
    x[2 * i + 1] = b * cos[i] + a * sin[i];
  }
}

__m256 swiglu_avx2(__m256 gate, __m256 up) { return _mm256_mul_ps(silu_avx2(gate), up); }

}  // namespace

void rms_norm_row_avx2(const float* x, const float* weight, float eps, int64_t n, float* y) {
  const float mean = sum_of_squares(x, n) / static_cast<float>(n) + eps;
  const __m256 factor = _mm256_div_ps(_mm256_set1_ps(1.0f), _mm256_sqrt_ps(_mm256_set1_ps(mean)));
  by_eight(
      n,
      [&](int64_t i) {
        const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), factor);
        _mm256_storeu_ps(y + i, _mm256_mul_ps(v, _mm256_loadu_ps(weight + i)));
      },
      [&](int64_t i, __m256i m) {
        const __m256 v = _mm256_mul_ps(_mm256_maskload_ps(x + i, m), factor);
        _mm256_maskstore_ps(y + i, m, _mm256_mul_ps(v, _mm256_maskload_ps(weight + i, m)));
      });
}

void rotary_row_avx2(float* x, const float* cos, const float* sin, int64_t half, bool interleaved) {
  interleaved ? rotate_pairs(x, cos, sin, half) : rotate_halves(x, cos, sin, half);
}

void narrow_row_avx2(const float* x, int64_t n, uint16_t* bf16) {
  const auto narrow = [](__m256 v) {  // eight 16-bit numbers in the low half
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    const __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    const __m256i both = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan));
    return _mm_packus_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
  };
  by_eight(
      n,
      [&](int64_t i) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(bf16 + i), narrow(_mm256_loadu_ps(x + i)));
      },
      [&](int64_t i, __m256i m) {
        alignas(16) uint16_t last[kLanes];
        _mm_store_si128(reinterpret_cast<__m128i*>(last), narrow(_mm256_maskload_ps(x + i, m)));
        for (int64_t j = i; j < n; ++j) bf16[j] = last[j - i];
      });
}

void round_group_avx2(const float* x, int64_t n, int8_t* codes, uint16_t* scale) {
  const __m256 sign = _mm256_set1_ps(-0.0f), limit = _mm256_set1_ps(__builtin_inff());
  __m256 v[4], most = _mm256_setzero_ps(), finite = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  for (int k = 0; k < 4; ++k) {
    const int64_t left = n - k * kLanes;
    v[k] = left <= 0 ? _mm256_setzero_ps() : _mm256_maskload_ps(x + k * kLanes, first_lanes(left));
    const __m256 magnitude = _mm256_andnot_ps(sign, v[k]);
    finite = _mm256_and_ps(finite, _mm256_cmp_ps(magnitude, limit, _CMP_LT_OQ));
    most = _mm256_max_ps(most, magnitude);
  }
  const bool all_finite = _mm256_movemask_ps(finite) == 0xff;
  const float m = max_lanes(most);
  const bool zero = !all_finite || m < 0x1p-110f;
  *scale = all_finite ? 0 : 0x7fc0;
  float step = 1;
  if (!zero) {
    const float exact = m / 127;
    uint32_t bits;
    __builtin_memcpy(&bits, &exact, sizeof bits);
    *scale = static_cast<uint16_t>((bits + 0xffff) >> 16);
    bits = static_cast<uint32_t>(*scale) << 16;
    __builtin_memcpy(&step, &bits, sizeof step);
  }
  __m256i words[4];
  for (int k = 0; k < 4; ++k)
    words[k] = zero ? _mm256_setzero_si256() : _mm256_cvtps_epi32(_mm256_div_ps(v[k], _mm256_set1_ps(step)));
  // Packs of 16 and 8 bits work within halves; what they leave is put in order. No code is beyond +-127, for
  // m / step is at most 127 but for one rounding.
  const __m256i bytes =
      _mm256_packs_epi16(_mm256_packs_epi32(words[0], words[1]), _mm256_packs_epi32(words[2], words[3]));
  alignas(32) int8_t ordered[32];
  _mm256_store_si256(reinterpret_cast<__m256i*>(ordered),
                     _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
  __builtin_memcpy(codes, ordered, static_cast<size_t>(n));
}

void add_scaled_row_avx2(float weight, const float* x, int64_t n, float* y) {
  const __m256 w = _mm256_set1_ps(weight);
  by_eight(
      n,
      [&](int64_t i) {
        _mm256_storeu_ps(y + i, _mm256_fmadd_ps(w, _mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
      },
      [&](int64_t i, __m256i m) {
        const __m256 sum = _mm256_fmadd_ps(w, _mm256_maskload_ps(x + i, m), _mm256_maskload_ps(y + i, m));
        _mm256_maskstore_ps(y + i, m, sum);
      });
}

void add_scaled_rows_avx2(const float* weights, int64_t count, const float* x, int64_t ld, int64_t n,
                          float* y) {
  by_eight(
      n,
      [&](int64_t i) {
        __m256 sum = _mm256_loadu_ps(y + i);
        for (int64_t j = 0; j < count; ++j)
          sum = _mm256_fmadd_ps(_mm256_set1_ps(weights[j]), _mm256_loadu_ps(x + j * ld + i), sum);
        _mm256_storeu_ps(y + i, sum);
      },
      [&](int64_t i, __m256i m) {
        __m256 sum = _mm256_maskload_ps(y + i, m);
        for (int64_t j = 0; j < count; ++j)
          sum = _mm256_fmadd_ps(_mm256_set1_ps(weights[j]), _mm256_maskload_ps(x + j * ld + i, m), sum);
        _mm256_maskstore_ps(y + i, m, sum);
      });
}

void swiglu_row_avx2(const float* gate, const float* up, int64_t n, float* y) {
  by_eight(
      n,
      [&](int64_t i) {
        _mm256_storeu_ps(y + i, swiglu_avx2(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
      },
      [&](int64_t i, __m256i m) {
        _mm256_maskstore_ps(y + i, m,
                            swiglu_avx2(_mm256_maskload_ps(gate + i, m), _mm256_maskload_ps(up + i, m)));
      });
}

void exp_row_avx2(const float* x, int64_t n, float* y) {
  by_eight(
      n, [&](int64_t i) { _mm256_storeu_ps(y + i, exp_avx2(_mm256_loadu_ps(x + i))); },
      [&](int64_t i, __m256i m) { _mm256_maskstore_ps(y + i, m, exp_avx2(_mm256_maskload_ps(x + i, m))); });
}

}  // namespace moebius
