// Row kernels of int4 and int8 for many tokens by AMX; few go by AVX-512, as do rows left over.
//
// Sixteen rows are unpacked some groups at a time into the tiles' order, four columns of sixteen rows in a
// line, and serve all tokens. A product of tiles is one group of sixteen tokens and sixteen rows, exact in
// int32; it is stored, for only vectors can be scaled, and added to totals that stay in registers. Scaling,
// three instructions for sixteen numbers, takes about as long as the products and their stores.
#include <algorithm>

#include "kernels/cpu/rows_int_formats_avx512.h"
#include "kernels/cpu/tiles_amx.h"

namespace moebius {
namespace {

constexpr int64_t kFewestTokens = 9;
constexpr int64_t kSliceTokens = 64, kSliceGroups = 88;  // that are arranged at once
constexpr int64_t kUnpackedGroups = 8;                   // of sixteen rows, 4 KB

// Groups [first, last) of n tokens, group by group.
struct Slice {
  alignas(64) int8_t q[kSliceTokens / kAmxRows][kSliceGroups][kAmxRows][kActivationGroup];
  float scale[kSliceTokens / kAmxRows][kSliceGroups][kAmxRows];
  int64_t n, first, last;

  template <class F>
  void fill(const Activations& x, const int64_t* token) {
    const int64_t groups = x.groups();
    for (int64_t t = 0; t < n; ++t) {
      const int64_t at = token[t] * groups + first;
      for (int64_t g = 0; g < last - first; ++g) {
        F::arrange(x.q + (at + g) * kActivationGroup, q[t / kAmxRows][g][t % kAmxRows]);
        scale[t / kAmxRows][g][t % kAmxRows] = x.scale[at + g];
      }
    }
  }
};

// Sixteen rows of some groups: line j holds columns 4j .. 4j + 3 of each, or what arrange puts there.
using Unpacked = int8_t[kUnpackedGroups][8][kAmxBytes];

template <class F>
static inline void unpack_group(const uint8_t* at, int64_t stride, int8_t (*lines)[kAmxBytes]) {
  __m512i words[F::kGroupBytes / 4], codes[8];
  for (int64_t i = 0; i < F::kGroupBytes; i += 16) gather_wide(at + i, stride, words + i / 4);
  F::unpack(words, codes);
  for (int j = 0; j < 8; ++j)
    _mm512_store_si512(lines[j],
                       _mm512_sub_epi8(codes[j], _mm512_set1_epi8(static_cast<char>(F::kDotOffset))));
}

// Groups [first, last) of rows r .. r + 15.
template <class F>
static void unpack_rows(const Rows& w, int64_t r, int64_t first, int64_t last, Unpacked& lines) {
  const uint8_t* at = w.row(r) + first * F::kGroupBytes;
  const int64_t whole = std::min(last, w.bytes / F::kGroupBytes);
  int64_t g = first;
  for (; g < whole; ++g, at += F::kGroupBytes) {
    if ((g * F::kGroupBytes) % kLine == 0)
      for (int i = 0; i < kAmxRows; ++i) prefetch(at + (kAmxRows + i) * w.bytes);
    unpack_group<F>(at, w.bytes, lines[g - first]);
  }
  if (g == last) return;
  uint8_t padded[kAmxRows][F::kGroupBytes] = {};  // the rows end within this group
  for (int i = 0; i < kAmxRows; ++i)
    std::memcpy(padded[i], at + i * w.bytes, static_cast<size_t>(w.bytes - g * F::kGroupBytes));
  unpack_group<F>(padded[0], F::kGroupBytes, lines[g - first]);
}

// Tiles: sums, tokens and rows; the same for the last tokens of a call, which may be fewer.
constexpr int kSums = 0, kTokens16 = 1, kRows16 = 2, kLastSums = 3, kLastTokens = 4;

static TileShapes shapes_for(int64_t tokens) {
  const int64_t last = tokens % kAmxRows;
  return TileShapes({{16, 64}, {16, 32}, {8, 64}, {last, last ? 64 : 0}, {last, last ? 32 : 0}, {}, {}, {}});
}

// y[i] += groups [first, last) of the slice for T tokens from t on; y holds nothing yet if `fresh`.
template <int T>
static void add_groups(const Slice& x, int64_t t, int64_t first, int64_t last, const Unpacked& lines,
                       const float (*scales)[kAmxRows], bool fresh, float* y, int64_t ldy) {
  constexpr int kC = T < 16 ? kLastSums : kSums, kA = T < 16 ? kLastTokens : kTokens16;
  alignas(64) int32_t sums[kUnpackedGroups][T][16];
  for (int64_t g = first; g < last; ++g) {
    zero_tile<kC>();
    load_tile<kA>(x.q[t / kAmxRows][g], kActivationGroup);
    load_tile<kRows16>(lines[g - first], kAmxBytes);
    add_int8_product<kC, kA, kRows16>();
    store_tile<kC>(sums[g - first], kAmxBytes);
  }
  __m512 total[T];
  MOEBIUS_UNROLL
  for (int i = 0; i < T; ++i) total[i] = fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(y + i * ldy);
  for (int64_t g = first; g < last; ++g) {
    const __m512 w_scale = _mm512_load_ps(scales[g]);
    MOEBIUS_UNROLL
    for (int i = 0; i < T; ++i) {
      const __m512 scale = _mm512_mul_ps(w_scale, _mm512_set1_ps(x.scale[t / kAmxRows][g][i]));
      const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums[g - first][i]));
      total[i] = _mm512_fmadd_ps(sum, scale, total[i]);
    }
  }
  MOEBIUS_UNROLL
  for (int i = 0; i < T; ++i) _mm512_storeu_ps(y + i * ldy, total[i]);
}

