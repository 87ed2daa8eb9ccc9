#include "models/peft_matrices.h"

namespace moebius {

ModelMatrices::ModelMatrices(const ModelConfig& config) {
  Weights weights;
  WeightVisitor visitor;
  visitor.matrix = [&](const std::string& name, Role role, int64_t rows, int64_t cols, Matrix&) {
    index_.emplace(name, static_cast<int64_t>(all_.size()));
    all_.push_back({name, role, rows, cols});
    return Status();
  };
  visitor.vector = [](const std::string&, int64_t, Tensor&) { return Status(); };
  MOEBIUS_CHECK(visit_weights(config, weights, visitor).ok());
}

int64_t ModelMatrices::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? -1 : found->second;
}

const ModelMatrix* ModelMatrices::at(const std::string& name) const {
  const int64_t index = find(name);
  return index < 0 ? nullptr : &all_[static_cast<size_t>(index)];
}

std::string_view ModelMatrices::below_layer(std::string_view name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(kLayers)) return name;
  const size_t dot = name.find('.', kLayers.size());
  return dot == name.npos ? name : name.substr(dot + 1);
}

}  // namespace moebius
