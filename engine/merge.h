// Merging: the files of a checkpoint with an adapter added to its weights.
//
// Every tensor is copied byte for byte, into shards of the same names, but those of adapted matrices: they
// become base + scale B A, computed in float32 and rounded once, to nearest even. A packed or FP8 matrix
// cannot hold that and becomes a plain one, which config.json then lists as not quantised. Programs take one
// format for all routed experts of a layer, so when one of them must become plain, all of that layer do.
#pragma once

#include <array>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "models/peft.h"
#include "models/weights.h"

namespace moebius {

enum class MergeType : uint8_t {
  kAuto,  // an adapted matrix keeps its base's float type; BF16 where the base is packed or FP8
  kBF16,  // adapted matrices in this type, whatever the base's is
  kF32,
};

// Rows [row, row + base.rows) of a merged tensor: one matrix, or one expert's of a fused tensor.
struct MergePart {
  int64_t row = 0;
  Matrix base;                              // a view of the base checkpoint
  const AdapterFactors* factors = nullptr;  // null: the base alone, in another type
};

struct MergeTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t bytes = 0;
  const TensorEntry* source = nullptr;  // of the base; copied when there are no parts
  std::vector<MergePart> parts;         // by row, and all rows
};

struct MergeShard {
  std::string file;
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<MergeTensor> tensors;
};

// What is to be written; views of the model's files and of the factors, which must outlive it.
struct MergePlan {
  std::vector<MergeShard> shards;
  int64_t bytes = 0;                         // of all tensors
  std::array<int64_t, kRoleCount> merged{};  // adapted matrices, by Role
  int64_t unpacked = 0;                      // matrices that were packed or FP8 and become plain,
  int64_t unpacked_alone = 0;                // and of them those without an adapter
  // Modules by name, the routed experts of a layer as one: "model.layers.3.mlp.experts".
  std::vector<std::string> unpacked_modules;
  std::vector<std::string> plain_modules;  // neither packed nor FP8 in the base; the embedding left out
  bool quantized = false;                  // packed or FP8 tensors remain
  MergeType type = MergeType::kAuto;
};

// kInvalid: factors of a module that is no matrix of the model, come twice or have another shape, or a model
// that has no room for them (fused tensors of more experts than the model has).
Result<MergePlan> plan_merge(const ModelFiles& model, std::span<const AdapterFactors> factors,
                             MergeType type);

// config.json as it must read for the plan's weights; the same bytes where nothing changes. origin: for
// messages.
Result<std::string> merged_config(const std::string& config, const MergePlan& plan,
                                  const std::string& origin);

struct MergeOptions {
  int threads = 1;
  // Bytes written so far and in total; false cancels (kCancelled).
  std::function<bool(int64_t done, int64_t total)> progress;
};

// Writes the plan's shards and their index, config.json, and copies of the base's tokenizer, chat template,
// generation configuration, code and licence (known names only: nothing else that lies in the folder) into
// `dir`, which exists. Memory is bounded, whatever the model's size. kInvalid when a merged number does not
// fit its type, or when the base changed meanwhile.
Status write_merged(const ModelFiles& model, const MergePlan& plan, const std::string& dir,
                    const MergeOptions& options);

}  // namespace moebius
