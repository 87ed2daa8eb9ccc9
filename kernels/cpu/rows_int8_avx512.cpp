// AVX-512 VNNI row kernel of int8.
#include "kernels/cpu/rows_int_avx512.h"
#include "kernels/rows.h"

namespace moebius {
namespace {

struct Int8 {
  static constexpr int64_t kUnitGroups = 2, kUnitBytes = 64, kGroupBytes = 32;
  static constexpr int32_t kDotOffset = 128;

  static inline void arrange(const int8_t* q, int8_t* arranged) {
    std::memcpy(arranged, q, kActivationGroup);
  }
  static inline void arrange_unit(const int8_t* q, int8_t* arranged) { std::memcpy(arranged, q, kUnitBytes); }

  static inline __m512i row_sums(const uint8_t* row, const int8_t* arranged, const int32_t* start) {
    return _mm512_dpbusd_epi32(load_wide(start), load_wide(row), load_wide(arranged));
  }

  // Each quarter of low and high is half of a group.
  static inline void join(__m512i low, __m512i high, __m512i* sums) {
    const __m512i first = _mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), high);
    const __m512i second =
        _mm512_permutex2var_epi64(low, _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15), high);
    sums[0] = _mm512_add_epi32(first, second);
  }

  static inline void unpack(const __m512i* words, __m512i* codes) {
    for (int j = 0; j < 8; ++j) codes[j] = words[j];
  }
};

}  // namespace

void dot_rows_int8_avx512(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                          const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  dot_rows_wide<Int8>(w, begin, end, x, tokens, n, y, ldy, dot_rows_int8_avx2);
}

}  // namespace moebius
