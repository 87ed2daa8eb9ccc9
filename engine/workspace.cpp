#include "engine/workspace.h"

#include <algorithm>

namespace moebius {

// Carves the tensors out of base, each aligned to 64 bytes; returns the bytes used. base may be null to
// measure.
int64_t WorkspaceMemory::lay_out(const ModelConfig& c, int64_t n, char* base, Workspace& ws) const {
  int64_t used = 0;
  const auto take = [&](DType dtype, std::initializer_list<int64_t> shape) {
    Tensor t(base + used, dtype, shape);
    used += (t.numel() * static_cast<int64_t>(dtype_bytes(dtype)) + 63) / 64 * 64;
    return t.numel() == 0 ? Tensor() : t;
  };
  const DType f32 = DType::kF32, i32 = DType::kI32;
  const bool mla = c.attention == AttentionKind::kMla;
  const int64_t mla_n = mla ? n : 0;
  ws.ids = take(i32, {n});
  ws.cos = take(f32, {n, c.rotary.dim / 2});
  ws.sin = take(f32, {n, c.rotary.dim / 2});
  ws.x = take(f32, {n, c.hidden});
  ws.h = take(f32, {n, c.hidden});
  ws.q = take(f32, {n, c.heads * c.qk_dim()});
  ws.q_a = take(f32, {n, c.q_lora});
  ws.kv = take(f32, {mla_n, c.kv_lora + c.rope});
  ws.k = take(f32, {mla ? 0 : n, c.kv_heads * c.head_dim});
  ws.v = take(f32, {mla ? 0 : n, c.kv_heads * c.head_dim});
  ws.q_absorbed = take(f32, {mla_n, c.heads * (c.kv_lora + c.rope)});
  ws.o_latent = take(f32, {mla_n, c.heads * c.kv_lora});
  ws.attention = take(f32, {n, c.heads * c.value_dim()});
  const int64_t ffn = std::max(c.dense_width, c.moe.shared_width);
  ws.gate = take(f32, {n, ffn});
  ws.up = take(f32, {n, ffn});
  ws.expert_ids = take(i32, {n, c.moe.top_k});
  ws.expert_weights = take(f32, {n, c.moe.top_k});
  ws.slots = take(f32, {n, c.moe.top_k, c.hidden});
  ws.logits = take(f32, {std::min(n, kLogitRows), c.vocab});
  return used;
}

Result<WorkspaceMemory> WorkspaceMemory::create(const ModelConfig& config, int64_t max_tokens,
                                                Backend& backend) {
  WorkspaceMemory memory;
  memory.config_ = config;
  memory.max_tokens_ = max_tokens;
  Workspace measured;
  const int64_t bytes = memory.lay_out(config, max_tokens, nullptr, measured);
  MOEBIUS_ASSIGN(memory.memory_, backend.alloc(static_cast<size_t>(bytes)));
  return memory;
}

Workspace WorkspaceMemory::view(int64_t n) const {
  MOEBIUS_CHECK(n >= 1 && n <= max_tokens_);
  Workspace ws;
  lay_out(config_, n, memory_.as<char>(), ws);
  return ws;
}

}  // namespace moebius
