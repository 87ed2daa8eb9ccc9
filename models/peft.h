// PEFT LoRA adapters: folders of adapter_config.json and adapter_model.safetensors, as the `peft` library
// writes and loads them, read onto and written from the matrices of a model.
//
// A matrix W [out, in] with an adapter computes W x + scale * B (A x). Adapters are named as visit_weights()
// names the matrices. Expert weights come in three layouts, all of which are read:
//  - per expert: "...mlp.experts.17.gate_proj.lora_A.weight" [r, in], "...lora_B.weight" [out, r];
//  - fused (target_parameters): "...mlp.experts.lora_A.weight" [E * r, in], expert slowest,
//  "...lora_B.weight"
//    [out, r * E], expert fastest; a second adapted tensor of the same experts says "experts.base_layer.";
//  - KTransformers': fused_expert_lora.safetensors with "layers.3.experts.gate_lora_a" [E, r, in], ..._b
//    [E, out, r].
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/status.h"
#include "models/config.h"
#include "models/weights.h"

namespace moebius {

// What the written layout was tested with; also its conventions' version, for readers that ask.
inline constexpr const char* kPeftVersion = "0.21.2";
inline constexpr const char* kPeftTransformersVersion = "5.23.0";

struct AdapterFactors {
  std::string module;  // "model.layers.3.self_attn.q_a_proj": visit_weights' name
  int64_t rank = 0, in = 0, out = 0;
  std::vector<float> a;  // [rank, in]
  std::vector<float> b;  // [out, rank]
  float scale = 0;       // alpha / rank, or alpha / sqrt(rank)
};

struct Adapter {
  std::string base_model;  // as the file names it: an id, a path, or empty
  std::string revision;
  std::vector<AdapterFactors> factors;            // in visit_weights' order, no module twice
  std::array<int64_t, kRoleCount> adapted = {};   // matrices with factors, by Role
  std::array<int64_t, kRoleCount> matrices = {};  // all matrices of the model, by Role
  int64_t tensors = 0;                            // read from the files; every one of them was matched
  std::vector<std::string> notes;                 // lines for the log
};

// Reads dir for this model. Nothing is ignored that would change the result: a tensor that matches no matrix,
// or that the configuration does not target, an option that is not implemented, factors of the wrong shape,
// of a rank above the matrix's smaller side, or not finite are errors that name it. kNotFound when dir has no
// adapter, kUnsupported for options and formats, kInvalid for the rest.
Result<Adapter> read_adapter(const std::string& dir, const ModelConfig& config);

enum class AdapterLayout : uint8_t {
  kFused,      // routed experts as target_parameters, for peft >= 0.19.1 on transformers 5
  kPerExpert,  // one pair of tensors per expert, for transformers 4 and for other engines
};

struct AdapterWriteOptions {
  AdapterLayout layout = AdapterLayout::kFused;
  std::string base_model;  // id or path of the base model
  std::string revision;    // of base_model, or empty
  std::string method;      // for the model card: "supervised fine-tuning, Muon, learning rate 0.0002"
  std::string data_file;   // for the model card; its folder is left out
};

// Writes adapter_config.json, adapter_model.safetensors (float32) and README.md into dir, which is made if it
// is missing; other files there stay. The weights are written in full beside their place first, then the old
// configuration is removed, then the weights are renamed and the new configuration appears, so that a crash
// leaves the old adapter, a folder that is no adapter, or the new one.
//
// kFused stores gate and up of an expert exactly, as one pair of rank r + r whose B is block-diagonal;
// experts of a layer without factors get zeros, smaller ranks are padded with zeros, and a scale that differs
// within a layer is folded into B. It needs experts of one width and no zero experts (kUnsupported).
// Embeddings have no such layout (kUnsupported). Factors that the reader would refuse are refused.
Status write_adapter(const std::string& dir, const ModelConfig& config,
                     std::span<const AdapterFactors* const> factors, const AdapterWriteOptions& options);
Status write_adapter(const std::string& dir, const ModelConfig& config,
                     std::span<const AdapterFactors> factors, const AdapterWriteOptions& options);

// "28 of 40 matrices: 12 of 12 attention, ...", for the log.
std::string describe_adapter(const Adapter& adapter);

}  // namespace moebius
