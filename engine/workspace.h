// Workspace: the activations of one forward pass, allocated once for the largest batch.
#pragma once

#include <span>

#include "kernels/backend.h"
#include "models/config.h"

namespace moebius {

class BatchAdapter;

// Rows [begin, begin + count) of a batch use one adapter, or none: null.
struct AdapterRun {
  int64_t begin = 0, count = 0;
  const BatchAdapter* adapter = nullptr;
};

// What attention computes on its way, as far as its backward pass reads it.
struct AttentionActivations {
  Tensor q_a, q_a_normed;     // [n, q_lora]
  Tensor q;                   // [n, heads * qk_dim]
  Tensor kv;                  // MLA: [n, kv_lora + rope]: the latent before its norm, and the rotated key
  Tensor latent;              // MLA: [n, kv_lora], normed
  Tensor k, v;                // GQA: [n, kv_heads * head_dim]
  Tensor q_normed, k_normed;  // GQA with qk_norm: as q and k
  Tensor attention;           // [n, heads * value_dim]
};

// Views for n tokens; fields a configuration does not use are empty. What the backward pass reads of a layer
// is never overwritten within the layer, except h.
struct Workspace : AttentionActivations {
  Tensor cos, sin;          // [n, rotary / 2]
  Tensor x;                 // [n, hidden], the residual stream
  Tensor h;                 // [n, hidden], normed
  Tensor q_absorbed;        // [n, heads * (kv_lora + rope)]
  Tensor o_latent;          // [n, heads * kv_lora]
  Tensor gate, up, hidden;  // [n, width of the dense or shared feed-forward], cut to the layer's width
  Tensor expert_ids;        // I32 [n, top_k]
  Tensor expert_weights;    // [n, top_k]
  Tensor expert_chosen;     // I32 [n, top_k]: ids with zero experts by their row; empty but in training
  Tensor expert_forced;     // I32 [n, top_k]: what the router is to choose, as RouterArgs' forced; or empty
  Tensor slots;             // [n, top_k, hidden]
  Tensor logits;            // [min(n, kLogitRows), vocab]
  struct {
    Tensor ids, cos, sin, x, logits;
    Tensor chosen;  // I32 [layers * n, top_k]: expert_ids of every layer that a device's router chose
  } host;  // what crosses to and from the device, in pinned memory; on the host those above themselves
  int mailbox = 0;                   // of ColdExperts, by which experts of the host are asked for
  std::span<const AdapterRun> runs;  // cover all rows in order; empty: no row uses an adapter
};

inline constexpr int64_t kLogitRows = 64;  // rows of logits at a time
inline constexpr int64_t kAbsorbedTokens =
    16;  // MLA: up to so many tokens of a sequence are attended in absorbed form

// How many of the `rest` tokens of a prompt a pass of at most `most` takes. All but short prompts are
// attended in the same form, see kAbsorbedTokens, wherever they are cut, when passes hold more than twice as
// many.
int64_t prompt_part(int64_t rest, int64_t most);

// Carves tensors out of one block, each aligned to 64 bytes. base may be null, to measure.
class Arena {
 public:
  explicit Arena(char* base, Space space = Space::kHost) : base_(base), space_(space) {}
  explicit Arena(const Buffer& memory) : Arena(memory.as<char>(), memory.space()) {}
  Tensor take(DType dtype, std::initializer_list<int64_t> shape);  // empty when a dimension is 0
  int64_t used() const { return used_; }

 private:
  char* base_;
  Space space_;
  int64_t used_ = 0;
};

// Pinned memory as the host's operations take it.
inline Tensor on_host(Tensor pinned) {
  pinned.space = Space::kHost;
  return pinned;
}
// Between the host's side of a tensor and the device's, which on the host are one.
inline void cross(Backend& backend, const Tensor& from, const Tensor& to) {
  if (from.data != to.data) backend.copy(from, to);
}

AttentionActivations lay_out_attention(const ModelConfig& config, int64_t n, Arena& arena);

class WorkspaceMemory {
 public:
  // max_tokens: the largest batch. Host memory is touched only as it is used. Batches that are on their way
  // at the same time need a mailbox each.
  static Result<WorkspaceMemory> create(const ModelConfig& config, int64_t max_tokens, Backend& backend,
                                        int mailbox = 0);
  static int64_t bytes(const ModelConfig& config, int64_t max_tokens);  // of the backend's own memory
  // Of an engine: for a part of a prompt with a token of every other sequence, and on a device for the second
  // of two groups.
  static int64_t bytes(const ModelConfig& config, int64_t prefill_chunk, int64_t sequences, bool device);
  static int64_t pinned_bytes(const ModelConfig& config, int64_t max_tokens);  // beside a device's
  Workspace view(int64_t n) const;                                             // n <= max_tokens
  int64_t max_tokens() const { return max_tokens_; }

 private:
  ModelConfig config_;
  Buffer memory_, pinned_;  // pinned_: empty on the host
  int64_t max_tokens_ = 0;
  int mailbox_ = 0;
};

}  // namespace moebius
