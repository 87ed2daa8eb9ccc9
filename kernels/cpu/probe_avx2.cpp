#include <immintrin.h>

#include "kernels/cpu/probe_loops.h"

namespace moebius {
namespace {

uint64_t sum_words(__m256i x) {
  alignas(32) uint64_t words[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(words), x);
  return words[0] + words[1] + words[2] + words[3];
}

}  // namespace

uint64_t probe_load_avx2(const uint8_t* data, int64_t bytes) {
  __m256i sums[4] = {};
  for (int64_t at = 0; at < bytes; at += 256) {
    for (int i = 0; i < 8; ++i) {
      const auto* from = reinterpret_cast<const __m256i*>(data + at + 32 * i);
      sums[i % 4] = _mm256_xor_si256(sums[i % 4], _mm256_load_si256(from));
    }
  }
  return sum_words(_mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]), _mm256_xor_si256(sums[2], sums[3])));
}

float probe_fma_avx2(int64_t rounds) {
  __m256 chains[kProbeChains];
  for (int i = 0; i < kProbeChains; ++i) chains[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(0.5f);
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kProbeChains; ++i) chains[i] = _mm256_fmadd_ps(chains[i], factor, term);
  }
  __m256 sum = chains[0];
  for (int i = 1; i < kProbeChains; ++i) sum = _mm256_add_ps(sum, chains[i]);
  return _mm256_cvtss_f32(sum);
}

uint64_t probe_int8_avx2(int64_t rounds) {
  __m256i chains[kProbeInt8Chains];
  for (int i = 0; i < kProbeInt8Chains; ++i) chains[i] = _mm256_set1_epi32(i);
  const __m256i ones = _mm256_set1_epi16(1), activations = _mm256_set1_epi8(5);
  __m256i weights = _mm256_set1_epi8(3);
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kProbeInt8Chains; ++i) {
      __asm__("" : "+x"(weights));  // might be others now, so the product cannot be moved out of the loop
      const __m256i products = _mm256_madd_epi16(_mm256_maddubs_epi16(weights, activations), ones);
      chains[i] = _mm256_add_epi32(chains[i], products);
    }
  }
  __m256i sum = chains[0];
  for (int i = 1; i < kProbeInt8Chains; ++i) sum = _mm256_add_epi32(sum, chains[i]);
  return sum_words(sum);
}

}  // namespace moebius
