// AVX-512 VNNI row kernels of int8.
#include "kernels/cpu/rows_int_many_avx512.h"
#include "kernels/cpu/rows_int_token_avx2.h"
#include "kernels/rows.h"

namespace moebius {
namespace {

// One token, 32 bytes of a row at a time: read in pieces of 64 the rows come from memory more slowly.
struct Int8Token {
  static constexpr int64_t kUnitGroups = 1;
  static constexpr int32_t kOffset = 128;

  static inline void arrange_unit(const int8_t* q, int8_t* arranged) {
    std::memcpy(arranged, q, kActivationGroup);
  }

  static inline __m256i two_rows(const uint8_t* rows, int64_t stride, __m256i q) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i a = _mm256_dpbusd_epi32(zero, load_bytes(rows), q),
                  b = _mm256_dpbusd_epi32(zero, load_bytes(rows + stride), q);
    return _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  }

  // Lane i of each half: a half of row i's sum.
  static inline __m256i four_rows(const uint8_t* rows, int64_t stride, __m256i q) {
    const __m256i ab = two_rows(rows, stride, q), cd = two_rows(rows + 2 * stride, stride, q);
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
  }

  static inline void sum_unit(const uint8_t* rows, int64_t stride, const int8_t* arranged, __m256i* sums) {
    const __m256i q = load_bytes(arranged);
    const __m256i low = four_rows(rows, stride, q), high = four_rows(rows + 4 * stride, stride, q);
    sums[0] = _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20),
                               _mm256_permute2x128_si256(low, high, 0x31));
  }
};

struct Int8 {
  static constexpr int64_t kGroupBytes = 32;
  static constexpr int32_t kDotOffset = 128;

  static void dot_token(const Rows& w, int64_t begin, int64_t end, const Activations& x, int64_t token,
                        float* y) {
    moebius::dot_token<Int8Token>(w, begin, end, x, token, y);
  }

  static inline void arrange(const int8_t* q, int8_t* arranged) {
    std::memcpy(arranged, q, kActivationGroup);
  }
  static inline void unpack(const __m512i* words, __m512i* codes) {
    for (int j = 0; j < 8; ++j) codes[j] = words[j];
  }
};

}  // namespace

void dot_rows_int8_avx512(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                          const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  dot_rows_wide<Int8>(w, begin, end, x, tokens, n, y, ldy, dot_rows_int8_avx2, dot_rows_int8_exact_avx512);
}

}  // namespace moebius
