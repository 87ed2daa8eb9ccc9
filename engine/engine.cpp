#include "engine/engine.h"

#include <sys/stat.h>

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/adapted_weights.h"
#include "engine/cold_experts.h"
#include "engine/device_weights.h"
#include "engine/heat_file.h"
#include "engine/placement.h"
#include "engine/prompt.h"
#include "engine/self_check.h"
#include "engine/session.h"
#include "engine/trace_file.h"
#include "kernels/gpu.h"

namespace moebius {
namespace {

constexpr int64_t kDefaultContext = 16384;
constexpr int64_t kDeviceSlack = 1 << 20;  // of a device's memory, for rounding and for the self-check

std::string format_of(const ModelConfig& config, const Weights& weights) {
  const Format linear = weights.layers.front().o.format;
  for (const LayerWeights& layer : weights.layers) {
    if (layer.experts.empty()) continue;
    const Format expert = layer.experts.front().gate.format;
    if (expert == linear) return format_name(linear);
    return fmt::format("{} with {} experts", format_name(linear), format_name(expert));
  }
  return format_name(linear);
}

uint64_t hash_of(std::string_view bytes, uint64_t hash = 14695981039346656037ull) {  // FNV-1a
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 1099511628211ull;
  return hash;
}

uint64_t hash_of(const Adapter& adapter) {
  uint64_t hash = hash_of("");
  for (const AdapterFactors& f : adapter.factors) {
    hash = hash_of(fmt::format("{} {} {}", f.module, f.rank, f.scale), hash);
    for (const std::vector<float>* values : {&f.a, &f.b})
      hash = hash_of({reinterpret_cast<const char*>(values->data()), values->size() * sizeof(float)}, hash);
  }
  return hash;
}

// Distinguishes models for Session::restore: the files' sizes and the whole configuration.
std::string fingerprint_of(const ModelFiles& files, const std::string& config_text) {
  return fmt::format("{} {} {:016x}", files.config().model_type, files.checkpoint().total_bytes(),
                     hash_of(config_text));
}

bool exists(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0;
}

bool read_by_every_step(Role role) { return role != Role::kExpert; }

bool has_tokenizer_files(const std::string& dir) {
  return exists(dir + "/tokenizer.json") || exists(dir + "/tiktoken.model") ||
         exists(dir + "/tokenizer.model");
}

}  // namespace

struct Engine::Impl {
  EngineOptions options;
  std::unique_ptr<TraceFile> trace;  // null unless asked for; outlives the backend
  std::unique_ptr<ModelFiles> files;
  std::unique_ptr<AdaptedWeights> adapted;  // null without an adapter
  std::unique_ptr<Backend> backend;
  std::unique_ptr<DeviceWeights> on_device;  // null on the host, as the three below
  std::unique_ptr<ExpertStore> experts;
  std::unique_ptr<ColdExperts> cold;
  std::unique_ptr<StreamedPrefill> prefill;  // null too where there is no room for it
  Weights placed;                            // what a step reads
  RotaryTable rotary;
  GenerationConfig generation;
  std::unique_ptr<Tokenizer> tokenizer;
  PromptRenderer prompt;
  WorkspaceMemory workspace;
  DType cache_type = DType::kF32;
  std::string fingerprint;
  std::vector<std::string> notes;

