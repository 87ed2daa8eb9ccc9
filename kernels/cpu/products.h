// Products of tokens with matrices on the host: what linear and expert_ffn are made of.
//
// Two ways. By rows: FormatKernels on weights in place, any number of tokens, the numerics of quant.h; BF16
// and FP8 take several tokens in parts where there is AMX (kernels/rows.h). By panels: a few rows at a time
// dequantised to float32 and multiplied by oneDNN, for float formats and many tokens. Integer formats go by
// panels only when their activations are exact, by --exact-activations or, in
// the same sense, by --cpu-gemm onednn: then few tokens too are multiplied with exact activations, by rows.
#pragma once

#include <algorithm>

#include "kernels/cpu/host.h"

namespace moebius {

// Whether products with integer formats leave activations unrounded.
bool exact_activations(const HostContext& context);

// Whether the data of w can be read as float32 as it lies.
bool float32_in_place(const Matrix& w);

// Tokens x [n, cols], rows ld apart, as products with w read them; memory from the scratch, threads inside.
Activations prepare_tokens(const Matrix& w, const float* x, int64_t n, int64_t ld, HostContext& context);
// Rounds tokens [begin, end) into memory of the caller, on its thread: q [n, groups * 32], scale and sum [n,
// groups].
void round_tokens(const Activations& x, int64_t begin, int64_t end, int8_t* q, float* scale, int32_t* sum,
                  const HostContext& context);

// Whether n tokens, of a call's `all`, meet w in parts, and memory for these from the scratch. Only in calls
// with as many tokens as go by panels: what few tokens give does not depend on their number.
bool goes_by_parts(const Matrix& w, int64_t n, int64_t all, const HostContext& context);
uint16_t* take_parts(const Matrix& w, int64_t n, Scratch& scratch);

// Tokens from `first` on, a multiple of 16 if there are parts. parts_from moves the parts only, for callers
// that pass the numbers of their tokens.
Activations tokens_from(const Activations& x, int64_t first);
Activations parts_from(const Activations& x, int64_t first);

// Tokens by rows of a block, in the order the kernels write them. n tokens go so many at a time: as evenly as
// they fall into no more than 32, or with AMX into sixteens and no more than kMostTilesTokens.
inline constexpr int64_t kMostTilesTokens = 64;
inline int64_t tokens_at_once(int64_t n, const HostContext& context) {
  const bool tiles = context.isa >= Isa::kAmx;
  const int64_t most = tiles ? kMostTilesTokens : 32, unit = tiles ? 16 : 1;
  const int64_t times = (n + most - 1) / most;
  return n > 0 ? ((n + times - 1) / times + unit - 1) / unit * unit : most;
}
struct Tile {
  static constexpr int64_t kValues = 8192;
  alignas(64) float values[kValues];
};

// How the rows of a matrix fall into tasks by rows, for n tokens: so that a task reads a few hundred KB of
// weights in one piece, that there are as many of them for every thread, and that tokens_at_once of the
// tokens fit a Tile. rows: a multiple of 16.
struct Blocks {
  int64_t rows = 0, count = 0;  // of a block; blocks
};
Blocks blocks_of(const Matrix& w, int64_t n, const HostContext& context);

// Null when products of n tokens with some matrix, or with w, can go by panels, else why they go by rows.
const char* declines_panels(int64_t n, const HostContext& context);
const char* declines_panels(const Matrix& w, int64_t n, const HostContext& context);

// y[i, r] = (accumulate ? y[i, r] : 0) + x[i] . row r of w, by panels; threads inside.
void multiply_panels(const Matrix& w, const float* x, int64_t ldx, int64_t n, float* y, int64_t ldy,
                     bool accumulate, HostContext& context);

}  // namespace moebius
