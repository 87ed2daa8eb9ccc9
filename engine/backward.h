// The backward pass of one layer: forward.cpp in mirror order, written by hand. engine/train/pass.h runs it
// over a whole model.
#pragma once

#include <span>

#include "engine/forward.h"

namespace moebius {

// Gradients have the shape of the weights: data of a Matrix or Tensor is float32 memory that is added to; an
// empty one is frozen. Gradients of adapters lie in their Lora.
using Gradients = Weights;
using LayerGradients = LayerWeights;
Tensor gradient_of(const Matrix& gradient);  // [rows, cols], or empty

// A loss that balances routing, see BalanceBackwardArgs.
struct BalanceLoss {
  float sequence = 0;     // alpha of the loss of single experts, of one sequence; 0: none
  float group = 0;        // alpha of the group loss of the whole batch, of a model with zero experts; 0: none
  float zero_weight = 0;  // of the group loss
};

// What the backward pass of a layer needs beside the forward's workspace; sizes as there.
struct BackwardWorkspace {
  Tensor dx;       // [n, hidden], of the residual stream
  Tensor dh;       // [n, hidden]
  Tensor neg_sin;  // [n, rotary / 2], the sines negated
  Tensor dattention;
  Tensor dq, dq_a, dq_a_normed;
  Tensor kv_expanded, dkv_expanded;  // MLA: [n, heads * (nope + v_dim)], keys and values of all heads
  Tensor dkv, dlatent;
  Tensor dk, dv;
  Tensor dq_raw, dk_raw;  // GQA with qk_norm: before the norms
  Tensor dgate, dup;
  Tensor dweights;                  // [n, top_k]
  Tensor logits, dlogits;           // [n, rows of the router]
  Tensor highest;                   // [heads], see AttentionBackwardArgs; empty: not wanted
  BalanceLoss balance;              // of the batch
  std::span<const int64_t> starts;  // of the sequences: rows [starts[i], starts[i + 1])
};
BackwardWorkspace lay_out_backward(const ModelConfig& config, int64_t n, Arena& arena);

// bw.dx: the gradient of the layer's output in, of its input out. x [n, hidden]: the input. after_attention
// [n, hidden]: the residual stream between attention and feed-forward, when ws still holds the layer's
// AttentionActivations; empty: attention is run again. The feed-forward always is, with the routing that ws
// holds (expert_ids, expert_weights, expert_chosen). The batch's sequences are its segments, each from
// position 0. Adds to gradients and to the adapters'.
void layer_backward(const Model& model, int64_t layer, const Batch& batch, const KvCache& cache,
                    const Tensor& x, const Tensor& after_attention, const Workspace& ws,
                    const BackwardWorkspace& bw, const LayerGradients& gradients);

}  // namespace moebius
