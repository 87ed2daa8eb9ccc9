// The files of a checkpoint without the neurons, or experts, that a plan leaves out.
//
// Tensors of the routed experts are written one by one, also where the model has them fused; all others are
// copied byte for byte, into shards of the same names. config.json gets the widest expert as
// moe_intermediate_size, and moe_intermediate_sizes where widths differ. Other programs give the shared
// experts a multiple of moe_intermediate_size: where their width is none, neurons of zeros fill it up. With
// halves, expert e becomes 2e and 2e + 1, which share its rows of the router, a token chooses twice as many,
// and weights that were shares of a sum are scaled by 2.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "engine/prune/matrix_cut.h"
#include "engine/prune/plan.h"

namespace moebius {

struct PruneSizes {
  int64_t bytes = 0, bytes_before = 0;                // of all tensors
  int64_t expert_bytes = 0, expert_bytes_before = 0;  // of routed experts
  int64_t shared = 0, shared_before = 0;              // the shared experts' width; 0: none
};

struct PruneWriteOptions {
  int threads = 1;
  std::function<bool(int64_t done, int64_t total)> progress;  // bytes; false cancels (kCancelled)
};

class PrunedCheckpoint {
 public:
  // model must outlive it. kInvalid: formats that cannot hold the plan's widths.
  static Result<PrunedCheckpoint> create(const ModelFiles& model, const PrunePlan& plan);

  const PruneSizes& sizes() const { return sizes_; }
  // Everything that belongs to the model into `dir`, which exists. Memory is bounded.
  Status write(const std::string& dir, const PruneWriteOptions& options) const;

 private:
  using Indices = std::shared_ptr<const std::vector<int32_t>>;  // as MatrixCut's
  struct Item {                                                 // what stands in for a tensor of the model
    std::string name;                                           // without ".weight"; a vector's in full
    const TensorEntry* copy = nullptr;                          // the tensor as it is,
    Matrix from;                                                // or a cut of this
    Indices rows, cols;                                         // null: all
    bool vector = false;
    DType shape_dtype = DType::kI64;  // of a packed matrix's weight_shape
  };
  struct Shard {
    std::string file;
    std::vector<std::pair<std::string, std::string>> metadata;
    std::vector<Item> items;
  };
  struct Part {  // a tensor of an item
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
  };
  class Builder;
  class Writer;

  explicit PrunedCheckpoint(const ModelFiles& model) : model_(&model) {}
  static MatrixCut cut_of(const Item& item);
  static std::vector<Part> parts_of(const Item& item);
  Result<std::string> config() const;

  const ModelFiles* model_;
  bool halves_ = false;
  std::vector<std::vector<int64_t>> widths_;  // [MoE layer][expert that is written]
  int64_t widest_ = 0;
  std::vector<Shard> shards_;
  PruneSizes sizes_;
};

}  // namespace moebius
