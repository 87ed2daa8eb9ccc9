#include "kernels/cpu/panels.h"

#include <algorithm>

#include "kernels/cpu/grad_rows.h"

namespace moebius {

void copy_panel_row(const Panel& panel, int64_t row, int64_t cols, float* to) {
  for (int64_t t = 0; t < panel.tiles; ++t)
    std::copy_n(panel.at(row, t), std::min(kPanelTile, cols - t * kPanelTile), to + t * kPanelTile);
}

void add_panel_row(const Panel& panel, int64_t row, int64_t cols, float* to) {
  for (int64_t t = 0; t < panel.tiles; ++t)
    add_row(panel.at(row, t), std::min(kPanelTile, cols - t * kPanelTile), to + t * kPanelTile);
}

void fill_panel(const Matrix& w, int64_t begin, int64_t end, const Panel& panel, float* buffer,
                const HostContext& context) {
  const FormatKernels& kernels = context.kernels(w.format);
  for (int64_t r = 0; r < panel.rows; ++r) {
    if (begin + r < end) kernels.dequantize_rows(w, begin + r, begin + r + 1, buffer, w.cols);
    fill_panel_row_avx512(buffer, begin + r < end ? w.cols : 0, panel, r);
  }
}

void fill_panel_turned(const float* m, int64_t rows, int64_t cols, const Panel& panel) {
  for (int64_t t = 0; t < panel.tiles; ++t) {
    std::fill_n(panel.at(0, t), panel.rows * kPanelTile, 0.0f);
    const int64_t end = std::min(rows, (t + 1) * kPanelTile);
    for (int64_t i = t * kPanelTile; i < end; ++i)
      for (int64_t c = 0; c < cols; ++c) panel.at(c, t)[i % kPanelTile] = m[i * cols + c];
  }
}

}  // namespace moebius
