// DeviceModel: a model on a device: which of its weights are there, which experts stay on the host, and what
// a step needs of both.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "engine/device_weights.h"
#include "engine/forward.h"
#include "engine/options.h"
#include "engine/placement.h"
#include "engine/prefill.h"

namespace moebius {

class DeviceModel {
 public:
  // What the device needs beside weights that may also stay on the host.
  struct Needs {
    int64_t cache = 0, workspace = 0;  // bytes
    int64_t pinned = 0;                // bytes of the host, the workspaces' other side
    int64_t adapters = 0;              // bytes, that stay free
    int64_t own = 0;                   // bytes, that the device takes for itself (own_bytes())
    int64_t context = 0;               // tokens of a sequence
    int64_t most_tokens = 0;           // of a batch
    int64_t second_tokens = 0;         // of the second of two groups; 0: there is none
    std::vector<MappedFile> files;     // that the host's weights are mapped from
  };
  // The least memory that a device needs, in bytes: all that every step reads but the head, and needs.
  static int64_t least_bytes(const ModelConfig& config, const Weights& host, const Needs& needs);
  // With which all experts fit too, whatever else the plan wants.
  static int64_t bytes_for_all(const ModelConfig& config, const Weights& host, const Needs& needs);

  // Measures the machine, plans (engine/placement.h), and copies what the plan wants on the device as far as
  // options.device_memory, at least least_bytes(), holds it; then compares some operations with the host's.
  // heat: of the experts so far. All that is referred to must outlive it. kNoMemory, kIo.
  static Result<std::unique_ptr<DeviceModel>> create(const ModelConfig& config, const Weights& host_weights,
                                                     const EngineOptions& options, DType cache_type,
                                                     const Needs& needs, ExpertHeat heat, Backend& host,
                                                     Backend& device);

  const Weights& weights() const { return placed_; }  // those of the device, where they are there
  // Null where the device has all experts.
  ColdExperts* cold() const { return cold_.get(); }
  const ExpertStore* experts() const { return cold_ ? experts_.get() : nullptr; }
  StreamedPrefill* prefill() const { return prefill_.get(); }  // null too where there is no room for it
  const DiskTier* disk() const { return disk_ ? &*disk_ : nullptr; }   // null: all experts are in memory
  const ModelPlan* plan() const { return plan_ ? &*plan_ : nullptr; }  // null for a model without experts

 private:
  DeviceModel(const ModelConfig& config, const Weights& host_weights)
      : config_(config), host_(host_weights) {}
  Status plan(const EngineOptions& options, DType cache_type, const Needs& needs, const ExpertHeat& heat,
              Backend& host, Backend& device);
  Status place(const EngineOptions& options, const Needs& needs, ExpertHeat heat, Backend& device);
  // What goes on between host and device, when some experts are not there.
  Status connect(const EngineOptions& options, const Needs& needs, Backend& host, Backend& device);

  const ModelConfig& config_;
  const Weights& host_;
  std::optional<DiskTier> disk_;  // where the plan leaves experts on disk
  MachineSpeeds speeds_;
  std::optional<ModelPlan> plan_;
  PrefillSizes prefill_sizes_;
  std::unique_ptr<DeviceWeights> read_by_all_;
  Weights placed_;
  std::unique_ptr<ExpertStore> experts_;
  std::unique_ptr<ColdExperts> cold_;
  std::unique_ptr<StreamedPrefill> prefill_;
};

}  // namespace moebius
