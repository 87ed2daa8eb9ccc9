// ModelMatrices: every matrix of a model by its name, for what adapts them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "models/config.h"
#include "models/weights.h"

namespace moebius {

struct ModelMatrix {
  std::string name;
  Role role = Role::kAttention;
  int64_t rows = 0, cols = 0;
};

class ModelMatrices {
 public:
  explicit ModelMatrices(const ModelConfig& config);

  const std::vector<ModelMatrix>& all() const { return all_; }  // in visit_weights' order
  int64_t find(const std::string& name) const;                  // index into all(), or -1
  const ModelMatrix* at(const std::string& name) const;         // or nullptr

  // The name below its layer, "self_attn.o_proj", or all of it; an expert's number is kept.
  static std::string_view below_layer(std::string_view name);

 private:
  std::vector<ModelMatrix> all_;
  std::unordered_map<std::string, int64_t> index_;
};

}  // namespace moebius