using AddGroups = decltype(&add_groups<1>);
constexpr AddGroups kAddGroups[] = {
    nullptr,        add_groups<1>,  add_groups<2>,  add_groups<3>,  add_groups<4>,  add_groups<5>,
    add_groups<6>,  add_groups<7>,  add_groups<8>,  add_groups<9>,  add_groups<10>, add_groups<11>,
    add_groups<12>, add_groups<13>, add_groups<14>, add_groups<15>, add_groups<16>};

// The slice's part of rows r .. r + 15, for all its tokens.
template <class F>
static void dot_sixteen_rows(const Rows& w, int64_t r, const Slice& x, float* y, int64_t ldy) {
  alignas(64) float scales[kSliceGroups][kAmxRows];
  for (int eight = 0; eight < kAmxRows; eight += 8)
    spread_scales(w, eight_rows(w, r + eight, false), x.first, x.last, scales[0] + eight, kAmxRows);
  const int64_t count = x.last - x.first;
  for (int64_t g = 0; g < count; g += kUnpackedGroups) {
    const int64_t end = std::min(count, g + kUnpackedGroups);
    alignas(64) Unpacked lines;
    unpack_rows<F>(w, r, x.first + g, x.first + end, lines);
    for (int64_t t = 0; t < x.n; t += kAmxRows)
      kAddGroups[std::min(kAmxRows, x.n - t)](x, t, g, end, lines, scales, x.first + g == 0, y + t * ldy,
                                              ldy);
  }
}

// Rows [begin, end), a multiple of sixteen.
template <class F>
static void dot_by_tiles(const Rows& w, int64_t begin, int64_t end, const Activations& x,
                         const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  const int64_t groups = x.groups();
  const TileShapes shapes = shapes_for(n);  // kSliceTokens is a multiple of sixteen
  Slice slice;
  for (int64_t i = 0; i < n; i += kSliceTokens) {
    int64_t token[kSliceTokens];
    slice.n = std::min(kSliceTokens, n - i);
    for (int64_t t = 0; t < slice.n; ++t) token[t] = tokens ? tokens[i + t] : i + t;
    for (slice.first = 0; slice.first < groups; slice.first = slice.last) {
      slice.last = std::min(groups, slice.first + kSliceGroups);
      slice.fill<F>(x, token);
      for (int64_t r = begin; r < end; r += kAmxRows)
        dot_sixteen_rows<F>(w, r, slice, y + i * ldy + (r - begin), ldy);
    }
  }
}

template <class F>
static void dot_rows_by_tiles(const Matrix& matrix, int64_t begin, int64_t end, const Activations& x,
                              const int32_t* tokens, int64_t n, float* y, int64_t ldy,
                              decltype(FormatKernels::dot_rows) others) {
  const bool by_tiles = x.q && n >= kFewestTokens && matrix.cols > 0;
  const int64_t whole = by_tiles ? begin + (end - begin) / kAmxRows * kAmxRows : begin;
  if (whole > begin) dot_by_tiles<F>(Rows(matrix), begin, whole, x, tokens, n, y, ldy);
  if (whole < end) others(matrix, whole, end, x, tokens, n, y + (whole - begin), ldy);
}

}  // namespace

void dot_rows_int4_amx(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                       const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  dot_rows_by_tiles<Int4>(w, begin, end, x, tokens, n, y, ldy, dot_rows_wide_int4);
}

void dot_rows_int8_amx(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                       const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  dot_rows_by_tiles<Int8>(w, begin, end, x, tokens, n, y, ldy, dot_rows_int8_avx512);
}

}  // namespace moebius
