// Placement: what of a model goes where on a machine, and how fast it will then be. Everything here is a
// value computed from values, before anything is allocated, loaded or measured.
//
// Model of a decoded token (KTransformers, SOSP 2025): the sum over layers of attention and router + the
// longer of [shared and resident experts on the device] and [hand-off + cold experts on the CPU], and the
// head. Model of a prefill (arXiv 2606.10493): a pass of tokens goes through all layers, cold experts cross
// the link once a pass, and link, device and CPU work at the same time (engine/plan_layer.h).
//
// With experts of one size and a device that is at least as fast as the CPU, more memory on the device or in
// RAM never predicts a slower decode of a sequence; nor, where no heat is given and the device takes part in
// both plans or in none, a slower prefill (but that of a long prompt may pass in smaller parts once all
// experts fit).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/expert_moves.h"
#include "engine/plan_layer.h"
#include "models/format_rule.h"

namespace moebius {

struct ClassSize {
  int64_t bytes = 0, weights = 0;
};

struct LayerBytes {
  ClassSize attention, dense, shared;
  ClassSize router;                // and norms and biases
  std::vector<ClassSize> experts;  // empty in a dense layer
};

// What a model weighs, and the facts of it that times depend on.
struct ModelBytes {
  std::vector<LayerBytes> layers;
  ClassSize embedding;  // empty when the head is the embedding again
  ClassSize head;
  bool tied_head = false;
  Format format = Format::kBF16;  // of the routed experts, else of the attention
  int64_t top_k = 0;              // picks of a token in a MoE layer, of experts and
  int64_t zero_experts = 0;       // of zero experts, which cost nothing and are taken to be picked as often
  int64_t cache_per_token = 0;    // all layers
  int64_t workspace = 0;          // activations of a slice of kSliceTokens
  int64_t state_per_token = 0;    // what a pass keeps of a token between layers: its stream and its slots
  int64_t mail_per_token = 0;     // between device and CPU: its vector, and what the CPU's experts make of it
  int64_t activations_per_token = 0;  // bytes that operations read and write of it, all layers; experts apart
  int64_t vector_bytes = 0;           // of its hidden state, which an expert reads and writes
  double operations_per_pair = 0;     // attention of one token to one other, all layers

  ClassSize total() const;
  ClassSize per_token() const;  // read and multiplied once per decoded token; the embedding's row left out
};

inline constexpr int64_t kSliceTokens = 512;  // attended at a time in a prefill
// Tokens that pass a layer together, if there is room for them, and with room to spare: an expert crosses the
// link once for them all.
inline constexpr int64_t kPassTokens = 4096, kLongestPassTokens = 32768;
inline constexpr int64_t kRingSlots = 8;  // experts on their way over the link, if there is room for them
inline constexpr int64_t kMaxPlannedExperts = int64_t{1} << 20;  // of all layers

// Of a model of which only the configuration is known: the routed experts of a layer are like its first one.
// kInvalid: sizes that overflow, or more than kMaxPlannedExperts experts.
Result<ModelBytes> model_bytes(const ModelConfig& config, const FormatRule& rule, DType cache_type);
// Adapters count with their matrices.
Result<ModelBytes> model_bytes(const ModelConfig& config, const Weights& weights, DType cache_type);

// The constraints. They may contradict the model: then the plan says so and does something else.
struct Budgets {
  int64_t device_bytes = 0;  // 0: no device
  int64_t ram_bytes = 0;     // of the machine; a sixteenth, at most 8 GiB, is left to the system
  int64_t context = 4096;    // tokens of a sequence
  int64_t sequences = 1;     // computed at once
  int64_t adapter_bytes = 0;
  int64_t prompt = 2048;  // tokens that the predictions are for: of the prompt, and before a decoded one
  bool share_residents = true;  // as LayerFrame; without, more device memory can predict a slower prefill
  int64_t device_reserve = -1;  // left to the driver; -1: a sixteenth of device_bytes, at most 512 MiB
  bool use_device = false;      // even if the CPU alone would be faster, or too little fits
  int64_t cache_tokens = 0;     // of all sequences together; 0: context tokens for each
};

enum class PlanShape : uint8_t {
  kHost,      // the device has no part
  kHostHead,  // the head is the CPU's
  kDevice,
};

// Bytes of one class by place. What is only on disk is mapped, and read when it is needed.
struct PlaceRow {
  std::string name;
  int64_t device = 0, ram = 0, disk = 0;
};

struct DecodePrediction {
  int64_t tokens = 1;      // decoded together, of so many sequences
  int64_t groups = 1;      // 2: in two that overlap, and then `seconds` is theirs
  double attention_s = 0;  // with router, dense layers and the cache
  double device_s = 0;     // shared and resident experts
  double handoff_s = 0;    // to the CPU and back
  double cold_s = 0;       // experts on the CPU
  double disk_s = 0;       // reading those that are in no memory
  double experts_s = 0;    // the longer side of each layer, summed; expected over a token's picks
  double head_s = 0;
  double seconds = 0;
  double tokens_per_s = 0;  // of all sequences
  double hits = 0;          // share of picked experts that are resident
};

struct PrefillPrediction {
  int64_t prompt = 0, pass = 0;  // tokens
  LayerPlan layers;              // of a pass: all layers at once; `where` is empty
  double before_s = 0;           // of a pass: attention, router, dense layers
  double seconds = 0;            // of the prompt
  double tokens_per_s = 0;
  double tokens_per_expert = 0;  // of a pass
  double break_even = 0;         // tokens from which streaming beats the CPU
};

struct ModelPlan {
  PlanShape shape = PlanShape::kHost;
  Residency resident;
  std::vector<std::vector<bool>> in_ram;  // [layer][expert]: false: only on disk, or released
  int64_t experts = 0, experts_resident = 0, experts_released = 0, experts_on_disk = 0;  // of all layers
  int64_t ring_slots = 0;  // 0: nothing is streamed
  int64_t slot_bytes = 0;  // of the largest expert
  int64_t pass_tokens = 0;
  std::vector<PlaceRow> rows;
  int64_t device_used = 0, ram_used = 0;     // sums of rows; ram_used may be above the budget, and then
  int64_t ram_missing = 0;                   // so much of what every token reads is read from disk
  int64_t device_needed = 0;                 // the least with which the device takes part
  int64_t device_for_all = 0;                // with which every expert is resident
  int64_t ram_for_all = 0;                   // with which nothing is read from disk
  int64_t context_that_fits = 0;             // kHost with a device: tokens a sequence could have; 0: none
  DecodePrediction decode, decode_together;  // one sequence; all of them
  int64_t two_groups_from =
      0;  // tokens from which decoding them in two groups that overlap is faster; 0: never
  PrefillPrediction prefill;
  std::vector<std::string> reasons;  // lines
};

// Pure. heat: as the model has its experts; empty: all alike. Everything in speeds is positive; bytes and
// tokens above 2^60 count as 2^60.
ModelPlan plan_model(const ModelBytes& model, const MachineSpeeds& speeds, const Budgets& budgets,
                     const ExpertHeat& heat = {});

// What of a machine's memory is left when the system has its share.
int64_t usable_ram(int64_t ram_bytes);

std::string gib_text(int64_t bytes);                // "12.3 GiB", "4.5 MiB"
std::string plan_paragraph(const ModelPlan& plan);  // its predictions and reasons, in a line

}  // namespace moebius
