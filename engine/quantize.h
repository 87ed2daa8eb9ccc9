// Quantising: the files of a checkpoint with its matrices packed into int8 or int4.
//
// The output is in compressed-tensors' `pack-quantized` layout (kernels/quant.h), scales in the float type of
// the matrix they replace. Embedding, router, norms and biases are copied byte for byte, and so is what is
// kept; of an FP8 checkpoint what is kept becomes BF16, since a checkpoint has one way of quantising. Tensors
// of multi-token-prediction layers, which no forward pass here reads, are left out.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "engine/column_weights.h"
#include "kernels/pack.h"
#include "models/weights.h"

namespace moebius {

struct QuantizeOptions {
  Format format = Format::kInt4;     // kInt4 or kInt8
  int64_t group = kActivationGroup;  // columns per scale, a multiple of 32
  // What stays as it is. Each entry is a role (attention, dense, shared, experts, head), a module's whole
  // name, its last part or parts ("kv_b_proj") or its first ("model.layers.0"), or "re:" and a regular
  // expression for its whole name.
  std::vector<std::string> keep;
};

struct QuantizeMatrix {
  std::string name;  // of the module
  Role role = Role::kAttention;
  Matrix w;                 // a view of the original
  bool packed = false;      // else it stays
  PackFormat format;        // when packed
  int64_t bytes_after = 0;  // with scales
};

struct QuantizeTensor {
  enum class Part : uint8_t { kCopy, kPlain, kCodes, kScales, kShape };

  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t bytes = 0;
  Part part = Part::kCopy;
  const TensorEntry* source = nullptr;  // kCopy
  size_t matrix = 0;                    // else: which of the plan's; codes, scales and shape come in a row
};

struct QuantizeShard {
  std::string file;
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<QuantizeTensor> tensors;
};

struct QuantizePlan {
  std::vector<QuantizeMatrix> matrices;
  std::vector<QuantizeShard> shards;
  int64_t bytes = 0;    // of all tensors
  int64_t dropped = 0;  // tensors left out
  int64_t plain_experts = 0, packed_experts = 0;
};

// Views of the model's files, which must outlive the plan. kInvalid: a model that is quantised to integers
// already, a matrix whose columns are no multiple of the group, an entry of keep that names nothing,
// or that takes some routed experts of a layer and not others (programs hold these in one format).
Result<QuantizePlan> plan_quantize(const ModelFiles& model, const QuantizeOptions& options);

// config.json for the plan's weights. origin: for messages.
Result<std::string> quantized_config(const std::string& config, const QuantizePlan& plan,
                                     const std::string& origin);

struct QuantizeError {
  int64_t weights = 0, bytes = 0;  // of packed matrices, bytes with scales
  double error = 0, square = 0;    // sums of (w - s q)^2 and w^2
};
using QuantizeErrors = std::array<QuantizeError, kRoleCount>;  // by Role

struct QuantizeRun {
  int threads = 1;
  ColumnWeights weights;
  // Bytes written so far and in total; false cancels (kCancelled).
  std::function<bool(int64_t done, int64_t total)> progress;
};

// Writes the plan's shards and their index, config.json and the companions of the original into `dir`, which
// exists. Memory is bounded, whatever the model's size, and the bytes do not depend on threads. kInvalid
// names the tensor that holds NaNs or infinities, and says when the original changed meanwhile.
Result<QuantizeErrors> write_quantized(const ModelFiles& model, const QuantizePlan& plan,
                                       const std::string& dir, const QuantizeRun& run);

}  // namespace moebius
