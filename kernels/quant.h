// Weight formats and the row kernels that read them in place.
//
// A Matrix is a linear map as it lies in a checkpoint: `rows` output features, each a row of `cols` inputs. A
// format is known to the rest of the program only through FormatKernels: dot products with rows, sums of
// scaled rows, and dequantised rows. Nothing else depends on how a format stores its numbers, and a new
// format adds one file.
//
// Layouts (safetensors order, little-endian, any alignment; a kernel never reads past the end of a row, for
// the last row may end with the file):
//   kF32, kBF16, kF16  data [rows, cols]
//   kFp8Block  data [rows, cols] E4M3 bytes; scales [ceil(rows/128), ceil(cols/128)]; value = byte * scale.
//              The two NaN codes are refused when a file is opened; kernels may read them as any number.
//   kInt8      data [rows, ceil(cols/4)] int32 words, value + 128 in each byte, lowest byte first;
//              scales [rows, ceil(cols/group)]
//   kInt4      data [rows, ceil(cols/8)] int32 words, value + 8 in each nibble, lowest nibble first;
//              scales as kInt8
// (compressed-tensors `pack-quantized`, symmetric; group is a multiple of 32 or at least the whole row. What
// fills the last word of a row after its last column is never looked at.)
//
// Numerics of a format, the same in every kernel of it:
//   float formats  activations and products in float32; sums in any order (results agree within rounding).
//                  The order a kernel takes for a (row, token) does not depend on the other rows and tokens.
//   kInt8, kInt4   activations to int8 per group of 32 (quantize_activations); within a group of 32 the dot
//                  product is an exact int32 s; over groups in ascending order
//                  acc = fma(float(s), w_scale * x_scale, acc), acc from +0. Every kernel reproduces these
//                  bits for any number of tokens, rows and threads. With exact activations (q == nullptr)
//                  they behave as float formats on unrounded float32 inputs.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "kernels/isa.h"
#include "kernels/tensor.h"

namespace moebius {

enum class Format : uint8_t { kF32, kBF16, kF16, kFp8Block, kInt8, kInt4 };
inline constexpr int kFormats = 6;
inline constexpr int64_t kActivationGroup = 32;
inline constexpr int64_t kFp8Block = 128;

const char* format_name(Format format);  // "f32", "bf16", "f16", "fp8", "int8", "int4"
inline bool is_integer(Format f) { return f == Format::kInt8 || f == Format::kInt4; }

// A low-rank adapter (LoRA, arXiv 2106.09685) of a matrix [rows, cols]: w + scale b a. Float32, non-owning.
struct Lora {
  Tensor a;  // [rank, cols]
  Tensor b;  // [rows, rank]
  float scale = 1;
  Tensor da, db;  // gradients, shaped as a and b, which backward operations add to; or empty
  // The matrix's data holds w + scale b a already: the adapter is there for its gradients only. So it is for
  // matrices that an operation reads in two ways (MLA's kv_b) or row by row (the router).
  bool merged = false;
};

struct Matrix {  // [rows, cols], non-owning
  Format format = Format::kF32;
  int64_t rows = 0, cols = 0;
  const void* data = nullptr;
  const void* scales = nullptr;     // null for float formats
  DType scale_dtype = DType::kF32;  // kF32, kBF16 or kF16
  int64_t group = 0;                // columns per scale: 128 for kFp8Block; a multiple of 32 for integers
  Space space = Space::kHost;
  // Added by linear and expert_ffn unless it is merged; other operations take no adapter that is not merged.
  const Lora* lora = nullptr;

  bool empty() const { return data == nullptr; }
  bool adapted() const { return lora && !lora->merged; }
  int64_t row_bytes() const;  // of data
  const uint8_t* row(int64_t r) const { return static_cast<const uint8_t*>(data) + r * row_bytes(); }
  int64_t scales_per_row() const { return group ? (cols + group - 1) / group : 0; }
  int64_t bytes() const;         // data and scales: what one pass over it must read
  std::string describe() const;  // "int4[4096, 2048]"
};

// The scale of element (r, c); 1 for float formats.
float matrix_scale(const Matrix& w, int64_t r, int64_t c);

// Tokens as row kernels read them: float32 rows and, for integer formats, their int8 form; for BF16 and FP8,
// where AMX multiplies, their parts (kernels/rows.h).
struct Activations {
  const float* x = nullptr;  // [n, cols], rows ld apart
  int64_t ld = 0;
  int64_t cols = 0;
  const int8_t* q = nullptr;     // [n, groups * 32], zero-padded; null: exact activations
  const float* scale = nullptr;  // [n, groups]
  const int32_t* sum = nullptr;  // [n, groups]: sum of q over each group
  // Of the tokens of a call in their order, whatever numbers they have in x; null: none were made.
  const uint16_t* parts = nullptr;
  int64_t groups() const { return (cols + kActivationGroup - 1) / kActivationGroup; }
};

// One row of x [cols] to int8: per group of 32, m = max|x|; scale = m / 127; q = nearest-even(x * (127 / m)),
// clamped to [-127, 127]. A group with m < 2^-120 becomes zeros with scale 0; one with an infinity or a NaN
// becomes zeros with scale m, so that products with it are NaN. q is padded with zeros to whole groups. The
// one definition every backend reproduces bit for bit.
void quantize_activations(const float* x, int64_t cols, int8_t* q, float* scale, int32_t* sum);

struct FormatKernels {
  const char* name;  // "<op>_<types>_<isa>", for example "rows_int4_avx2"
  Isa isa;           // that it needs

  // y[i * ldy + (r - begin)] = row r of w . token(i), r in [begin, end), i in [0, n); token(i) = tokens ?
  // tokens[i] : i, a row of x. y must not alias x.
  void (*dot_rows)(const Matrix& w, int64_t begin, int64_t end, const Activations& x, const int32_t* tokens,
                   int64_t n, float* y, int64_t ldy);

  // y[c] += sum over r in [begin, end), ascending, of coefficient[r - begin] * w[r, c]; float32, activations
  // never rounded. y: [cols], not aliasing coefficient.
  void (*axpy_rows)(const Matrix& w, int64_t begin, int64_t end, const float* coefficient, float* y);

  // out[(r - begin) * ld + c] = w[r, c] in float32, r in [begin, end).
  void (*dequantize_rows)(const Matrix& w, int64_t begin, int64_t end, float* out, int64_t ld);
};

// All implementations for a format, fastest first, the scalar reference last; index them only after a look at
// isa.
std::span<const FormatKernels> format_kernels(Format format);
// The first one that needs no more than this.
const FormatKernels& best_kernels(Format format, Isa most);

}  // namespace moebius
