#include "engine/prune/matrix_cut.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "kernels/half.h"
#include "kernels/pack.h"

namespace moebius {
namespace {

constexpr float kLargestFp8 = 448;

int64_t scale_bytes(const Matrix& w) {
  return is_integer(w.format) || w.format == Format::kFp8Block
             ? static_cast<int64_t>(dtype_bytes(w.scale_dtype))
             : 0;
}

int64_t at(const std::vector<int32_t>& index, int64_t i) {
  return index.empty() ? i : index[static_cast<size_t>(i)];
}

void store_scale(DType dtype, float value, uint8_t* to) {
  if (dtype == DType::kF32) {
    std::memcpy(to, &value, sizeof value);
    return;
  }
  const uint16_t bits = dtype == DType::kF16 ? f32_to_f16(value) : f32_to_bf16(value);
  std::memcpy(to, &bits, sizeof bits);
}

float rounded_scale(DType dtype, float value) {
  if (dtype == DType::kF32) return value;
  return dtype == DType::kF16 ? f16_to_f32(f32_to_f16(value)) : bf16_to_f32(f32_to_bf16(value));
}

// Whole rows as they are. A row of zeros of a packed format is made of the code of 0.
void copy_rows(const MatrixCut& cut, StoredMatrix& out) {
  const Matrix& w = cut.from;
  const size_t row_bytes = static_cast<size_t>(w.row_bytes());
  const size_t scales_bytes = static_cast<size_t>(w.scales_per_row() * scale_bytes(w));
  const uint8_t zero = w.format == Format::kInt4 ? 0x88 : w.format == Format::kInt8 ? 0x80 : 0;
  out.data.assign(static_cast<size_t>(cut.row_count()) * row_bytes, zero);
  out.scales.resize(static_cast<size_t>(cut.row_count()) * scales_bytes);
  for (int64_t r = 0; r < cut.row_count(); ++r) {
    const int64_t from = at(cut.rows, r);
    uint8_t* scales = out.scales.data() + static_cast<size_t>(r) * scales_bytes;
    if (from >= 0) {
      std::memcpy(out.data.data() + static_cast<size_t>(r) * row_bytes, w.row(from), row_bytes);
      const uint8_t* from_scales = static_cast<const uint8_t*>(w.scales);
      if (scales_bytes > 0)
        std::memcpy(scales, from_scales + static_cast<size_t>(from) * scales_bytes, scales_bytes);
      continue;
    }
    for (int64_t i = 0; i < w.scales_per_row(); ++i)
      store_scale(w.scale_dtype, 1, scales + i * scale_bytes(w));
  }
}

void copy_numbers(const MatrixCut& cut, StoredMatrix& out) {
  const int64_t bytes = cut.from.format == Format::kF32 ? 4 : 2, cols = cut.col_count();
  out.scales.clear();
  out.data.assign(static_cast<size_t>(cut.row_count() * cols * bytes), 0);
  for (int64_t r = 0; r < cut.row_count(); ++r) {
    const int64_t from = at(cut.rows, r);
    uint8_t* to = out.data.data() + r * cols * bytes;
    for (int64_t c = 0; from >= 0 && c < cols; ++c) {
      const int64_t col = at(cut.cols, c);
      if (col >= 0) std::memcpy(to + c * bytes, cut.from.row(from) + col * bytes, static_cast<size_t>(bytes));
    }
  }
}

// Row r of the cut in float32; scratch [from.cols].
void gather_row(const MatrixCut& cut, int64_t r, std::vector<float>& scratch, float* to) {
  const Matrix& w = cut.from;
  const int64_t from = at(cut.rows, r), cols = cut.col_count();
  scratch.resize(static_cast<size_t>(w.cols));
  if (from < 0) {
    std::fill_n(to, cols, 0.0f);
    return;
  }
  format_kernels(w.format).back().dequantize_rows(w, from, from + 1, scratch.data(), w.cols);
  for (int64_t c = 0; c < cols; ++c) {
    const int64_t col = at(cut.cols, c);
    to[c] = col < 0 ? 0 : scratch[static_cast<size_t>(col)];
  }
}

bool pack_rows(const MatrixCut& cut, ThreadPool& pool, StoredMatrix& out) {
  const Matrix& w = cut.from;
  const int64_t cols = cut.col_count();
  const PackFormat format{w.format, cut_group(cut), w.scale_dtype};
  const int64_t code_bytes = format.row_bytes(cols), row_scale_bytes = format.scale_bytes(cols);
  out.data.resize(static_cast<size_t>(cut.row_count() * code_bytes));
  out.scales.resize(static_cast<size_t>(cut.row_count() * row_scale_bytes));
  const std::vector<float> importance(static_cast<size_t>(cols), 1.0f);
  std::atomic<bool> finite{true};
  parallel_for(pool, cut.row_count(), 16, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch, row(static_cast<size_t>(cols));
    for (int64_t r = begin; r < end; ++r) {
      gather_row(cut, r, scratch, row.data());
      PackError error;
      if (!pack_row(format, row.data(), cols, importance.data(), out.data.data() + r * code_bytes,
                    out.scales.data() + r * row_scale_bytes, error))
        finite.store(false);
    }
  });
  return finite.load();
}

struct Block {  // of a cut of an FP8 matrix, in float32
  int64_t row = 0, rows = 0, col = 0, cols = 0;
  const float* numbers = nullptr;  // of its first row and column, rows ld apart
  int64_t ld = 0;
};

double error_of(const Block& b, float scale) {
  double sum = 0;
  for (int64_t r = 0; r < b.rows; ++r) {
    for (int64_t c = 0; c < b.cols; ++c) {
      const float number = b.numbers[r * b.ld + c];
      const double off = f8e4m3_to_f32(f32_to_f8e4m3(number / scale)) * scale - number;
      sum += off * off;
    }
  }
  return sum;
}

// The scale that loses least of those that the block's numbers had, and the one that makes the largest 448.
float block_scale(const MatrixCut& cut, const Block& b) {
  std::vector<float> candidates;
  for (int64_t r = 0; r < b.rows; ++r) {
    const int64_t row = at(cut.rows, b.row + r);
    for (int64_t c = 0; row >= 0 && c < b.cols; ++c) {
      const int64_t col = at(cut.cols, b.col + c);
      if (col >= 0) candidates.push_back(matrix_scale(cut.from, row, col));
    }
  }
  std::ranges::sort(candidates);
  candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
  float largest = 0;
  for (int64_t r = 0; r < b.rows; ++r)
    for (int64_t c = 0; c < b.cols; ++c) largest = std::max(largest, std::abs(b.numbers[r * b.ld + c]));
  if (largest == 0) return 1;
  candidates.push_back(rounded_scale(cut.from.scale_dtype, largest / kLargestFp8));
  float best = 1;
  double least = INFINITY;
  for (const float scale : candidates) {
    const double error = scale > 0 ? error_of(b, scale) : INFINITY;
    if (error < least) least = error, best = scale;
  }
  return best;
}

bool store_blocks(const MatrixCut& cut, ThreadPool& pool, StoredMatrix& out) {
  const int64_t rows = cut.row_count(), cols = cut.col_count();
  const int64_t down = (rows + kFp8Block - 1) / kFp8Block, across = (cols + kFp8Block - 1) / kFp8Block;
  const int64_t one = scale_bytes(cut.from);
  out.data.resize(static_cast<size_t>(rows * cols));
  out.scales.resize(static_cast<size_t>(down * across * one));
  std::atomic<bool> finite{true};
  parallel_for(pool, down, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch, numbers(static_cast<size_t>(kFp8Block * cols));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * kFp8Block, count = std::min(kFp8Block, rows - first);
      for (int64_t r = 0; r < count; ++r) gather_row(cut, first + r, scratch, numbers.data() + r * cols);
      for (int64_t j = 0; j < across; ++j) {
        const int64_t col = j * kFp8Block;
        const Block block{first, count, col, std::min(kFp8Block, cols - col), numbers.data() + col, cols};
        const float scale = block_scale(cut, block);
        if (!std::isfinite(scale)) finite.store(false);
        store_scale(cut.from.scale_dtype, scale, out.scales.data() + (i * across + j) * one);
        for (int64_t r = 0; r < count; ++r)
          for (int64_t c = 0; c < block.cols; ++c)
            out.data[static_cast<size_t>((first + r) * cols + col + c)] =
                f32_to_f8e4m3(numbers[static_cast<size_t>(r * cols + col + c)] / scale);
      }
    }
  });
  return finite.load();
}

}  // namespace

int64_t cut_group(const MatrixCut& cut) {
  const Matrix& w = cut.from;
  // One scale for a whole row is one for what is left of it.
  return is_integer(w.format) && w.scales_per_row() == 1 ? cut.col_count() : w.group;
}

bool store_cut(const MatrixCut& cut, ThreadPool& pool, StoredMatrix& out) {
  if (cut.from.format == Format::kFp8Block) return store_blocks(cut, pool, out);
  if (cut.cols.empty()) {
    copy_rows(cut, out);
    return true;
  }
  if (is_integer(cut.from.format)) return pack_rows(cut, pool, out);
  copy_numbers(cut, out);
  return true;
}

}  // namespace moebius
