#include "kernels/cuda/tokens.h"

#include <algorithm>

namespace moebius::cuda {
namespace {

constexpr int kBlock = 256;

// Reads 4 bytes a number and writes a quarter of that: a warp to a group, 128 bytes an access.
__global__ void round_tokens_f32(const float* x, int64_t ldx, int64_t cols, int64_t count, Order order,
                                 Tokens out) {
  const int64_t at = block_x() * (kBlock / kWarp) + warp();
  if (at >= count) return;
  const int64_t t = at / out.ld, c = at % out.ld * kActivationGroup + lane();
  const float value = c < cols ? x[t * ldx + c] : 0.0f;
  round_group(value, order, out.q + at * kActivationGroup, out.scale + at, out.sum + at);
}

// Reads 4 bytes a number and writes 6.
__global__ void split_tokens_bf16x3(const float* x, int64_t ldx, int64_t cols, int64_t count,
                                    SplitTokens out) {
  const int64_t at = block_x() * kBlock + thread();
  if (at >= count) return;
  const int64_t t = at / out.ld, c = at % out.ld;
  float left = c < cols ? x[t * ldx + c] : 0.0f;
  for (int i = 0; i < kSplitParts; ++i) out.part(i)[at] = static_cast<uint16_t>(split_off(left));
}

}  // namespace

int64_t prepared_bytes(Format format, int64_t cols) {
  if (is_integer(format)) return blocks_for(cols, kActivationGroup) * (kActivationGroup + 8);
  return kSplitParts * blocks_for(cols, 8) * 8 * static_cast<int64_t>(sizeof(uint16_t));
}

Tokens take_tokens(Context& context, int64_t n, int64_t cols) {
  Tokens tokens;
  tokens.ld = (cols + kActivationGroup - 1) / kActivationGroup;
  const int64_t count = n * tokens.ld;
  char* memory = static_cast<char*>(context.scratch(std::max<int64_t>(count, 1) * (kActivationGroup + 8)));
  if (!memory) return tokens;
  tokens.q = reinterpret_cast<int8_t*>(memory);
  tokens.scale = reinterpret_cast<float*>(memory + count * kActivationGroup);
  tokens.sum = reinterpret_cast<int32_t*>(tokens.scale + count);
  return tokens;
}

Tokens round_tokens(Context& context, const float* x, int64_t n, int64_t cols, int64_t ldx, Order order) {
  const Tokens tokens = take_tokens(context, n, cols);
  const int64_t groups = n * tokens.ld;
  if (!tokens.q || groups == 0) return tokens;
  launch(context.compute(), round_tokens_f32, Grid{blocks_for(groups, kBlock / kWarp)}, kBlock, 0, x, ldx,
         cols, groups, order, tokens);
  return tokens;
}

SplitTokens split_tokens(Context& context, const float* x, int64_t n, int64_t cols, int64_t ldx) {
  SplitTokens split;
  split.ld = (cols + 7) / 8 * 8, split.part_stride = n * split.ld;
  const int64_t bytes = kSplitParts * split.part_stride * static_cast<int64_t>(sizeof(uint16_t));
  split.at = static_cast<uint16_t*>(context.scratch(std::max<int64_t>(bytes, 16)));
  if (!split.at || split.part_stride == 0) return split;
  launch(context.compute(), split_tokens_bf16x3, Grid{blocks_for(split.part_stride, kBlock)}, kBlock, 0, x,
         ldx, cols, split.part_stride, split);
  return split;
}

}  // namespace moebius::cuda
