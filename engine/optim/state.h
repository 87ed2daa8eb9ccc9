// The state of an optimizer for one parameter: named float32 tensors and a count of steps. Nothing else is
// remembered from step to step, so a checkpoint that holds these resumes bit for bit.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/status.h"
#include "models/safetensors.h"

namespace moebius::optim {

struct StateShape {
  std::string name;
  int64_t rows = 0, cols = 0;
};

struct StateTensor {
  StateShape shape;
  std::vector<float> values;  // [rows, cols]
};

struct ParameterState {
  int64_t step = 0;  // steps taken
  std::vector<StateTensor> tensors;
};

// Zeros of these shapes.
ParameterState make_state(const std::vector<StateShape>& shapes);

// One tensor of a checkpoint that aliases a state: "<parameter>.optim.<tensor>" F32 [rows, cols], and
// "<parameter>.optim.step" I64 [1].
struct StateEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  void* data = nullptr;
  int64_t bytes = 0;
};
std::vector<StateEntry> state_entries(const std::string& parameter, ParameterState& state);

// Fills a state that was made for the same parameter and recipe. find: a tensor of the checkpoint, or null.
// kNotFound and kInvalid name the tensor; the state is then unchanged.
using FindTensor = std::function<const TensorEntry*(std::string_view name)>;
Status restore_state(const std::string& parameter, const FindTensor& find, ParameterState& state);

}  // namespace moebius::optim
