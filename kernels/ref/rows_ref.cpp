// The scalar row kernels: one format is one function from a row and a column to a number.
#include <algorithm>
#include <cmath>

#include "kernels/half.h"
#include "kernels/rows.h"

namespace moebius {
namespace {

struct F32 {
  static float value(const uint8_t* row, int64_t c) { return load_unaligned<float>(row, c); }
};
struct Bf16 {
  static float value(const uint8_t* row, int64_t c) { return bf16_to_f32(load_unaligned<uint16_t>(row, c)); }
};
struct F16 {
  static float value(const uint8_t* row, int64_t c) { return f16_to_f32(load_unaligned<uint16_t>(row, c)); }
};
struct Fp8 {
  static float value(const uint8_t* row, int64_t c) { return f8e4m3_to_f32(row[c]); }
};
struct Int8 {
  static int32_t code(const uint8_t* row, int64_t c) { return row[c] - 128; }
  static float value(const uint8_t* row, int64_t c) { return static_cast<float>(code(row, c)); }
};
struct Int4 {
  static int32_t code(const uint8_t* row, int64_t c) { return ((row[c / 2] >> (c % 2 * 4)) & 15) - 8; }
  static float value(const uint8_t* row, int64_t c) { return static_cast<float>(code(row, c)); }
};

template <class T>
float element(const Matrix& w, const uint8_t* row, int64_t r, int64_t c) {
  return w.scales ? T::value(row, c) * matrix_scale(w, r, c) : T::value(row, c);
}

template <class T>
float dot_float(const Matrix& w, int64_t r, const float* x) {
  const uint8_t* row = w.row(r);
  float acc = 0;
  for (int64_t c = 0; c < w.cols; ++c) acc += element<T>(w, row, r, c) * x[c];
  return acc;
}

template <class T>
float dot_quantized(const Matrix& w, int64_t r, const Activations& x, int64_t token) {
  const uint8_t* row = w.row(r);
  const int8_t* q = x.q + token * x.groups() * kActivationGroup;
  const float* scale = x.scale + token * x.groups();
  float acc = 0;
  for (int64_t g = 0; g < x.groups(); ++g) {
    const int64_t first = g * kActivationGroup, last = std::min(first + kActivationGroup, w.cols);
    int32_t s = 0;
    for (int64_t c = first; c < last; ++c) s += T::code(row, c) * q[c];
    acc = std::fma(static_cast<float>(s), matrix_scale(w, r, first) * scale[g], acc);
  }
  return acc;
}

template <class T>
void dot_rows(const Matrix& w, int64_t begin, int64_t end, const Activations& x, const int32_t* tokens,
              int64_t n, float* y, int64_t ldy) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t token = tokens ? tokens[i] : i;
    for (int64_t r = begin; r < end; ++r) {
      if constexpr (requires { T::code; }) {
        if (x.q) {
          y[i * ldy + r - begin] = dot_quantized<T>(w, r, x, token);
          continue;
        }
      }
      y[i * ldy + r - begin] = dot_float<T>(w, r, x.x + token * x.ld);
    }
  }
}

template <class T>
void axpy_rows(const Matrix& w, int64_t begin, int64_t end, const float* coefficient, float* y) {
  for (int64_t r = begin; r < end; ++r) {
    const uint8_t* row = w.row(r);
    for (int64_t c = 0; c < w.cols; ++c) y[c] += coefficient[r - begin] * element<T>(w, row, r, c);
  }
}

template <class T>
void dequantize_rows(const Matrix& w, int64_t begin, int64_t end, float* out, int64_t ld) {
  for (int64_t r = begin; r < end; ++r) {
    const uint8_t* row = w.row(r);
    for (int64_t c = 0; c < w.cols; ++c) out[(r - begin) * ld + c] = element<T>(w, row, r, c);
  }
}

}  // namespace

#define MOEBIUS_ROW_KERNELS_REF(suffix, T)                                                                   \
  void dot_rows_##suffix(const Matrix& w, int64_t begin, int64_t end, const Activations& x,                  \
                         const int32_t* tokens, int64_t n, float* y, int64_t ldy) {                          \
    dot_rows<T>(w, begin, end, x, tokens, n, y, ldy);                                                        \
  }                                                                                                          \
  void axpy_rows_##suffix(const Matrix& w, int64_t begin, int64_t end, const float* coefficient, float* y) { \
    axpy_rows<T>(w, begin, end, coefficient, y);                                                             \
  }                                                                                                          \
  void dequantize_rows_##suffix(const Matrix& w, int64_t begin, int64_t end, float* out, int64_t ld) {       \
    dequantize_rows<T>(w, begin, end, out, ld);                                                              \
  }

MOEBIUS_ROW_KERNELS_REF(f32_ref, F32)
MOEBIUS_ROW_KERNELS_REF(bf16_ref, Bf16)
MOEBIUS_ROW_KERNELS_REF(f16_ref, F16)
MOEBIUS_ROW_KERNELS_REF(fp8_ref, Fp8)
MOEBIUS_ROW_KERNELS_REF(int8_ref, Int8)
MOEBIUS_ROW_KERNELS_REF(int4_ref, Int4)

}  // namespace moebius
