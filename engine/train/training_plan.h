// What fine-tuning takes, and what of it goes where: values from values, before anything is allocated, loaded
// or measured; the twin of engine/placement.h for training.
//
// A step's model: forward and backward go layer by layer over all tokens of a micro-batch, each layer on the
// device beside the CPU (engine/plan_layer.h), experts that stream cross the link once each way; the forward
// of what the backward needs is run twice. Optimizer and momenta are the host's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/expert_moves.h"
#include "engine/placement.h"
#include "engine/train/lora.h"

namespace moebius {

struct TrainingShape {
  int64_t micro_tokens = 4096;  // rows that pass the model together
  int64_t accumulation = 1;     // micro-batches in a step
  int64_t shortest = 1;         // rows of the shortest sequence
  int64_t sequence = 512;       // rows of a usual one, for what attention costs
  LoraOptions lora;
};

// Bytes of a fine-tuning by class, wherever they are to lie.
struct TrainingBytes {
  ModelBytes model;
  int64_t dense_adapters = 0;   // A and B of attention, dense and shared matrices, router and head
  int64_t merged = 0;           // float32 copies of adapted matrices that hold base and adapter together
  int64_t expert_adapters = 0;  // A and B of all routed experts
  int64_t momenta = 0;
  int64_t kept = 0;       // what a forward keeps for its backward, without the inputs of layers
  int64_t inputs = 0;     // of all layers
  int64_t workspace = 0;  // of forward and backward, and the cache
  int64_t head = 0;       // what the head works on
  int64_t pinned = 0;     // what the host reads and writes of a device's numbers, and its experts' mailbox
  int64_t gradients() const { return dense_adapters + expert_adapters; }
};
// kInvalid: options of the adapter that do not fit the model.
Result<TrainingBytes> training_bytes(const ModelConfig& config, const ModelBytes& model,
                                     const TrainingShape& shape);

struct TrainingBudgets {
  int64_t device_bytes = 0;  // 0: no device
  int64_t ram_bytes = 0;     // of the machine
};

struct TrainingPlan {
  bool use_device = false;
  int64_t device_needed = 0;   // the least with which the device takes part
  int64_t device_for_all = 0;  // with which all is there
  bool park = false;           // inputs of layers wait in the host's memory
  bool head_on_device = false;
  int64_t ring_places = 0;     // 0: nothing is streamed
  int64_t resident_bytes = 0;  // that routed experts may take, with adapters and gradients
  int64_t experts = 0, experts_resident = 0;
  std::vector<PlaceRow> rows;
  int64_t device_used = 0, ram_used = 0, ram_missing = 0;
  // Of a micro-batch, in seconds; each is the longer of its sides.
  double forward_s = 0, backward_s = 0, head_s = 0;
  double optimizer_s = 0;  // of a step
  double tokens_per_s = 0;
  LayerPlan layers;  // of a forward's MoE layer: `where` is empty
  std::vector<std::string> reasons;
};

// Pure. Everything in speeds is positive. More memory on the device never predicts a speed that is lower by
// more than a hundredth.
TrainingPlan plan_training(const TrainingBytes& bytes, const TrainingShape& shape,
                           const MachineSpeeds& speeds, const TrainingBudgets& budgets);

// The most rows of a micro-batch, and the highest rank, that fit the budgets while all else is as it is; 0:
// none does.
struct TrainingLimits {
  int64_t micro_tokens = 0, rank = 0;
};
Result<TrainingLimits> training_limits(const ModelConfig& config, const ModelBytes& model,
                                       const TrainingShape& shape, const TrainingBudgets& budgets);

}  // namespace moebius
