// StreamedPrefill: a long prompt through a model whose routed experts are partly on the host, layer by layer:
// all tokens of a pass go through one layer before any goes through the next, so that an expert crosses the
// link once for all of them (stream-loading prefill, arXiv 2606.10493).
//
//   1. Attention and router of the pass in slices, as forward() does it; then the experts of every token are
//      known, and plan_layer says which are computed where they are, streamed, or left to the CPU. Meanwhile
//      the link brings a first group of experts, those that by their heat will be streamed.
//   2. At the same time: the CPU computes its tail, through the mailbox of ColdExperts; the device the shared
//      experts and those that are there, then the streamed ones, group by group; the link brings the next
//      group into the ring (engine/expert_ring.h).
//
// Every slot is computed by the same operation wherever its expert is, and all slots are added in slot order,
// so the result is that of forward() with the whole pass as one batch.
#pragma once

#include <memory>
#include <optional>

#include "engine/expert_ring.h"
#include "engine/forward.h"
#include "engine/plan_layer.h"

namespace moebius {

struct PrefillSizes {
  int64_t pass_tokens = 0;  // 0: no room, or no need
  int64_t places = 0;       // of the ring
};

class StreamedPrefill {
 public:
  // As much of what is wanted as `room` bytes hold; nothing when a pass would have less than `least_tokens`.
  static PrefillSizes fitting(const ModelConfig& config, const Weights& host, PrefillSizes wanted,
                              int64_t room, int64_t least_tokens);
  static int64_t bytes(const ModelConfig& config, const Weights& host, const PrefillSizes& sizes);

  // All that is referred to must outlive it. disk: of experts that may be in no memory;
  // null: all are.
  static Result<std::unique_ptr<StreamedPrefill>> create(const ModelConfig& config, const Weights& host,
                                                         const PrefillSizes& sizes,
                                                         const MachineSpeeds& speeds, DiskTier* disk,
                                                         ExpertStore& store, Backend& device);

  // True if streaming can beat the CPU for an expert that every one of so many tokens is routed to.
  bool pays(int64_t tokens) const { return tokens >= 2 && static_cast<double>(tokens) > break_even_; }
  int64_t pass_tokens() const { return sizes_.pass_tokens; }

  // Starts a pass, in slices of prompt_part()s of so many tokens at most, of at most pass_tokens() ids, which
  // continue a sequence at `position`, whose table covers them. A pass that was not done is given up. The
  // device must be idle.
  void begin(const Model& model, const KvCache& cache, const PageTable& table,
             const WorkspaceMemory& workspace, int64_t slice_tokens, std::span<const int32_t> ids,
             int64_t position);
  // Queues the next piece of work: a slice of a layer's attention, or a layer's experts, and waits for what
  // it must know. An error ends the pass.
  Status step();
  bool done() const { return pass_->layer == pass_->model.config.layers; }
  double part_done() const;                                            // 0 to 1
  std::span<const int32_t> ids() const { return pass_->ids; }          // of the pass
  Workspace last_slice() const { return slice(pass_->slices() - 1); }  // x after the last layer

 private:
  struct Tokens {  // of a pass, on the device
    Tensor cos, sin, x, h, expert_ids, expert_weights, slots;
  };
  struct Pass {
    Model model;
    const KvCache& cache;
    const PageTable& table;
    const WorkspaceMemory& workspace;
    std::vector<int32_t> ids;
    int64_t position = 0;
    ExpertHeat heat;                 // at its beginning
    std::vector<int64_t> bounds{0};  // of its slices
    int64_t slices() const { return std::ssize(bounds) - 1; }
    int64_t layer = -1, slice = 0;  // next; layer -1: the embeddings
    bool routed = false;            // the layer's experts are next
  };
  StreamedPrefill(const ModelConfig& config, const Weights& host, const PrefillSizes& sizes,
                  const MachineSpeeds& speeds, DiskTier* disk, ExpertStore& store, Backend& device)
      : config_(config),
        host_(host),
        sizes_(sizes),
        speeds_(speeds),
        disk_(disk),
        store_(store),
        device_(device) {}
  static Tokens lay_out(const ModelConfig& config, int64_t n, Arena& arena);

  // Experts that are on their way, or in the ring, before the tokens are known that choose them.
  struct Ahead {
    std::vector<ExpertWeights> experts;  // of a layer; the others elsewhere
    std::deque<Lora> loras;
  };

  // Who computes which experts of a layer. The lists are queued_'s.
  struct Split {
    LayerPlan plan;
    const std::vector<ExpertWeights>&on_host, &on_device;
    std::vector<ExpertWeights> read;  // on the host, by the CPU or to be streamed
  };

  Tokens tokens() const;
  Workspace slice(int64_t index) const;
  LayerFrame frame(int64_t layer, double tokens) const;  // of its routed experts
  std::vector<ExpertLoad> loads(int64_t layer) const;    // without tokens
  void run_slice();
  Split split();  // once routed_ is there
  Status run_experts();
  void bring_ahead(int64_t layer);  // the first experts of the next layer from this one on that has any
  Status settle();                  // waits for what the device computes

  const ModelConfig& config_;
  const Weights& host_;
  const PrefillSizes sizes_;
  const MachineSpeeds speeds_;
  DiskTier* const disk_;
  ExpertStore& store_;
  Backend& device_;
  double break_even_ = 0;
  std::optional<ExpertRing> ring_;
  Buffer memory_, pinned_;  // Tokens; I32 [pass_tokens, top_k] on the host
  Tensor routed_;           // I32 [n, top_k]: the experts of the layer's tokens, on the host
  std::optional<Pass> pass_;
  Ahead ahead_, arrived_;  // of the next layer, of this
  QueuedExperts queued_;   // until what was queued on kCompute is done
};

}  // namespace moebius
