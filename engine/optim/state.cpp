#include "engine/optim/state.h"

#include <cstring>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace moebius::optim {

ParameterState make_state(const std::vector<StateShape>& shapes) {
  ParameterState state;
  for (const StateShape& shape : shapes)
    state.tensors.push_back({shape, std::vector<float>(static_cast<size_t>(shape.rows * shape.cols))});
  return state;
}

std::vector<StateEntry> state_entries(const std::string& parameter, ParameterState& state) {
  std::vector<StateEntry> entries;
  entries.push_back({parameter + ".optim.step", DType::kI64, {1}, &state.step, sizeof(state.step)});
  for (StateTensor& tensor : state.tensors) {
    entries.push_back({parameter + ".optim." + tensor.shape.name,
                       DType::kF32,
                       {tensor.shape.rows, tensor.shape.cols},
                       tensor.values.data(),
                       static_cast<int64_t>(tensor.values.size() * sizeof(float))});
  }
  return entries;
}

Status restore_state(const std::string& parameter, const FindTensor& find, ParameterState& state) {
  const std::vector<StateEntry> entries = state_entries(parameter, state);
  std::vector<const TensorEntry*> found;
  for (const StateEntry& want : entries) {
    const TensorEntry* have = find(want.name);
    if (!have) {
      return not_found(
          fmt::format("optimizer state {} is missing: resume with the optimizer that wrote the "
                      "checkpoint, or start with a new state",
                      want.name));
    }
    if (have->dtype != want.dtype || have->shape != want.shape || have->bytes != want.bytes) {
      return invalid(
          fmt::format("optimizer state {} is {}[{}], expected {}[{}]: the checkpoint belongs to "
                      "another model or optimizer",
                      want.name, dtype_name(have->dtype), fmt::join(have->shape, ", "),
                      dtype_name(want.dtype), fmt::join(want.shape, ", ")));
    }
    found.push_back(have);
  }
  if (load_unaligned<int64_t>(found[0]->data) < 0)
    return invalid(fmt::format("optimizer state {} is negative: the checkpoint is damaged", entries[0].name));
  for (size_t i = 0; i < entries.size(); ++i)
    std::memcpy(entries[i].data, found[i]->data, static_cast<size_t>(entries[i].bytes));
  return Status();
}

}  // namespace moebius::optim
