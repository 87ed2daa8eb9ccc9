#include "engine/backward.h"

#include <algorithm>
#include <vector>

namespace moebius {
namespace {

// The columns of n heads, [n, heads * d], as rows of d.
Tensor head_rows(const Tensor& t, int64_t heads) {
  return t.reshape({t.shape[0] * heads, t.shape[1] / heads});
}

// The arguments of a layer's mirror, in one place.
struct Mirror {
  const Model& m;
  const int64_t layer;
  const LayerWeights& w;
  const LayerGradients& g;
  const Workspace& ws;
  const BackwardWorkspace& bw;

  // dx += dy w (unless dx is empty), and what weight and adapter gather.
  void linear(const Matrix& weight, const Matrix& gradient, const Tensor& x, const Tensor& dy,
              const Tensor& dx, const Tensor& dbias = Tensor()) const {
    m.backend.linear_backward({weight, x, dy, dx, gradient_of(gradient), dbias});
  }
  // As linear, with dx set instead of added to.
  void linear_set(const Matrix& weight, const Matrix& gradient, const Tensor& x, const Tensor& dy,
                  const Tensor& dx, const Tensor& dbias = Tensor()) const {
    m.backend.zero(dx);
    linear(weight, gradient, x, dy, dx, dbias);
  }
  void rotary(const Tensor& dx) const {
    m.backend.rotary({dx, ws.cos, bw.neg_sin, m.config.rotary.interleaved});
  }
};

// x += down(silu(gate h) * up h)
void feed_forward_backward(const Mirror& b) {
  const FfnWeights &w = b.w.ffn, &g = b.g.ffn;
  const auto cut = [&](const Tensor& t) { return t.slice(1, 0, w.gate.rows); };
  const Tensor gate = cut(b.ws.gate), up = cut(b.ws.up), hidden = cut(b.ws.hidden);
  const Tensor dgate = cut(b.bw.dgate), dup = cut(b.bw.dup);
  Backend& be = b.m.backend;
  be.linear({w.gate, b.ws.h, Tensor(), gate});
  be.linear({w.up, b.ws.h, Tensor(), up});
  be.swiglu({gate, up, hidden});

  b.linear_set(w.down, g.down, hidden, b.bw.dx, dup);
  be.swiglu_backward({gate, up, dup, dgate, dup});
  b.linear(w.up, g.up, b.ws.h, dup, b.bw.dh);
  b.linear(w.gate, g.gate, b.ws.h, dgate, b.bw.dh);
}

// x += the routed experts of each token
void experts_backward(const Mirror& b) {
  const MoeConfig& c = b.m.config.moe;
  Backend& be = b.m.backend;
  if (b.m.experts) {
    b.m.experts->backward(b.m, b.layer, b.ws, b.bw.dx, b.bw.dweights);
  } else {
    std::vector<ExpertGradients> gradients;
    for (const ExpertWeights& e : b.g.experts)
      gradients.push_back({gradient_of(e.gate), gradient_of(e.up), gradient_of(e.down)});
    be.expert_ffn_backward({b.ws.h, b.w.experts.data(), c.n_experts, b.ws.expert_ids, b.ws.expert_weights,
                            b.bw.dx, b.ws.slots, b.bw.dweights, gradients.data()});
  }
  be.combine({b.ws.slots, b.ws.expert_ids, Tensor(), b.bw.dh});

  be.linear({b.w.router, b.ws.h, Tensor(), b.bw.logits});
  be.zero(b.bw.dlogits);
  be.router_backward({b.bw.logits, b.ws.expert_chosen, b.bw.dweights, c.scoring, c.n_experts, c.normalize,
                      static_cast<float>(c.scale), b.bw.dlogits});
  const BalanceLoss& balance = b.bw.balance;
  if (balance.sequence > 0)
    be.balance_backward(
        {b.bw.logits, b.ws.expert_chosen, b.bw.starts, c.scoring, balance.sequence, b.bw.dlogits});
  if (balance.group > 0 && c.zero_experts > 0) {
    const int64_t all[] = {0, b.ws.h.shape[0]};
    be.balance_backward({b.bw.logits, b.ws.expert_chosen, all, c.scoring, balance.group, b.bw.dlogits,
                         c.n_experts, balance.zero_weight});
  }
  b.linear(b.w.router, b.g.router, b.ws.h, b.bw.dlogits, b.bw.dh);
}

void mla_backward(const Mirror& b) {
  const ModelConfig& c = b.m.config;
  const LayerWeights &w = b.w, &g = b.g;
  const Workspace& ws = b.ws;
  const BackwardWorkspace& bw = b.bw;
  Backend& be = b.m.backend;
  be.linear({w.kv_b, ws.latent, Tensor(), bw.kv_expanded});

  const Tensor kv = bw.kv_expanded.split(c.heads), dkv = bw.dkv_expanded.split(c.heads);
  const Tensor dq = bw.dq.split(c.heads), dkey = bw.dkv.slice(1, c.kv_lora, c.rope);
  for (const Tensor& t : {bw.dq, bw.dkv_expanded, bw.dkv}) be.zero(t);
  be.attention_backward({ws.q.split(c.heads), kv.slice(2, 0, c.nope), ws.kv.slice(1, c.kv_lora, c.rope),
                         kv.slice(2, c.nope, c.v_dim), c.softmax_scale, bw.starts,
                         ws.attention.split(c.heads), bw.dattention.split(c.heads), dq,
                         dkv.slice(2, 0, c.nope), dkey, dkv.slice(2, c.nope, c.v_dim), bw.highest});
  b.rotary(dkey.split(1));
  b.rotary(dq.slice(2, c.nope, c.rope));

  b.linear_set(w.kv_b, g.kv_b, ws.latent, bw.dkv_expanded, bw.dlatent);
  be.rms_norm_backward({ws.kv.slice(1, 0, c.kv_lora), w.kv_a_norm, c.lora_norm_eps, bw.dlatent,
                        bw.dkv.slice(1, 0, c.kv_lora), g.kv_a_norm});
  b.linear(w.kv_a, g.kv_a, ws.h, bw.dkv, bw.dh, g.k_bias);
  if (c.q_lora == 0) return b.linear(w.q, g.q, ws.h, bw.dq, bw.dh);
  b.linear_set(w.q_b, g.q_b, ws.q_a_normed, bw.dq, bw.dq_a_normed);
  be.zero(bw.dq_a);
  be.rms_norm_backward({ws.q_a, w.q_a_norm, c.lora_norm_eps, bw.dq_a_normed, bw.dq_a, g.q_a_norm});
  b.linear(w.q_a, g.q_a, ws.h, bw.dq_a, bw.dh, g.q_bias);
}

void gqa_backward(const Mirror& b) {
  const ModelConfig& c = b.m.config;
  const LayerWeights &w = b.w, &g = b.g;
  const Workspace& ws = b.ws;
  const BackwardWorkspace& bw = b.bw;
  Backend& be = b.m.backend;
  const Tensor q = c.qk_norm ? ws.q_normed : ws.q, k = c.qk_norm ? ws.k_normed : ws.k;
  for (const Tensor& t : {bw.dq, bw.dk, bw.dv}) be.zero(t);
  be.attention_backward({q.split(c.heads), k.split(c.kv_heads), Tensor(), ws.v.split(c.kv_heads),
                         c.softmax_scale, bw.starts, ws.attention.split(c.heads),
                         bw.dattention.split(c.heads), bw.dq.split(c.heads), bw.dk.split(c.kv_heads),
                         Tensor(), bw.dv.split(c.kv_heads), bw.highest});
  b.rotary(bw.dk.split(c.kv_heads));
  b.rotary(bw.dq.split(c.heads));

  Tensor dq = bw.dq, dk = bw.dk;
  if (c.qk_norm) {
    dq = bw.dq_raw, dk = bw.dk_raw;
    be.zero(dq), be.zero(dk);
    be.rms_norm_backward({head_rows(ws.k, c.kv_heads), w.k_norm, c.norm_eps, head_rows(bw.dk, c.kv_heads),
                          head_rows(dk, c.kv_heads), g.k_norm});
    be.rms_norm_backward({head_rows(ws.q, c.heads), w.q_norm, c.norm_eps, head_rows(bw.dq, c.heads),
                          head_rows(dq, c.heads), g.q_norm});
  }
  b.linear(w.v, g.v, ws.h, bw.dv, bw.dh, g.v_bias);
  b.linear(w.k, g.k, ws.h, dk, bw.dh, g.k_bias);
  b.linear(w.q, g.q, ws.h, dq, bw.dh, g.q_bias);
}

}  // namespace

Tensor gradient_of(const Matrix& g) {
  if (g.empty()) return Tensor();
  // The gradients are this program's own memory; Matrix is const for the sake of mapped files.
  return f32_tensor(static_cast<float*>(const_cast<void*>(g.data)), {g.rows, g.cols});
}

BackwardWorkspace lay_out_backward(const ModelConfig& c, int64_t n, Arena& arena) {
  BackwardWorkspace bw;
  const bool mla = c.attention == AttentionKind::kMla;
  const int64_t mla_n = mla ? n : 0, gqa_n = mla ? 0 : n, normed_n = c.qk_norm ? gqa_n : 0;
  const auto take = [&](int64_t rows, int64_t cols) { return arena.take(DType::kF32, {rows, cols}); };
  bw.dx = take(n, c.hidden);
  bw.dh = take(n, c.hidden);
  bw.neg_sin = take(n, c.rotary.dim / 2);
  bw.dattention = take(n, c.heads * c.value_dim());
  bw.dq = take(n, c.heads * c.qk_dim());
  bw.dq_a = take(n, c.q_lora);
  bw.dq_a_normed = take(n, c.q_lora);
  bw.kv_expanded = take(mla_n, c.heads * (c.nope + c.v_dim));
  bw.dkv_expanded = take(mla_n, c.heads * (c.nope + c.v_dim));
  bw.dkv = take(mla_n, c.kv_lora + c.rope);
  bw.dlatent = take(mla_n, c.kv_lora);
  bw.dk = take(gqa_n, c.kv_heads * c.head_dim);
  bw.dv = take(gqa_n, c.kv_heads * c.head_dim);
  bw.dq_raw = take(normed_n, c.heads * c.head_dim);
  bw.dk_raw = take(normed_n, c.kv_heads * c.head_dim);
  const int64_t ffn = std::max(c.dense_width, c.moe.shared_width);
  bw.dgate = take(n, ffn);
  bw.dup = take(n, ffn);
  bw.dweights = take(n, c.moe.top_k);
  const int64_t router_rows = c.moe.n_experts + c.moe.zero_experts;
  bw.logits = take(n, router_rows);
  bw.dlogits = take(n, router_rows);
  return bw;
}

void layer_backward(const Model& m, int64_t layer, const Batch& batch, const KvCache& cache, const Tensor& x,
                    const Tensor& after_attention, const Workspace& ws, const BackwardWorkspace& bw,
                    const LayerGradients& g) {
  const LayerWeights& w = m.weights.layers[static_cast<size_t>(layer)];
  const Mirror b{m, layer, w, g, ws, bw};
  Backend& be = m.backend;
  if (after_attention.empty()) {
    be.copy(x, ws.x);
    attention_forward(m, layer, batch, cache, ws);
  }
  const Tensor& middle = after_attention.empty() ? ws.x : after_attention;

  be.rms_norm({middle, w.ffn_norm, m.config.norm_eps, ws.h});
  be.zero(bw.dh);
  if (!w.ffn.gate.empty()) feed_forward_backward(b);
  if (!w.experts.empty()) experts_backward(b);
  be.rms_norm_backward({middle, w.ffn_norm, m.config.norm_eps, bw.dh, bw.dx, g.ffn_norm});

  be.rms_norm({x, w.attention_norm, m.config.norm_eps, ws.h});
  b.linear_set(w.o, g.o, ws.attention, bw.dx, bw.dattention, g.o_bias);
  be.zero(bw.dh);
  if (m.config.attention == AttentionKind::kMla) {
    mla_backward(b);
  } else {
    gqa_backward(b);
  }
  be.rms_norm_backward({x, w.attention_norm, m.config.norm_eps, bw.dh, bw.dx, g.attention_norm});
}

}  // namespace moebius
