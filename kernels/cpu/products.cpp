#include "kernels/cpu/products.h"

#include "kernels/cpu/onednn.h"
#include "kernels/cpu/vector_ops.h"
#include "kernels/cpu/workers.h"
#include "kernels/rows.h"

namespace moebius {
namespace {

constexpr int64_t kTaskBytes = 131072;
constexpr int64_t kBlockBytes = 131072;
constexpr int64_t kPartsBlockBytes =
    524288;  // parts take three times what their tokens do: they come less often
constexpr int64_t kPanelRows = 128;
constexpr int64_t kManyPanels = 16;         // give every thread enough to do
constexpr int64_t kBlockTokens = 256;       // of a task, where panels are few
constexpr int64_t kWholeNumbers = 1 << 20;  // of a matrix that is dequantised at once
constexpr int64_t kCopyRows = 16;
constexpr int64_t kPanelTokens = 64;  // measured: panels win from 32 (f32) to 64 (bf16) tokens on
constexpr int64_t kFewParts =
    6;  // measured: as fast as rows by AVX-512 from 4 tokens on, 1.5 to 2 times from 6

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

bool float32_in_place(const Matrix& w) {
  return w.format == Format::kF32 && reinterpret_cast<uintptr_t>(w.data) % alignof(float) == 0;
}

bool exact_activations(const HostContext& context) {
  return context.exact_activations || (context.gemm == CpuGemm::kOneDnn && !onednn_missing());
}

void round_tokens(const Activations& x, int64_t begin, int64_t end, int8_t* q, float* scale, int32_t* sum,
                  const HostContext& context) {
  const auto round = context.avx2() ? quantize_activations_avx2 : quantize_activations;
  const int64_t groups = x.groups();
  for (int64_t i = begin; i < end; ++i)
    round(x.x + i * x.ld, x.cols, q + i * groups * kActivationGroup, scale + i * groups, sum + i * groups);
}

Activations prepare_tokens(const Matrix& w, const float* x, int64_t n, int64_t ld, HostContext& context) {
  Activations tokens;
  tokens.x = x, tokens.ld = ld, tokens.cols = w.cols;
  if (!is_integer(w.format) || exact_activations(context)) return tokens;
  const int64_t groups = tokens.groups();
  int8_t* q = context.scratch.take<int8_t>(n * groups * kActivationGroup);
  float* scale = context.scratch.take<float>(n * groups);
  int32_t* sum = context.scratch.take<int32_t>(n * groups);
  const int64_t grain = std::max<int64_t>(1, kTaskBytes / 8 / std::max<int64_t>(1, w.cols));
  parallel_for(context.pool, n, grain,
               [&](int64_t begin, int64_t end) { round_tokens(tokens, begin, end, q, scale, sum, context); });
  tokens.q = q, tokens.scale = scale, tokens.sum = sum;
  return tokens;
}

bool goes_by_parts(const Matrix& w, int64_t n, int64_t all, const HostContext& context) {
  return context.isa >= Isa::kAmx && context.gemm != CpuGemm::kOneDnn && all >= kPanelTokens &&
         n >= kFewParts && reads_parts_amx(w);
}

uint16_t* take_parts(const Matrix& w, int64_t n, Scratch& scratch) {
  return scratch.take<uint16_t>(ceil_div(n, kPartTokens) * parts_block(w.cols));
}

Activations parts_from(const Activations& x, int64_t first) {
  Activations rest = x;
  if (x.parts) rest.parts += first / kPartTokens * parts_block(x.cols);
  return rest;
}

Activations tokens_from(const Activations& x, int64_t first) {
  Activations rest = parts_from(x, first);
  rest.x += first * x.ld;
  if (!x.q) return rest;
  rest.q += first * x.groups() * kActivationGroup;
  rest.scale += first * x.groups();
  rest.sum += first * x.groups();
  return rest;
}

Blocks blocks_of(const Matrix& w, int64_t n, const HostContext& context) {
  constexpr int64_t kRows = 16;  // that kernels take at once, but for many tokens
  const int64_t threads = context.pool.threads(), fits = Tile::kValues / tokens_at_once(n, context);
  const int64_t bytes =
      goes_by_parts(w, n, n, context) && n > kMostTilesTokens ? kPartsBlockBytes : kBlockBytes;
  const int64_t rows = std::clamp<int64_t>(bytes / std::max<int64_t>(1, w.row_bytes()) / kRows * kRows, kRows,
                                           fits / kRows * kRows);
  const int64_t each = (w.rows + threads * rows - 1) / (threads * rows);  // blocks for every thread
  Blocks blocks;
  blocks.rows = (w.rows + each * threads - 1) / std::max<int64_t>(1, each * threads);
  blocks.rows = std::max(kRows, (blocks.rows + kRows - 1) / kRows * kRows);
  blocks.count = (w.rows + blocks.rows - 1) / blocks.rows;
  return blocks;
}

const char* declines_panels(int64_t n, const HostContext& context) {
  if (onednn_missing()) return onednn_missing();
  if (context.gemm == CpuGemm::kOwn) return "own kernels were asked for";
  const int64_t few = context.gemm == CpuGemm::kOneDnn ? 2 : kPanelTokens;
  return n < few ? "few tokens are faster by rows" : nullptr;
}

const char* declines_panels(const Matrix& w, int64_t n, const HostContext& context) {
  if (is_integer(w.format) && !exact_activations(context))
    return "integer formats multiply rounded activations";
  if (w.rows == 0 || w.cols == 0) return "an empty matrix";
  return declines_panels(n, context);
}

namespace {

// Rows of w in float32 at values, [rows, cols]: blocks of rows, and of tokens where there are few of these.
void multiply_blocks(const float* values, int64_t rows, int64_t cols, const float* x, int64_t ldx, int64_t n,
                     float* y, int64_t ldy, bool accumulate, HostContext& context) {
  const int64_t row_blocks = ceil_div(rows, kPanelRows);
  const int64_t tokens = row_blocks < kManyPanels ? kBlockTokens : n, token_blocks = ceil_div(n, tokens);
  parallel_for(context.pool, row_blocks * token_blocks, 1, [&](int64_t task, int64_t) {
    const int64_t row = task / token_blocks * kPanelRows, token = task % token_blocks * tokens;
    onednn_gemm(false, true, std::min(tokens, n - token), std::min(kPanelRows, rows - row), cols,
                x + token * ldx, ldx, values + row * cols, cols, y + token * ldy + row, ldy, accumulate);
  });
}

}  // namespace

void multiply_panels(const Matrix& w, const float* x, int64_t ldx, int64_t n, float* y, int64_t ldy,
                     bool accumulate, HostContext& context) {
  const Scratch::Frame frame(context.scratch);
  const FormatKernels& kernels = context.kernels(w.format);
  const int64_t panels = ceil_div(w.rows, kPanelRows);
  const float* values = static_cast<const float*>(w.data);
  if (!float32_in_place(w) && panels < kManyPanels && w.rows * w.cols <= kWholeNumbers) {
    float* copy = context.scratch.take<float>(w.rows * w.cols);
    parallel_for(context.pool, w.rows, kCopyRows, [&](int64_t begin, int64_t end) {
      kernels.dequantize_rows(w, begin, end, copy + begin * w.cols, w.cols);
    });
    values = copy;
  } else if (!float32_in_place(w)) {
    const int64_t panel_size = std::min(kPanelRows, w.rows) * w.cols;
    float* copies = context.scratch.take<float>(worker_count(context, panels) * panel_size);
    return for_each_unit(context, panels, [&](int64_t task, int64_t worker) {
      const int64_t begin = task * kPanelRows, end = std::min(begin + kPanelRows, w.rows);
      float* copy = copies + worker * panel_size;
      kernels.dequantize_rows(w, begin, end, copy, w.cols);
      onednn_gemm(false, true, n, end - begin, w.cols, x, ldx, copy, w.cols, y + begin, ldy, accumulate);
    });
  }
  multiply_blocks(values, w.rows, w.cols, x, ldx, n, y, ldy, accumulate, context);
}

}  // namespace moebius