  const Weights& host_weights() const { return adapted ? adapted->weights() : files->weights(); }
  Model model() const {
    return {files->config(), on_device ? placed : host_weights(), rotary, *backend, cold.get()};
  }
  HostOptions host_options() const;
  Status open_adapter();
  // device: empty on the host.
  Status open_device(const MakeDevice& device);
  Status place(int64_t bytes_for_experts);
  std::string heat_file() const {
    return fmt::format("{}/{:016x}.safetensors", options.heat_dir, hash_of(fingerprint));
  }
  ExpertHeat known_heat();
  ~Impl();
};

// Of earlier runs; a file that cannot be used costs nothing but a note.
ExpertHeat Engine::Impl::known_heat() {
  if (!options.heat_dir.empty()) {
    Result<ExpertHeat> heat = read_heat(heat_file(), fingerprint, host_weights());
    if (heat.ok()) return std::move(*heat);
    if (heat.status().code() != Code::kNotFound) notes.push_back(heat.status().message());
  }
  return no_heat(host_weights());
}

// Nobody is left to hear that the file could not be written, and the next run only starts colder.
Engine::Impl::~Impl() {
  if (trace && backend && backend->sync().ok()) static_cast<void>(trace->write());
  if (cold && !options.heat_dir.empty())
    static_cast<void>(write_heat(heat_file(), fingerprint, experts->heat()));
}

Status Engine::Impl::open_adapter() {
  MOEBIUS_ASSIGN(Adapter adapter, read_adapter(options.adapter, files->config()));
  notes.push_back(fmt::format("adapter {}: {}", options.adapter, describe_adapter(adapter)));
  notes.insert(notes.end(), adapter.notes.begin(), adapter.notes.end());
  fingerprint += fmt::format(" {:016x}", hash_of(adapter));
  MOEBIUS_ASSIGN(
      adapted, AdaptedWeights::create(files->config(), files->weights(), std::move(adapter.factors), false));
  return Status();
}

// What every step reads goes to the device first, then as many experts as are left room for.
Status Engine::Impl::open_device(const MakeDevice& device) {
  if (!device) {
    if (!options.trace.empty())
      return invalid("--trace shows the streams of a device; give --device too, or leave --trace out");
    backend = make_host_backend(host_options());
    return Status();
  }
  const ModelConfig& config = files->config();
  const int64_t tokens = options.context * options.sessions;
  MOEBIUS_ASSIGN(const int64_t cache, KvCache::bytes(config, config.layers, cache_type, tokens));
  const int64_t needed = DeviceWeights::bytes(config, host_weights(), read_by_every_step) +
                         WorkspaceMemory::bytes(config, options.prefill_chunk) + cache + kDeviceSlack;
  if (options.device_memory == 0) options.device_memory = needed + expert_bytes(host_weights());
  if (options.device_memory < needed)
    return no_memory(
        fmt::format("--gpu-memory: attention, shared weights, workspace and a cache of {} tokens take {} "
                    "bytes ({}), {} are "
                    "given; give at least as much, or lower --ctx-size",
                    tokens, needed, gib_text(needed), gib_text(options.device_memory)));
  MOEBIUS_ASSIGN(backend, device(options.device_memory));
  MOEBIUS_TRY(place(options.device_memory - needed));
  MOEBIUS_TRY(self_check(config, host_weights(), placed, *backend));
  if (options.trace.empty()) return Status();
  MOEBIUS_ASSIGN(trace, TraceFile::create(options.trace));
  backend->trace(&trace->tracer());
  if (cold) cold->trace(&trace->tracer());
  return Status();
}

Status Engine::Impl::place(int64_t bytes_for_experts) {
  const ModelConfig& config = files->config();
  MOEBIUS_ASSIGN(on_device, DeviceWeights::create(config, host_weights(), read_by_every_step, *backend));
  placed = on_device->weights();
  const PrefillSizes sizes = StreamedPrefill::sizes(config, host_weights(), bytes_for_experts,
                                                    options.prefill_chunk, options.context);
  bytes_for_experts -= StreamedPrefill::bytes(config, host_weights(), sizes);
  ExpertHeat heat = known_heat();
  const Residency residency = hottest_first(host_weights(), heat, bytes_for_experts);
  MOEBIUS_ASSIGN(experts, ExpertStore::create(host_weights(), residency, std::move(heat), placed, *backend));
  if (experts->resident() == experts->total()) return Status();
  const int64_t most_tokens = std::max(options.prefill_chunk, sizes.pass_tokens);
  MOEBIUS_ASSIGN(
      cold, ColdExperts::create(config, most_tokens, *experts, host_options(), *backend, options.overlap));
  if (sizes.pass_tokens == 0) return Status();
  MOEBIUS_ASSIGN(prefill, StreamedPrefill::create(config, host_weights(), sizes, options.speeds,
                                                  host_options(), *experts, *backend));
  return Status();
}

HostOptions Engine::Impl::host_options() const {
  return {options.threads, options.exact_activations, true, options.gemm};
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::open(const EngineOptions& asked) {
  EngineOptions options = asked;
  if (options.device == DeviceKind::kAuto) {
    const Result<std::vector<GpuInfo>> gpus = gpu_devices();
    options.device = gpus.ok() && !gpus->empty() ? DeviceKind::kCuda : DeviceKind::kHost;
  }
  if (options.device == DeviceKind::kHost) return open(options, MakeDevice());
  if (options.device == DeviceKind::kSim) {
    return open(options, [&](int64_t bytes) {
      return make_sim_backend({bytes,
                               options.link_GBs,
                               options.device_GBs,
                               options.sim_seed,
                               options.sim_fail_work,
                               options.sim_fail_alloc,
                               {options.threads, options.exact_activations, true, options.gemm}});
    });
  }
  MOEBIUS_ASSIGN(const std::vector<GpuInfo> gpus, gpu_devices());
  if (gpus.empty()) return not_found("--device cuda: the driver lists no GPU; use --device host");
  if (options.device_memory == 0) options.device_memory = gpus[0].memory_bytes / 10 * 9;
  return open(options, [](int64_t bytes) { return make_cuda_backend({0, bytes}); });
}

Result<std::unique_ptr<Engine>> Engine::open(const EngineOptions& asked, const MakeDevice& device) {
  auto impl = std::make_unique<Impl>();
  EngineOptions& options = impl->options;
  options = asked;
  if (options.model.empty()) {
    MOEBIUS_ASSIGN(options.model, default_model_dir());
  } else {
    MOEBIUS_ASSIGN(options.model, resolve_model_dir(options.model, hub_cache_dir()));
  }
  MOEBIUS_ASSIGN(impl->files, ModelFiles::open(options.model));
  const ModelConfig& config = impl->files->config();
  if (options.context > config.context) {
    return invalid(fmt::format("--ctx-size {} is more than the model's limit of {} tokens", options.context,
                               config.context));
  }
  if (options.context == 0) options.context = std::min(config.context, kDefaultContext);
  if (options.threads == 0) options.threads = physical_cores();
  options.prefill_chunk = std::min(options.prefill_chunk, options.context);
  impl->rotary = rotary_table(config.rotary);
  MOEBIUS_ASSIGN(impl->generation, GenerationConfig::load(options.model, config));
  if (has_tokenizer_files(options.model)) {
    MOEBIUS_ASSIGN(impl->tokenizer, Tokenizer::open(options.model));
  }
  MOEBIUS_ASSIGN(impl->prompt, PromptRenderer::open(options.model));
  const bool float32 = impl->files->weights().layers.front().o.format == Format::kF32;
  const bool wide = options.cache == CacheType::kF32 || (options.cache == CacheType::kAuto && float32);
  impl->cache_type = wide ? DType::kF32 : DType::kBF16;
  MOEBIUS_ASSIGN(const std::string config_text, read_text_file(options.model + "/config.json", 16 << 20));
  impl->fingerprint = fingerprint_of(*impl->files, config_text);
  impl->notes = impl->files->notes();
  if (!options.adapter.empty()) MOEBIUS_TRY(impl->open_adapter());
  MOEBIUS_TRY(impl->open_device(device));
  MOEBIUS_ASSIGN(impl->workspace, WorkspaceMemory::create(config, options.prefill_chunk, *impl->backend));
  if (config.random_weights)
    impl->notes.push_back("the weights of this model are random: its answers are noise");
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

const ModelConfig& Engine::config() const { return impl_->files->config(); }
const GenerationConfig& Engine::generation() const { return impl_->generation; }
bool Engine::has_tokenizer() const { return impl_->tokenizer != nullptr; }
const EngineOptions& Engine::options() const { return impl_->options; }
const std::vector<std::string>& Engine::notes() const { return impl_->notes; }

const Tokenizer& Engine::tokenizer() const {
  MOEBIUS_CHECK(impl_->tokenizer != nullptr, "look at has_tokenizer() first");
  return *impl_->tokenizer;
}

std::string Engine::describe() const {
  const Impl& e = *impl_;
  const double gib = static_cast<double>(e.files->checkpoint().total_bytes()) / (1 << 30);
  std::string text = fmt::format("{}: {} {}, {:.2f} GiB, context {}, cache {}, on {}", e.options.model,
                                 config().model_type, format_of(config(), e.files->weights()), gib,
                                 e.options.context, dtype_name(e.cache_type), e.backend->name());
  if (e.cold)
    text += fmt::format(" with {} of {} experts, the others on the host", e.experts->resident(),
                        e.experts->total());
  return text;
}

std::vector<LayerUse> Engine::expert_use() const {
  return impl_->cold ? impl_->experts->use() : std::vector<LayerUse>();
}

SamplingParams Engine::default_sampling() const {
  const GenerationConfig& g = impl_->generation;
  SamplingParams params;
  params.temperature = g.do_sample ? static_cast<float>(g.temperature) : 0;
  params.top_k = g.top_k;
  params.top_p = static_cast<float>(g.top_p);
  params.min_p = static_cast<float>(g.min_p);
  params.repetition_penalty = static_cast<float>(g.repetition_penalty);
  return params;
}

Result<std::unique_ptr<Session>> Engine::new_session() {
  const Impl& e = *impl_;
  MOEBIUS_ASSIGN(KvCache cache, KvCache::create(config(), e.cache_type, e.options.context, *e.backend));
  auto session = std::make_unique<Session::Impl>(e.model(), std::move(cache), e.workspace, e.options.context,
                                                 e.options.prefill_chunk, e.prefill.get(), e.fingerprint);
  return std::unique_ptr<Session>(new Session(std::move(session)));
}

Result<std::string> Engine::render_chat(const nlohmann::ordered_json& request, bool generation_prompt) const {
  return impl_->prompt.render(request, generation_prompt);
}

}  // namespace moebius
