// DeviceWeights: a model's weights, or a part of them, in the memory of a device.
#pragma once

#include <deque>
#include <functional>
#include <memory>

#include "kernels/backend.h"
#include "models/weights.h"

namespace moebius {

class DeviceWeights {
 public:
  // Which matrices go to the device; vectors (norms, biases) always do, the embedding never. The others keep
  // the place they have.
  using Wanted = std::function<bool(Role)>;

  // What create() will take of the device's memory.
  static int64_t bytes(const ModelConfig& config, const Weights& host, const Wanted& wanted);
  // Copies with their adapters; host must outlive only this call. kNoMemory says what is missing.
  static Result<std::unique_ptr<DeviceWeights>> create(const ModelConfig& config, const Weights& host,
                                                       const Wanted& wanted, Backend& backend);

  const Weights& weights() const { return weights_; }

 private:
  DeviceWeights() = default;
  Weights weights_;
  std::deque<Lora> loras_;  // matrices point at them
  Buffer memory_;
};

}  // namespace moebius
