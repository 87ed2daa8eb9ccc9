// QK-Clip (MuonClip, Kimi K2, arXiv 2507.20534): keeps attention logits bounded by shrinking the weights of
// single heads after a step.
#pragma once

#include <span>
#include <vector>

#include "engine/optim/matrix.h"
#include "models/config.h"

namespace moebius::optim {

// The float32 weights of one layer that make its logits; see LayerWeights for the order of their rows.
struct QkWeights {
  MatrixView q;             // GQA: q_proj. MLA: q_b_proj, or q_proj without q_lora. [heads * qk_dim, *]
  MatrixView kv_b;          // MLA: [heads * (nope + v_dim), kv_lora]
  std::span<float> q_bias;  // GQA with qkv_bias: [heads * head_dim], else empty
};

struct QkClip {
  // False where q and k pass an RMSNorm of their own (Qwen3, GLM-4.5): it undoes any factor on their weights,
  // so nothing was changed.
  bool applicable = true;
  std::vector<float> gamma;  // [heads]: what the logits of a head were multiplied by; 1: left as it was
};

// For each head whose s_max exceeds tau, gamma = tau / s_max, and its logits on the same inputs shrink by
// gamma: MLA puts sqrt(gamma) on the non-rotary rows of q and of k and gamma on the rotary rows of q (the
// rotary key belongs to all heads); GQA puts gamma on q (a key belongs to a group). s_max: [heads], the
// largest q.k * softmax_scale of the batch. kInvalid, and nothing changed, for a value that is not finite,
// tau <= 0, or weights of other shapes than the configuration asks for.
Result<QkClip> clip_qk(const ModelConfig& config, std::span<const float> s_max, float tau,
                       const QkWeights& weights);

}  // namespace moebius::optim
