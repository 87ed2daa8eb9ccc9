// Matrices of every format with random contents, for tests and benches.
#pragma once

#include <cstdint>
#include <random>

#include "kernels/half.h"
#include "kernels/quant.h"

namespace moebius::test {

struct MatrixShape {
  Format format = Format::kF32;
  int64_t rows = 1, cols = 1;
  int64_t group = 32;                // integer formats
  DType scale_dtype = DType::kBF16;  // formats with scales
  float scale = 0.01f;               // about the size of a scale

  Matrix matrix() const {
    Matrix w;
    w.format = format, w.rows = rows, w.cols = cols, w.scale_dtype = scale_dtype;
    w.group = format == Format::kFp8Block ? kFp8Block : is_integer(format) ? group : 0;
    return w;
  }
  int64_t data_bytes() const { return rows * matrix().row_bytes(); }
  int64_t scale_count() const {
    const int64_t scale_rows = format == Format::kFp8Block ? (rows + kFp8Block - 1) / kFp8Block : rows;
    return scale_rows * matrix().scales_per_row();
  }
  int64_t scale_bytes() const { return scale_count() * static_cast<int64_t>(dtype_bytes(scale_dtype)); }
};

template <class T>
void store_unaligned(uint8_t* base, int64_t index, T value) {
  std::memcpy(base + index * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

inline void store_float(uint8_t* base, int64_t index, DType dtype, float value) {
  if (dtype == DType::kF32) return store_unaligned(base, index, value);
  store_unaligned(base, index, dtype == DType::kF16 ? f32_to_f16(value) : f32_to_bf16(value));
}

// data and scales: memory of data_bytes() and scale_bytes(), at any address. Integer codes take every value,
// in the padding of rows too; fp8 every code but the NaNs; floats lie in [-1, 1].
inline Matrix random_matrix(const MatrixShape& shape, uint8_t* data, uint8_t* scales, std::mt19937& random) {
  Matrix w = shape.matrix();
  w.data = data;
  std::uniform_real_distribution<float> unit(-1, 1);
  const int64_t numbers = shape.rows * shape.cols, bytes = shape.data_bytes();
  switch (shape.format) {
    case Format::kF32:
      for (int64_t i = 0; i < numbers; ++i) store_float(data, i, DType::kF32, unit(random));
      break;
    case Format::kBF16:
      for (int64_t i = 0; i < numbers; ++i) store_float(data, i, DType::kBF16, unit(random));
      break;
    case Format::kF16:
      for (int64_t i = 0; i < numbers; ++i) store_float(data, i, DType::kF16, unit(random));
      break;
    default:
      for (int64_t i = 0; i < bytes; ++i) {
        data[i] = static_cast<uint8_t>(random() >> 8);
        if (shape.format == Format::kFp8Block && (data[i] & 0x7f) == 0x7f) data[i] = 0x3f;
      }
  }
  if (shape.scale_count() == 0) return w;
  w.scales = scales;
  for (int64_t i = 0; i < shape.scale_count(); ++i)
    store_float(scales, i, shape.scale_dtype, shape.scale * (1 + 0.5f * unit(random)));
  return w;
}

// Element (r, c) in double, straight from the layouts that quant.h states.
inline double element_of(const Matrix& w, int64_t r, int64_t c) {
  const uint8_t* row = w.row(r);
  const double scale = static_cast<double>(matrix_scale(w, r, c));
  switch (w.format) {
    case Format::kF32:
      return static_cast<double>(load_unaligned<float>(row, c));
    case Format::kBF16:
      return static_cast<double>(bf16_to_f32(load_unaligned<uint16_t>(row, c)));
    case Format::kF16:
      return static_cast<double>(f16_to_f32(load_unaligned<uint16_t>(row, c)));
    case Format::kFp8Block:
      return static_cast<double>(f8e4m3_to_f32(row[c])) * scale;
    case Format::kInt8:
      return static_cast<double>(
                 static_cast<int>((load_unaligned<uint32_t>(row, c / 4) >> (8 * (c % 4))) & 255) - 128) *
             scale;
    default:
      return static_cast<double>(
                 static_cast<int>((load_unaligned<uint32_t>(row, c / 8) >> (4 * (c % 8))) & 15) - 8) *
             scale;
  }
}

}  // namespace moebius::test
