// Row kernels of FP8 where there is AMX: many tokens by tiles, of rows that become BF16, which is exact; few
// by AVX-512, where rows become floats by the same look-up. The bits that rows_fp8_avx512.h moves would do,
// but where a number is subnormal these processors take a hundred times as long.
#include <bit>

#include "kernels/cpu/rows_fp8_avx512.h"
#include "kernels/cpu/rows_parts_amx.h"
#include "kernels/half.h"

namespace moebius {
namespace {

constexpr int64_t kSliceColumns = 2048;              // that become BF16 at once
constexpr int64_t kStride = 2 * kSliceColumns + 64;  // bytes of such a row, not all in one set of a cache

// The two bytes of the BF16 number that each code without its sign is.
struct Fp8Table {
  alignas(64) uint8_t low[128] = {}, high[128] = {};
  constexpr Fp8Table() {
    for (int code = 0; code < 128; ++code) {
      const uint32_t bits = std::bit_cast<uint32_t>(f8e4m3_to_f32(static_cast<uint8_t>(code))) >> 16;
      low[code] = static_cast<uint8_t>(bits & 255), high[code] = static_cast<uint8_t>(bits >> 8);
    }
  }
};

static inline __m512i look_up(const uint8_t (&table)[128], __m512i codes) {
  return _mm512_permutex2var_epi8(_mm512_load_si512(table), codes, _mm512_load_si512(table + 64));
}

// 64 codes as BF16: of each sixteen the first eight, and the last eight.
static inline void widen(__m512i codes, __m512i& first, __m512i& last) {
  static constexpr Fp8Table kTable;
  const __m512i sign = _mm512_and_si512(codes, _mm512_set1_epi8(-128));
  const __m512i low = look_up(kTable.low, codes), high = _mm512_or_si512(look_up(kTable.high, codes), sign);
  first = _mm512_unpacklo_epi8(low, high), last = _mm512_unpackhi_epi8(low, high);
}

struct Fp8 {
  static constexpr int64_t kScaledRows = kFp8Block, kScaledColumns = kFp8Block, kSlice = kSliceColumns;
  struct Slice {
    Slice(const Rows& w, int64_t r, int64_t count, int64_t begin, int64_t end) {
      // Eights in the order in which widen leaves columns side by side.
      const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
      for (int64_t i = 0; i < count; ++i)
        for (int64_t c = begin; c < end; c += kLine) {
          const uint8_t* at = w.row(r + i) + c;
          prefetch(at + count * w.bytes);
          __m512i first, last;
          widen(_mm512_permutexvar_epi64(order, _mm512_loadu_si512(at)), first, last);
          _mm512_store_si512(copy[i] + 2 * (c - begin), first);
          _mm512_store_si512(copy[i] + 2 * (c - begin) + kLine, last);
        }
    }
    alignas(64) uint8_t copy[2 * kAmxRows][kStride];
    const uint8_t* rows = copy[0];
    static constexpr int64_t stride = kStride;
  };
  static float scale(const Rows& w, int64_t r, int64_t c) {
    return scale_at(w, r / kFp8Block * w.per_row + c / kFp8Block);
  }
};

struct LookedUp {  // for rows_fp8_avx512.h
  static constexpr float kTokenFactor = 1, kScaleFactor = 1, kLimit = INFINITY;
  static inline __m512i columns(int k) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 16, 18, 20, 22, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_add_epi32(even, _mm512_set1_epi32(k / 2 * 8 + k % 2));
  }
  static inline void load(const uint8_t* row, __m512 (&weights)[4]) {
    __m512i halves[2];
    widen(_mm512_loadu_si512(row), halves[0], halves[1]);
    MOEBIUS_UNROLL
    for (int i = 0; i < 2; ++i) {
      const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xffff0000));
      weights[2 * i] = _mm512_castsi512_ps(_mm512_slli_epi32(halves[i], 16));
      weights[2 * i + 1] = _mm512_castsi512_ps(_mm512_and_si512(halves[i], odd));
    }
  }
};

template <int T>
static void dot_looked_up(const Rows& w, int64_t begin, int64_t end, const float* const* x, float* const* y) {
  dot_moved_tokens<LookedUp, T>(w, begin, end, x, y);
}

static void dot_few_tokens(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                           const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  static constexpr DotTokens kDots[5] = {nullptr, dot_looked_up<1>, dot_looked_up<2>, dot_looked_up<3>,
                                         dot_looked_up<4>};
  if (!can_move(Rows(w))) return dot_rows_fp8_avx512(w, begin, end, x, tokens, n, y, ldy);
  dot_by_tokens(kDots, w, begin, end, x, tokens, n, y, ldy);
}

}  // namespace

void dot_rows_fp8_amx(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                      const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  dot_by_parts<Fp8>(w, begin, end, x, tokens, n, y, ldy, dot_few_tokens);
}

}  // namespace moebius
