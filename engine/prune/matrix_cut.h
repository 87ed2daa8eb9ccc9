// MatrixCut: some rows and columns of a stored matrix, as a matrix of the same format.
//
// Rows move with their scales, byte for byte, and so do columns of float formats. Where columns of a packed
// matrix move, or anything of an FP8 one, scales cover other numbers than before: these are dequantised and
// quantised again, a group that its format holds exactly (one whose numbers all come from one group) without
// loss.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/parallel.h"
#include "kernels/quant.h"

namespace moebius {

struct MatrixCut {
  Matrix from;                      // without an adapter
  std::vector<int32_t> rows, cols;  // of from, in the order they are to have; -1: zeros; empty: all
  int64_t row_count() const { return rows.empty() ? from.rows : static_cast<int64_t>(rows.size()); }
  int64_t col_count() const { return cols.empty() ? from.cols : static_cast<int64_t>(cols.size()); }
};

struct StoredMatrix {  // as kernels/quant.h lays it out
  std::vector<uint8_t> data;
  std::vector<uint8_t> scales;  // of from.scale_dtype; empty for float formats
};

// The numbers of columns that one scale of the cut's matrix covers; 0 for float formats.
int64_t cut_group(const MatrixCut& cut);

// Packed formats: columns may be cut only to a multiple of cut_group and of 32. False when numbers are not
// finite.
bool store_cut(const MatrixCut& cut, ThreadPool& pool, StoredMatrix& out);

}  // namespace moebius
