// PassMemory: what a TrainingPass works on beside weights and Workspace, all of it taken at the start.
//
// It lies in four blocks: what a forward keeps for its backward, what a backward works on, what the head
// works on, where the head is, and pinned memory for what the host reads and writes of a device's numbers. On
// the host there is no pinned memory.
#pragma once

#include <vector>

#include "engine/backward.h"

namespace moebius {

struct PassOptions {
  int64_t max_tokens = 0;                   // rows of the largest micro-batch
  int64_t kept_bytes = int64_t{256} << 20;  // for attention that is not run again
  int64_t shortest = 1;  // rows of the shortest sequence, which decides how many pages of a cache there are
  bool park = false;     // on a device: each layer's input waits for the backward in the host's memory
};

// In how many layers, the last ones, attention is kept.
int64_t layers_kept(const ModelConfig& config, const PassOptions& options);
// Positions of a cache for any sequences of a micro-batch.
int64_t cached_positions(const PassOptions& options);

// Bytes that operations take for themselves on a device: three numbers of an expert's width for every slot of
// its backward, and what goes through adapters, up to what large devices go through in pieces.
int64_t scratch_bytes(const ModelConfig& config, int64_t tokens);

// A tensor that the host reads or writes too: on the host, both are one.
struct Shared {
  Tensor here, host;
};

// What is kept of each layer.
struct SavedLayer {
  Tensor x;                     // [n, hidden], its input
  Tensor ids, weights, chosen;  // [n, top_k], its routing
  Tensor chosen_host;           // chosen, for the host to count
  Tensor after_attention;       // [n, hidden]; empty: attention is run again
  AttentionActivations attention;
};

// m: rows at a time. Where there are two sides, the first is where the layers are; logits, targets, weights,
// loss and hits are where the head is.
struct HeadWorkspace {
  Shared rows;           // I32 [n], the rows with a target
  Tensor x, dx;          // [m, hidden]
  Shared h, dh;          // [m, hidden]; the host's side is for a head that is there
  Tensor logits;         // [m, vocab]
  Shared targets, hits;  // I32 [n]
  Shared weights, loss;  // [n]
};

struct PassViews {
  BackwardWorkspace bw;
  Shared neg_sin;  // [n, rotary / 2]
  Shared highest;  // [layers, heads]
  Tensor x;        // [n, hidden], where inputs are parked: a layer's, on its way back
  std::vector<SavedLayer> saved;
  HeadWorkspace head;
};

class PassMemory {
 public:
  struct Bytes {
    int64_t kept = 0, workspace = 0, head = 0, pinned = 0;
  };
  // head_here: the head is the device's.
  static Bytes bytes(const ModelConfig& config, const PassOptions& options, bool on_host, bool head_here);
  // head: the backend that has the head.
  static Result<PassMemory> create(const ModelConfig& config, const PassOptions& options, Backend& backend,
                                   Backend& head);
  PassViews view(int64_t n) const;  // n <= max_tokens

 private:
  ModelConfig config_;
  PassOptions options_;
  bool on_host_ = true, head_here_ = true;
  Buffer kept_, workspace_, head_, pinned_;
};

}  // namespace moebius
