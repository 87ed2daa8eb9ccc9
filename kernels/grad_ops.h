// The backward operations: the mirror of ops.h for training, one line in MOEBIUS_GRAD_OPS each.
//
// dX is the gradient of the loss with respect to X. Unless stated, a gradient is added to what its tensor
// holds ("+=") and an empty tensor is a gradient that nobody wants. Gradients are float32. Weights may be
// frozen and of any format: they are read in place, as the values they stand for, with no transposed copy;
// the rounding of activations of integer formats counts as the identity (straight-through). A result never
// depends on the number of threads. rotary needs no operation of its own: its backward is rotary with the
// sines negated. visit(v) as in ops.h; spans lie in host memory.
#pragma once

#include <span>

#include "kernels/ops.h"

namespace moebius {

// Of rms_norm. dx may alias nothing.
struct RmsNormBackwardArgs {
  Tensor x;       // [n, d], the forward's input, rows may be strided
  Tensor weight;  // [d]
  float eps = 0;
  Tensor dy;       // [n, d], rows may be strided
  Tensor dx;       // [n, d], +=, or empty; rows may be strided
  Tensor dweight;  // [d], +=, or empty
  template <class V>
  void visit(V&& v) {
    v(x), v(weight), v(dy), v(dx), v(dweight);
  }
};

// Of linear: dx += dy w, dw += dy^T x, dbias += column sums of dy; of an adapter, with dx as of the adapted
// matrix: da += scale (dy b)^T x, db += scale dy^T (x a^T).
struct LinearBackwardArgs {
  Matrix w;      // [rows, cols]; may be empty when dx is and there is no adapter
  Tensor x;      // [n, cols], rows may be strided; may be empty when neither dw nor da or db is wanted
  Tensor dy;     // [n, rows], rows may be strided
  Tensor dx;     // [n, cols], +=, or empty; rows may be strided
  Tensor dw;     // [rows, cols], +=, or empty
  Tensor dbias;  // [rows], +=, or empty
  template <class V>
  void visit(V&& v) {
    v(w), v(x), v(dy), v(dx), v(dw), v(dbias);
  }
};

// Of swiglu: dgate and dup are set, not added to; each may be dy, gate or up, whole, but not the other.
struct SwigluBackwardArgs {
  Tensor gate, up, dy, dgate, dup;  // [n, d]
  template <class V>
  void visit(V&& v) {
    v(gate), v(up), v(dy), v(dgate), v(dup);
  }
};

// Of attention over whole training sequences: rows [starts[i], starts[i + 1]) see only each other, causally.
// The key of head h at token t is [k[t, h / (heads / kv_heads), :], shared[t, :]]: MLA's rotary key is shared
// by all heads; for GQA shared is empty. The softmax is computed again from q and the keys; out is taken at
// its word.
struct AttentionBackwardArgs {
  Tensor q;       // [n, heads, k_own + k_shared], strided
  Tensor k;       // [n, kv_heads, k_own], strided
  Tensor shared;  // [n, k_shared], strided, or empty
  Tensor v;       // [n, kv_heads, v_dim], strided
  float scale = 1;
  std::span<const int64_t> starts;  // ascending from 0 to n
  Tensor out;                       // [n, heads, v_dim], the forward's result
  Tensor dout;                      // [n, heads, v_dim]
  Tensor dq, dk, dshared, dv;       // shaped as q, k, shared, v; +=
  Tensor highest;  // [heads], raised to the largest scale * q . key of each head (QK-Clip); or empty
  template <class V>
  void visit(V&& see) {
    see(q), see(k), see(shared), see(v), see(starts), see(out), see(dout);
    see(dq), see(dk), see(dshared), see(dv), see(highest);
  }
};

// Of router, for the slots that were chosen; none flows through the choice. logits = x gate^T; the gradient
// goes on to x and gate by linear's backward.
struct RouterBackwardArgs {
  Tensor logits;    // [n, rows of the gate]
  Tensor ids;       // I32 [n, k], the rows chosen, zero experts (>= n_experts) by their row, not as -1
  Tensor dweights;  // [n, k]; those of zero experts are not read, their weight is the constant 0
  Scoring scoring = Scoring::kSoftmax;
  int64_t n_experts = 0;
  bool normalize = false;
  float scale = 1;
  Tensor dlogits;  // [n, rows of the gate], +=
  template <class V>
  void visit(V&& v) {
    v(logits), v(ids), v(dweights), v(dlogits);
  }
};

// Of the sequence-level balance loss (DeepSeek-V3, arXiv 2412.19437), which for each sequence of T tokens is
//   alpha * sum over e of f_e P_e,  f_e = E / (k T) * (slots of the sequence that chose e),
//   P_e = mean over its tokens of s_e / (sum of s),  s = scoring(logits), E = rows of the gate.
// With zero_weight w > 0 of the group loss of ZEDA (arXiv 2605.18643), which balances the N real experts
// against the Z zero experts and nothing within either group:
//   alpha * (N + w Z) / k * (f_N P_N / N + f_Z P_Z / (w Z)),  f_g = slots that chose the group / T,
//   P_g = sum of P_e over the group; it is least where w Z / (N + w Z) of the slots are zero experts'.
// The gradient goes through P alone. Sequences as in attention_backward.
struct BalanceBackwardArgs {
  Tensor logits;                    // [n, rows of the gate]
  Tensor ids;                       // I32 [n, k], the rows chosen, each in [0, rows of the gate)
  std::span<const int64_t> starts;  // ascending from 0 to n
  Scoring scoring = Scoring::kSoftmax;
  float alpha = 0;
  Tensor dlogits;         // [n, rows of the gate], +=
  int64_t n_experts = 0;  // of the group loss: rows from here on are zero experts
  float zero_weight = 0;  // w of the group loss; 0: the loss of single experts
  template <class V>
  void visit(V&& v) {
    v(logits), v(ids), v(starts), v(dlogits);
  }
};

// Gradients of one expert's matrices, each float32 and shaped as its weight, or empty (frozen).
struct ExpertGradients {
  Tensor gate, up, down;
};

// Of expert_ffn followed by combine, up to what each slot gives to dx, which a combine without weights adds;
// the hidden activations are computed again, from unrounded activations for any format. With
// h = silu(gate x) * up x of slot (t, k), and adapters as in linear_backward:
//   dweights[t, k] = (down^T dy[t]) . h, set;   dh = weights[t, k] * down^T dy[t];   and so on to dslots.
// Slots with id -1 have dweights 0 and give nothing else; those of an expert that is elsewhere are left
// untouched.
struct ExpertFfnBackwardArgs {
  Tensor x;                                // [n, hidden]
  const ExpertWeights* experts = nullptr;  // [n_experts]
  int64_t n_experts = 0;
  Tensor ids;                                  // I32 [n, k]
  Tensor weights;                              // [n, k]
  Tensor dy;                                   // [n, hidden]
  Tensor dslots;                               // [n, k, hidden], set, or empty
  Tensor dweights;                             // [n, k], set, or empty
  const ExpertGradients* gradients = nullptr;  // [n_experts], or null: all frozen
  template <class V>
  void visit(V&& v) {
    v(x), v(experts, n_experts), v(ids), v(weights), v(dy), v(dslots), v(dweights);
    if (gradients) v(gradients, n_experts);
  }
};

// Softmax cross-entropy of rows of logits. loss[i] = weight[i] * -log softmax(logits[i])[target[i]] is set,
// and logits become dlogits = weight[i] * (softmax - onehot). Rows with target -1 have loss 0 and gradient 0.
struct CrossEntropyArgs {
  Tensor logits;   // [n, vocab], overwritten
  Tensor targets;  // I32 [n], -1 or in [0, vocab)
  Tensor weights;  // [n], or empty: all 1
  Tensor loss;     // [n]
  Tensor hits;     // I32 [n], set: 1 where no logit exceeds that of the target, else 0; or empty
  template <class V>
  void visit(V&& v) {
    v(logits), v(targets), v(weights), v(loss), v(hits);
  }
};

// Of embed: dtable[ids[i]] += dy[i], i ascending.
struct EmbedBackwardArgs {
  Tensor ids;     // I32 [n]
  Tensor dy;      // [n, hidden]
  Tensor dtable;  // [vocab, hidden], +=
  template <class V>
  void visit(V&& v) {
    v(ids), v(dy), v(dtable);
  }
};

// name, arguments
#define MOEBIUS_GRAD_OPS(X)                     \
  X(rms_norm_backward, RmsNormBackwardArgs)     \
  X(linear_backward, LinearBackwardArgs)        \
  X(swiglu_backward, SwigluBackwardArgs)        \
  X(attention_backward, AttentionBackwardArgs)  \
  X(router_backward, RouterBackwardArgs)        \
  X(balance_backward, BalanceBackwardArgs)      \
  X(expert_ffn_backward, ExpertFfnBackwardArgs) \
  X(cross_entropy, CrossEntropyArgs)            \
  X(embed_backward, EmbedBackwardArgs)

// check(args) and ref::name(args), as in ops.h.
#define X(name, Args) void check(const Args& args);
MOEBIUS_GRAD_OPS(X)
#undef X

namespace ref {
#define X(name, Args) void name(const Args& args);
MOEBIUS_GRAD_OPS(X)
#undef X
}  // namespace ref

}  // namespace moebius
