#include "engine/workspace.h"

#include <algorithm>

namespace moebius {
namespace {

Workspace lay_out_workspace(const ModelConfig& c, int64_t n, Arena& arena) {
  Workspace ws;
  const DType f32 = DType::kF32, i32 = DType::kI32;
  const int64_t mla_n = c.attention == AttentionKind::kMla ? n : 0;
  ws.cos = arena.take(f32, {n, c.rotary.dim / 2});
  ws.sin = arena.take(f32, {n, c.rotary.dim / 2});
  ws.x = arena.take(f32, {n, c.hidden});
  ws.h = arena.take(f32, {n, c.hidden});
  static_cast<AttentionActivations&>(ws) = lay_out_attention(c, n, arena);
  ws.q_absorbed = arena.take(f32, {mla_n, c.heads * (c.kv_lora + c.rope)});
  ws.o_latent = arena.take(f32, {mla_n, c.heads * c.kv_lora});
  const int64_t ffn = std::max(c.dense_width, c.moe.shared_width);
  ws.gate = arena.take(f32, {n, ffn});
  ws.up = arena.take(f32, {n, ffn});
  ws.hidden = arena.take(f32, {n, ffn});
  ws.expert_ids = arena.take(i32, {n, c.moe.top_k});
  ws.expert_weights = arena.take(f32, {n, c.moe.top_k});
  ws.slots = arena.take(f32, {n, c.moe.top_k, c.hidden});
  ws.logits = arena.take(f32, {std::min(n, kLogitRows), c.vocab});
  return ws;
}

Tensor host_ids(const Workspace& ws, Arena& arena) { return arena.take(DType::kI32, {ws.x.shape[0]}); }

// The host's side of a workspace on a device.
void lay_out_host(const ModelConfig& c, Workspace& ws, Arena& arena) {
  const auto like = [&](const Tensor& t) {
    return t.ndim == 0 ? t : arena.take(t.dtype, {t.shape[0], t.shape[1]});
  };
  const Tensor chosen = arena.take(DType::kI32, {c.layers * ws.x.shape[0], c.moe.top_k});
  ws.host = {host_ids(ws, arena), like(ws.cos), like(ws.sin), like(ws.x), like(ws.logits), chosen};
}

}  // namespace

AttentionActivations lay_out_attention(const ModelConfig& c, int64_t n, Arena& arena) {
  AttentionActivations a;
  const DType f32 = DType::kF32;
  const bool mla = c.attention == AttentionKind::kMla;
  const int64_t mla_n = mla ? n : 0, gqa_n = mla ? 0 : n, normed_n = c.qk_norm ? gqa_n : 0;
  a.q_a = arena.take(f32, {n, c.q_lora});
  a.q_a_normed = arena.take(f32, {n, c.q_lora});
  a.q = arena.take(f32, {n, c.heads * c.qk_dim()});
  a.kv = arena.take(f32, {mla_n, c.kv_lora + c.rope});
  a.latent = arena.take(f32, {mla_n, c.kv_lora});
  a.k = arena.take(f32, {gqa_n, c.kv_heads * c.head_dim});
  a.v = arena.take(f32, {gqa_n, c.kv_heads * c.head_dim});
  a.q_normed = arena.take(f32, {normed_n, c.heads * c.head_dim});
  a.k_normed = arena.take(f32, {normed_n, c.kv_heads * c.head_dim});
  a.attention = arena.take(f32, {n, c.heads * c.value_dim()});
  return a;
}

int64_t prompt_part(int64_t rest, int64_t most) {
  const int64_t least = kAbsorbedTokens + 1;
  if (rest <= most) return rest;
  return rest - most < least && most >= 2 * least ? rest - least : most;
}

Tensor Arena::take(DType dtype, std::initializer_list<int64_t> shape) {
  Tensor t(base_ + used_, dtype, shape, space_);
  used_ += (t.numel() * static_cast<int64_t>(dtype_bytes(dtype)) + 63) / 64 * 64;
  return t.numel() == 0 ? Tensor() : t;
}

int64_t WorkspaceMemory::bytes(const ModelConfig& config, int64_t max_tokens) {
  Arena measured(nullptr);
  host_ids(lay_out_workspace(config, max_tokens, measured), measured);
  return measured.used();
}

int64_t WorkspaceMemory::bytes(const ModelConfig& config, int64_t prefill_chunk, int64_t sequences,
                               bool device) {
  const int64_t second = device ? sequences / 2 : 0;
  return bytes(config, prefill_chunk + sequences - 1) + (second > 0 ? bytes(config, second) : 0);
}

int64_t WorkspaceMemory::pinned_bytes(const ModelConfig& config, int64_t max_tokens) {
  Arena measured(nullptr), pinned(nullptr);
  Workspace ws = lay_out_workspace(config, max_tokens, measured);
  lay_out_host(config, ws, pinned);
  return pinned.used();
}

Result<WorkspaceMemory> WorkspaceMemory::create(const ModelConfig& config, int64_t max_tokens,
                                                Backend& backend, int mailbox) {
  WorkspaceMemory memory;
  memory.mailbox_ = mailbox;
  memory.config_ = config;
  memory.max_tokens_ = max_tokens;
  MOEBIUS_ASSIGN(memory.memory_, backend.alloc(static_cast<size_t>(bytes(config, max_tokens))));
  if (backend.space() == Space::kHost) return memory;
  MOEBIUS_ASSIGN(memory.pinned_, backend.alloc_pinned(static_cast<size_t>(pinned_bytes(config, max_tokens))));
  return memory;
}

Workspace WorkspaceMemory::view(int64_t n) const {
  MOEBIUS_CHECK(n >= 1 && n <= max_tokens_);
  Arena arena(memory_), pinned(pinned_);
  Workspace ws = lay_out_workspace(config_, n, arena);
  ws.mailbox = mailbox_;
  if (pinned_.data()) {
    lay_out_host(config_, ws, pinned);
  } else {
    ws.host = {host_ids(ws, arena), ws.cos, ws.sin, ws.x, ws.logits, Tensor()};
  }
  return ws;
}

}  // namespace moebius
