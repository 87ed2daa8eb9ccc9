#include <immintrin.h>

#include <algorithm>

#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/panels.h"

namespace moebius {
namespace {

#define MOEBIUS_UNROLL _Pragma("GCC unroll 16")

constexpr int64_t kLanes = 16;
constexpr int64_t kDotsTiles = 32;  // columns of which six rows stay in the first cache

// Some tiles of R rows of x against four of w.
template <int R>
void dots_block(const float* x, int64_t x_stride, const float* w, int64_t w_stride, int64_t tiles, float* y,
                bool accumulate) {
  __m512 sum[R][4];
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    MOEBIUS_UNROLL
    for (int r = 0; r < 4; ++r) sum[i][r] = _mm512_setzero_ps();
  }
  for (int64_t t = 0; t < tiles; ++t, x += x_stride, w += w_stride) {
    MOEBIUS_UNROLL
    for (int half = 0; half < 2; ++half) {
      __m512 weights[4];
      MOEBIUS_UNROLL
      for (int r = 0; r < 4; ++r) weights[r] = _mm512_loadu_ps(w + r * kPanelTile + half * kLanes);
      MOEBIUS_UNROLL
      for (int i = 0; i < R; ++i) {
        const __m512 row = _mm512_loadu_ps(x + i * kPanelTile + half * kLanes);
        MOEBIUS_UNROLL
        for (int r = 0; r < 4; ++r) sum[i][r] = _mm512_fmadd_ps(row, weights[r], sum[i][r]);
      }
    }
  }
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    __m128 sums = sum_lanes(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
    if (accumulate) sums = _mm_add_ps(_mm_loadu_ps(y + i * kPanelTile), sums);
    _mm_storeu_ps(y + i * kPanelTile, sums);
  }
}

// R rows of y, one tile.
template <int R>
void sums_block(std::span<const PanelTerm> terms, int64_t first, int64_t tile, float* y, bool accumulate) {
  __m512 sum[R][2];
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    MOEBIUS_UNROLL
    for (int half = 0; half < 2; ++half)
      sum[i][half] = accumulate ? _mm512_loadu_ps(y + i * kPanelTile + half * kLanes) : _mm512_setzero_ps();
  }
  for (const PanelTerm& term : terms) {
    const float* w = term.w.at(0, tile);
    for (int64_t begin = 0; begin < term.w.rows; begin += kPanelTile) {
      const float* c = term.c.at(first, begin / kPanelTile);
      const int64_t count = std::min(kPanelTile, term.w.rows - begin);
      for (int64_t r = 0; r < count; ++r, w += kPanelTile, ++c) {
        const __m512 low = _mm512_loadu_ps(w), high = _mm512_loadu_ps(w + kLanes);
        MOEBIUS_UNROLL
        for (int i = 0; i < R; ++i) {
          const __m512 factor = _mm512_set1_ps(c[i * kPanelTile]);
          sum[i][0] = _mm512_fmadd_ps(factor, low, sum[i][0]);
          sum[i][1] = _mm512_fmadd_ps(factor, high, sum[i][1]);
        }
      }
    }
  }
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    MOEBIUS_UNROLL
    for (int half = 0; half < 2; ++half) _mm512_storeu_ps(y + i * kPanelTile + half * kLanes, sum[i][half]);
  }
}

using DotsBlock = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*, bool);
constexpr DotsBlock kDots[] = {dots_block<1>, dots_block<2>, dots_block<3>,
                               dots_block<4>, dots_block<5>, dots_block<6>};
using SumsBlock = void (*)(std::span<const PanelTerm>, int64_t, int64_t, float*, bool);
constexpr SumsBlock kSums[] = {sums_block<1>,  sums_block<2>,  sums_block<3>,  sums_block<4>, sums_block<5>,
                               sums_block<6>,  sums_block<7>,  sums_block<8>,  sums_block<9>, sums_block<10>,
                               sums_block<11>, sums_block<12>, sums_block<13>, sums_block<14>};

// body(first row, rows) over as few cuts of [0, n) as there must be, all about as large.
template <class Body>
void cut_rows(int64_t n, int64_t most, const Body& body) {
  const int64_t cuts = (n + most - 1) / most;
  for (int64_t i = 0; i < cuts; ++i) body(i * n / cuts, (i + 1) * n / cuts - i * n / cuts);
}

}  // namespace

void fill_panel_row_avx512(const float* from, int64_t cols, const Panel& panel, int64_t row) {
  float* to = panel.at(row, 0);
  for (int64_t t = 0; t < panel.tiles; ++t, to += panel.tile_stride, from += kPanelTile) {
    const int64_t count = std::clamp<int64_t>(cols - t * kPanelTile, 0, kPanelTile);
    const uint64_t columns = (uint64_t{1} << count) - 1;
    _mm512_storeu_ps(to, _mm512_maskz_loadu_ps(static_cast<__mmask16>(columns), from));
    _mm512_storeu_ps(to + kLanes,
                     _mm512_maskz_loadu_ps(static_cast<__mmask16>(columns >> kLanes), from + kLanes));
  }
}

void panel_dots_avx512(const Panel& x, const Panel& w, const Panel& y, int64_t first) {
  for (int64_t tile = 0; tile < x.tiles; tile += kDotsTiles) {
    const int64_t tiles = std::min(kDotsTiles, x.tiles - tile);
    cut_rows(x.rows, std::size(kDots), [&](int64_t row, int64_t rows) {
      for (int64_t r = 0; r < w.rows; r += kPanelFours)
        kDots[rows - 1](x.at(row, tile), x.tile_stride, w.at(r, tile), w.tile_stride, tiles,
                        y.at(row, (first + r) / kPanelTile) + (first + r) % kPanelTile, tile > 0);
    });
  }
}

void panel_sums_avx512(std::span<const PanelTerm> terms, const Panel& y, bool accumulate) {
  for (int64_t tile = 0; tile < y.tiles; ++tile)
    cut_rows(y.rows, std::size(kSums), [&](int64_t row, int64_t rows) {
      kSums[rows - 1](terms, row, tile, y.at(row, tile), accumulate);
    });
}

}  // namespace moebius
