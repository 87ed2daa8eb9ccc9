// The inside of an Engine: what is opened, and in which order.
#pragma once

#include <mutex>
#include <optional>
#include <thread>

#include "engine/batch_adapter.h"
#include "engine/device_model.h"
#include "engine/engine.h"
#include "engine/fingerprint.h"
#include "engine/host_memory.h"
#include "engine/prompt.h"
#include "engine/prune/saliency.h"
#include "engine/session.h"
#include "engine/trace_file.h"

namespace moebius {

struct Engine::Impl {
  EngineOptions options;
  std::unique_ptr<TraceFile> trace;  // null unless asked for; outlives the backend
  std::unique_ptr<ModelFiles> files;
  const ModelConfig* lent_config = nullptr;  // of a model in memory, in place of the files' own
  const Weights* lent_weights = nullptr;
  std::unique_ptr<AdaptedWeights> adapted;  // null without an adapter
  OpMeter meter;
  std::unique_ptr<Backend> host, device;   // device: null on the host
  std::unique_ptr<DeviceModel> on_device;  // null on the host
  RotaryTable rotary;
  GenerationConfig generation;
  std::unique_ptr<Tokenizer> tokenizer;
  PromptRenderer prompt;
  ChatMarkup markup;
  std::once_flag vocabulary_made;
  std::shared_ptr<const TokenVocabulary> vocabulary;  // for constraints; null before the first
  DType cache_type = DType::kF32;
  std::optional<ExpertMap> map;        // where there is no ExpertStore, which has one
  std::unique_ptr<Saliency> saliency;  // null unless asked for
  std::optional<DiskTier> disk;        // on the host, if the model is larger than its memory
  std::optional<KvCache> cache;
  WorkspaceMemory workspace, second_workspace;
  std::optional<SessionParts> parts;
  std::string fingerprint;
  std::vector<std::string> notes;
  int64_t kept_bytes = 0;  // of the host's memory, for what no file gives back
  std::jthread loader;     // kAuto: moves the weights of `files` to large pages

  const ModelConfig& model_config() const { return lent_config ? *lent_config : files->config(); }
  const Weights& base_weights() const { return lent_weights ? *lent_weights : files->weights(); }
  const Weights& host_weights() const { return adapted ? adapted->weights() : base_weights(); }
  Backend& backend() const { return device ? *device : *host; }
  HostOptions host_options() const {
    return {options.threads, options.exact_activations, options.isa, options.gemm};
  }
  Status read_weights();       // kEager
  void move_to_large_pages();  // kAuto
  Status open_adapter();
  Status open_meter();
  // make_device: empty on the host.
  Status open_backend(const MakeDevice& make_device);
  Status open_device(const MakeDevice& make_device, const DeviceModel::Needs& needs);
  // What sessions share: caches, activations, the model's parts.
  Status open_sessions(const DeviceModel::Needs& needs);
  // What is open takes of the host's memory, and the caches and workspaces that are to come.
  HostMemory host_memory(const DeviceModel::Needs& needs) const;
  Status open_trace();
  Status open_saliency();
  std::string heat_file() const {
    return fmt::format("{}/{:016x}.safetensors", options.heat_dir, hash_of(fingerprint));
  }
  ExpertHeat known_heat();
  ~Impl();
};

}  // namespace moebius
