// The forward pass: one page for every architecture, device, prefill and decode.
#pragma once

#include <span>

#include "engine/cold_experts.h"
#include "engine/disk_tier.h"
#include "engine/expert_map.h"
#include "engine/kv_cache.h"
#include "engine/routed_experts.h"
#include "engine/workspace.h"
#include "models/weights.h"

namespace moebius {

class RoutingLog;  // engine/routing_log.h
class Saliency;    // engine/prune/saliency.h

// The share of its token's scores below which an expert is left out, and the one below which its minor half
// is, where experts are in halves (MoeConfig).
struct SkipShares {
  float expert = 0, minor = 0;
};

// Rows [begin, begin + count) of a batch continue one sequence at `position`, whose table covers position +
// count.
struct Segment {
  const PageTable* table = nullptr;
  int64_t begin = 0, count = 0;
  int64_t position = 0;
};

struct Batch {
  std::span<const int32_t> ids;       // [n], each in [0, vocab)
  std::span<const Segment> segments;  // cover all rows, in order
};

struct Model {
  const ModelConfig& config;
  const Weights& weights;
  const RotaryTable& rotary;
  Backend& backend;
  ColdExperts* cold = nullptr;  // of routed experts that are not on the device; null: all are
  Backend* host = nullptr;   // has the embedding, and the head where that is not the device's; null: backend
  DiskTier* disk = nullptr;  // where cold is null and experts may be in no memory
  SkipShares skip = {};
  ExpertMap* map = nullptr;      // counts what the router chooses; null: nobody looks at it
  Saliency* saliency = nullptr;  // on the host: computes the model's own routed experts, and scores them
  RoutedExperts* experts =
      nullptr;                    // in training, where some are in another place; null: the backend has all
  RoutingLog* routing = nullptr;  // on the host: gets what routers choose
};

// On a device all of these but head_forward only queue work, see Backend. Between two steps, while the device
// is idle, next_step() lets experts move.

void next_step(const Model& model);
// Returns when all that was queued is done: the first error of the device, or of the host's experts.
Status wait_for(const Model& model);
// After an error that wait_for() told of: the next step finds everything as before.
void clear_error(const Model& model);

// Embeds the batch, passes it through every layer and leaves the last layer's output in ws.x [n, hidden]; the
// cache holds the batch's positions afterwards. ws must be a view for batch.ids.size() tokens.
void forward(const Model& model, const Batch& batch, const KvCache& cache, const Workspace& ws);

// Two batches of different sequences, each as forward() does it, a layer of one after a layer of the other:
// while the host computes its experts for one of them, the device goes on with the other. Workspaces with a
// mailbox each.
void forward_in_two(const Model& model, const Batch& one, const Workspace& ws_one, const Batch& two,
                    const Workspace& ws_two, const KvCache& cache);

// The first part of forward: ids, angles and embeddings of the batch. Nothing that is queued may still read
// the host's side of ws.
void start_forward(const Model& model, const Batch& batch, const Workspace& ws);

// The halves of a decoder layer, ws.x in, ws.x out.
void attention_forward(const Model& model, int64_t layer, const Batch& batch, const KvCache& cache,
                       const Workspace& ws);
void ffn_forward(const Model& model, int64_t layer, const Workspace& ws);
// The same in two parts: up to where the host is asked for its experts, and the rest.
void ffn_begin(const Model& model, int64_t layer, const Workspace& ws);
void ffn_end(const Model& model, int64_t layer, const Workspace& ws);

// What ffn_forward does in a MoE layer before and beside the routed experts: norm and router, ws.x in, ws.h,
// ws.expert_ids and ws.expert_weights out; and ws.x += the shared experts of ws.h.
void route_forward(const Model& model, int64_t layer, const Workspace& ws);
void shared_forward(const Model& model, int64_t layer, const Workspace& ws);

// After forward() on a device: counts in model.map, if there is one, what the device's router chose. Waits
// for the device, whose error it returns.
Status count_chosen(const Model& model, const Workspace& ws);

// Final norm of rows [begin, begin + count) of ws.x; overwrites ws.h, and the host's side of ws.x. Returns
// [count, hidden] on the host, when the device is done; the error of wait_for().
Result<Tensor> hidden_forward(const Model& model, const Workspace& ws, int64_t begin, int64_t count);

// Final norm and head of rows [begin, begin + count) of ws.x, count <= kLogitRows; overwrites ws.h. Returns
// [count, vocab] on the host, when the device is done; the error of wait_for().
Result<Tensor> head_forward(const Model& model, const Workspace& ws, int64_t begin, int64_t count);

}  // namespace moebius
