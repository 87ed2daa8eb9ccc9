// Float32 products over panels, with AVX-512: what backward operations are made of where the processor has
// it.
//
// A panel holds rows of numbers in tiles of 32 columns, so that what an inner loop reads lies side by side
// whichever way the matrix is multiplied: number (r, c) stands at data[c / 32 * tile_stride + r * 32 + c %
// 32]. Columns up to the next multiple of 32 are there, as zeros unless something else is said. Sums have an
// order of their own for every number of a result, which no other row or column and no cut of either changes.
#pragma once

#include "kernels/cpu/host.h"

namespace moebius {

inline constexpr int64_t kPanelTile = 32;  // columns
inline constexpr int64_t kPanelFours = 4;  // dots go by as many rows of w

inline int64_t panel_tiles(int64_t cols) { return (cols + kPanelTile - 1) / kPanelTile; }

struct Panel {
  float* data = nullptr;
  int64_t rows = 0, tiles = 0, tile_stride = 0;

  float* at(int64_t row, int64_t tile) const { return data + tile * tile_stride + row * kPanelTile; }
  Panel tiles_from(int64_t first, int64_t count) const { return {at(0, first), rows, count, tile_stride}; }
};

// Floats that a panel takes, and one over them. The stride is no power of two: tiles of large panels would
// share the same sets of a cache.
inline int64_t panel_stride(int64_t rows) { return rows * kPanelTile + 16; }
inline int64_t panel_floats(int64_t rows, int64_t cols) { return panel_tiles(cols) * panel_stride(rows); }
inline Panel panel_at(float* data, int64_t rows, int64_t cols) {
  return {data, rows, panel_tiles(cols), panel_stride(rows)};
}

// Rows [begin, end) of w in float32, of any format; rows of the panel from end - begin on become zeros.
// buffer: as many floats as a row of w has.
void fill_panel(const Matrix& w, int64_t begin, int64_t end, const Panel& panel, float* buffer,
                const HostContext& context);
// Row `row` of the panel from [cols] numbers, and back.
void fill_panel_row_avx512(const float* from, int64_t cols, const Panel& panel, int64_t row);
void copy_panel_row(const Panel& panel, int64_t row, int64_t cols, float* to);
void add_panel_row(const Panel& panel, int64_t row, int64_t cols, float* to);  // to +=
// m [rows, cols] turned: panel [at least cols, rows], what it has more are zeros.
void fill_panel_turned(const float* m, int64_t rows, int64_t cols, const Panel& panel);

// y(i, first + r) = x(i) . w(r), i < x.rows, r < w.rows, which is a multiple of 4 as first is. x and w have
// as many tiles.
void panel_dots_avx512(const Panel& x, const Panel& w, const Panel& y, int64_t first);

// y (+)= the sum of its terms c w: c [y.rows, w.rows], over rows of w ascending; y and w have as many tiles.
struct PanelTerm {
  Panel c, w;
};
void panel_sums_avx512(std::span<const PanelTerm> terms, const Panel& y, bool accumulate);

}  // namespace moebius
