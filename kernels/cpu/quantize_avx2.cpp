#include <immintrin.h>

#include "kernels/cpu/vector_ops.h"
#include "kernels/quant.h"

namespace moebius {
namespace {

constexpr int kVectors = 4;  // of a group

// The largest magnitude as the bits of a float: integers order them, infinity and NaN on top.
uint32_t largest_bits(const __m256* x) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i largest = _mm256_setzero_si256();
  for (int i = 0; i < kVectors; ++i)
    largest = _mm256_max_epu32(largest, _mm256_and_si256(_mm256_castps_si256(x[i]), magnitude));
  __m128i four = _mm_max_epu32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
  four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(four));
}

int32_t sum_words(__m256i x) {
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

void round_group(const float* from, int8_t* q, float* scale, int32_t* sum) {
  __m256 x[kVectors];
  for (int i = 0; i < kVectors; ++i) x[i] = _mm256_loadu_ps(from + 8 * i);
  constexpr uint32_t kLeast = 0x03800000, kInfinity = 0x7f800000;  // kLeast: of 2^-120
  const uint32_t bits = largest_bits(x);
  const float m = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(bits))));
  *sum = 0;
  *scale = bits < kLeast ? 0.0f : m / 127.0f;
  __m256i* to = reinterpret_cast<__m256i*>(q);
  if (bits < kLeast || bits >= kInfinity) return _mm256_storeu_si256(to, _mm256_setzero_si256());
  const __m256 inverse = _mm256_set1_ps(127.0f / m);
  __m256i rounded[kVectors];
  for (int i = 0; i < kVectors; ++i) rounded[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x[i], inverse));
  *sum = sum_words(
      _mm256_add_epi32(_mm256_add_epi32(rounded[0], rounded[1]), _mm256_add_epi32(rounded[2], rounded[3])));
  // |x| <= m, so nothing is beyond 127 but by rounding of the product, which the nearest integer hides.
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(rounded[0], rounded[1]),
                                           _mm256_packs_epi32(rounded[2], rounded[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packs works on each half
  _mm256_storeu_si256(to, _mm256_permutevar8x32_epi32(bytes, order));
}

}  // namespace

void quantize_activations_avx2(const float* x, int64_t cols, int8_t* q, float* scale, int32_t* sum) {
  int64_t c = 0, g = 0;
  for (; c + kActivationGroup <= cols; c += kActivationGroup, ++g)
    round_group(x + c, q + c, scale + g, sum + g);
  quantize_activations(x + c, cols - c, q + c, scale + g, sum + g);
}

}  // namespace moebius
