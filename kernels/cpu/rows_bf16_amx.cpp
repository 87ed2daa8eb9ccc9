// Tokens in parts, and the row kernel of BF16 for them by AMX: rows are loaded as they lie.
#include "kernels/cpu/rows_parts_amx.h"

namespace moebius {
namespace {

struct Bf16 {
  static constexpr int64_t kScaledRows = INT64_MAX, kScaledColumns = INT64_MAX, kSlice = INT64_MAX;
  struct Slice {
    Slice(const Rows& w, int64_t r, int64_t, int64_t, int64_t) : rows(w.row(r)), stride(w.bytes) {}
    const uint8_t* rows;
    int64_t stride;
  };
  static float scale(const Rows&, int64_t, int64_t) { return 1; }
};

// Eight bits of a number, which its float has in front, and what is left of it.
static inline __m512 take_part(__m512& rest) {
  const __m512 part =
      _mm512_and_ps(rest, _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(0xffff0000))));
  const __mmask16 infinite = _mm512_fpclass_ps_mask(rest, 0x18);  // of these nothing
  rest = _mm512_maskz_sub_ps(static_cast<__mmask16>(~infinite), rest, part);
  return part;
}

// The upper halves of 32 floats.
static inline __m512i upper_halves(__m512 low, __m512 high) {
  alignas(64) static constexpr uint16_t kOdd[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                                    23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                    45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  return _mm512_permutex2var_epi16(_mm512_castps_si512(low), _mm512_load_si512(kOdd),
                                   _mm512_castps_si512(high));
}

}  // namespace

void split_tokens_amx(const float* x, int64_t ld, const int32_t* tokens, int64_t n, int64_t cols,
                      uint16_t* parts) {
  for (int64_t c = 0; c < cols; c += kPartColumns) {
    const int64_t left = std::min(kPartColumns, cols - c);
    const uint32_t columns = left < 32 ? (1u << left) - 1 : ~0u;
    const auto low_mask = static_cast<__mmask16>(columns), high_mask = static_cast<__mmask16>(columns >> 16);
    alignas(64) uint16_t rows[kParts][kPartTokens][kPartColumns] = {};
    for (int64_t t = 0; t < n; ++t) {
      const float* at = x + (tokens ? tokens[t] : t) * ld + c;
      __m512 low = _mm512_maskz_loadu_ps(low_mask, at), high = _mm512_maskz_loadu_ps(high_mask, at + 16);
      for (int p = 0; p < kParts; ++p) {
        const __m512 first = take_part(low), second = take_part(high);
        _mm512_store_si512(rows[p][t], upper_halves(first, second));
      }
    }
    for (int p = 0; p < kParts; ++p)
      for (int64_t pair = 0; pair < kPartColumns / 2; pair += 4) {
        __m512i words[4];
        gather_wide(reinterpret_cast<const uint8_t*>(rows[p][0] + 2 * pair), kAmxBytes, words);
        for (int i = 0; i < 4; ++i, parts += 2 * kPartTokens) _mm512_storeu_si512(parts, words[i]);
      }
  }
}

bool reads_parts_amx(const Matrix& w) {
  if (w.cols == 0) return false;
  if (w.format == Format::kBF16) return w.cols % kPartColumns == 0;
  return w.format == Format::kFp8Block && w.group == kFp8Block && w.cols % kFp8Block == 0;
}

void dot_rows_bf16_amx(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                       const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  dot_by_parts<Bf16>(w, begin, end, x, tokens, n, y, ldy, dot_rows_bf16_avx512);
}

}  // namespace moebius
