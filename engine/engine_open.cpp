// Opening an Engine: the files, the weights' places, what sessions share.
#include <sys/resource.h>

#include <algorithm>

#include <fmt/format.h>

#include "engine/engine_impl.h"
#include "engine/heat_file.h"
#include "kernels/staging.h"
#include "models/file_io.h"

namespace moebius {
namespace {

constexpr int64_t kDefaultContext = 16384;

// Distinguishes models for Session::restore: the files' sizes and the whole configuration.
std::string fingerprint_of(const ModelFiles& files, const std::string& config_text) {
  return fmt::format("{} {} {:016x}", files.config().model_type, files.checkpoint().total_bytes(),
                     hash_of(config_text));
}

bool has_tokenizer_files(const std::string& dir) {
  return path_exists(dir + "/tokenizer.json") || path_exists(dir + "/tiktoken.model") ||
         path_exists(dir + "/tokenizer.model");
}

// An int8 cache scales whole groups of columns, which keys and values must not share.
Status takes_int8_cache(const ModelConfig& config, DeviceKind device) {
  if (device == DeviceKind::kCuda)
    return unsupported("--cache-type int8 is for the CPU; on a GPU use bf16 or f32");
  const bool mla = config.attention == AttentionKind::kMla;
  const int64_t first = mla ? config.kv_lora : config.kv_heads * config.head_dim;
  if (first % kCacheGroup == 0) return Status();
  return unsupported(
      fmt::format("--cache-type int8 needs a multiple of {} as {}, this model has {}; use bf16", kCacheGroup,
                  mla ? "kv_lora_rank" : "key heads times head_dim", first));
}

int64_t count_experts(const Weights& weights) {
  int64_t experts = 0;
  for (const LayerWeights& layer : weights.layers) experts += std::ssize(layer.experts);
  return experts;
}

}  // namespace

// Of earlier runs; a file that cannot be used costs nothing but a note.
ExpertHeat Engine::Impl::known_heat() {
  if (!options.heat_dir.empty()) {
    Result<ExpertHeat> heat = read_heat(heat_file(), fingerprint, host_weights());
    if (heat.ok()) return std::move(*heat);
    if (heat.status().code() != Code::kNotFound) notes.push_back(heat.status().message());
  }
  return no_heat(host_weights());
}

Status Engine::Impl::read_weights() {
  const Checkpoint& checkpoint = files->checkpoint();
  if (checkpoint.total_bytes() > options.ram)
    return invalid(fmt::format(
        "--load eager needs {:.1f} GB of memory and there are {:.1f}; use --load mapped",
        static_cast<double>(checkpoint.total_bytes()) * 1e-9, static_cast<double>(options.ram) * 1e-9));
  return checkpoint.read_in(options.on_load ? options.on_load : [](int64_t, int64_t) { return true; });
}

// What cannot be read any more would stop the program where it is used; this thread only leaves it alone.
void Engine::Impl::move_to_large_pages() {
  const Checkpoint& checkpoint = files->checkpoint();
  // Looked at again and again: another model may be on its way, too. What is kept for the cache counts as
  // available until it is used.
  const auto fit = [kept = kept_bytes](int64_t bytes) {
    constexpr int64_t kSpared = int64_t{1} << 30;  // for other programs
    return bytes <= available_memory() - kept - kSpared;
  };
  if (device || disk || !fit(checkpoint.total_bytes())) return;
  loader = std::jthread([&checkpoint, fit](const std::stop_token& stop) {
    setpriority(PRIO_PROCESS, 0, 19);  // of this thread: the first answer is not to wait for it
    static_cast<void>(checkpoint.read_in(
        [&](int64_t done, int64_t total) { return !stop.stop_requested() && fit(total - done); }));
  });
}

// Nobody is left to hear that the file could not be written, and the next run only starts colder.
Engine::Impl::~Impl() {
  if (device && device->sync().ok() && trace) static_cast<void>(trace->write());
  if (saliency) static_cast<void>(saliency->write());
  if (on_device && on_device->experts() && !options.heat_dir.empty())
    static_cast<void>(write_heat(heat_file(), fingerprint, on_device->experts()->heat()));
}

Status Engine::Impl::open_adapter() {
  MOEBIUS_ASSIGN(Adapter adapter, read_adapter(options.adapter, model_config()));
  notes.push_back(fmt::format("adapter {}: {}", options.adapter, describe_adapter(adapter)));
  notes.insert(notes.end(), adapter.notes.begin(), adapter.notes.end());
  fingerprint += ' ' + fingerprint_of(adapter);
  MOEBIUS_ASSIGN(adapted,
                 AdaptedWeights::create(model_config(), base_weights(), std::move(adapter.factors), false));
  return Status();
}

Status Engine::Impl::open_meter() {
  host = make_metered_backend(std::move(host), meter);
  WeightVisitor visitor;
  visitor.matrix = [&](const std::string&, Role role, int64_t, int64_t, Matrix& w) {
    constexpr const char* kLabels[kRoleCount] = {"embedding", "head",   "attention", "dense",
                                                 "shared",    "expert", "router"};
    meter.label(w.data, kLabels[static_cast<size_t>(role)]);
    return Status();
  };
  visitor.vector = [](const std::string&, int64_t, Tensor&) { return Status(); };
  Weights views = host_weights();
  MOEBIUS_TRY(visit_weights(model_config(), views, visitor));
  if (model_config().tied_head) meter.label(views.head.data, "head");
  return Status();
}

Status Engine::Impl::open_backend(const MakeDevice& make_device) {
  host = make_host_backend(host_options());
  if (options.meter && !make_device) MOEBIUS_TRY(open_meter());
  const ModelConfig& config = model_config();
  DeviceModel::Needs needs;
  needs.files = files->checkpoint().mapped();
  needs.context = options.context;
  needs.adapters = make_device ? options.adapter_memory : 0;
  needs.own = make_device ? own_bytes(options.device) : 0;
  needs.most_tokens = options.prefill_chunk + options.sessions - 1;  // a prompt's, and a token of all others
  needs.second_tokens = make_device ? options.sessions / 2 : 0;
  needs.workspace =
      WorkspaceMemory::bytes(config, options.prefill_chunk, options.sessions, make_device != nullptr);
  if (make_device) {
    needs.pinned = WorkspaceMemory::pinned_bytes(config, needs.most_tokens);
    if (needs.second_tokens > 0) needs.pinned += WorkspaceMemory::pinned_bytes(config, needs.second_tokens);
  }
  if (options.cache_tokens == 0 && !checked_mul(options.context, options.sessions, &options.cache_tokens))
    return invalid(fmt::format("{} sequences of {} tokens are too many; lower --parallel or --ctx-size",
                               options.sessions, options.context));
  MOEBIUS_ASSIGN(needs.cache, KvCache::bytes(config, config.layers, cache_type, options.cache_tokens));
  MOEBIUS_CHECK(!make_device || !options.routing);
  if (make_device) MOEBIUS_TRY(open_device(make_device, needs));
  const HostMemory memory = host_memory(needs);
  MOEBIUS_TRY(check_host_memory(memory, options.ram));
  kept_bytes = memory.all();
  MOEBIUS_TRY(open_saliency());
  MOEBIUS_TRY(open_sessions(needs));
  return open_trace();
}

// A simulated device's memory stands for a card's, and is not counted.
HostMemory Engine::Impl::host_memory(const DeviceModel::Needs& needs) const {
  HostMemory memory;
  memory.cache_tokens = options.cache_tokens;
  memory.context = options.context, memory.sessions = options.sessions;
  if (options.load == Load::kEager) memory.weights = files->checkpoint().total_bytes();
  if (adapted) memory.others += adapted->bytes();
  if (!device) {
    memory.cache = needs.cache, memory.others += needs.workspace;
    return memory;
  }
  memory.others += kStagingBytes + needs.pinned;
  if (on_device->cold()) memory.others += on_device->cold()->pinned_bytes();
  return memory;
}

Status Engine::Impl::open_device(const MakeDevice& make_device, const DeviceModel::Needs& needs) {
  const ModelConfig& config = model_config();
  const int64_t least = DeviceModel::least_bytes(config, host_weights(), needs);
  if (options.device_memory == 0)
    options.device_memory = DeviceModel::bytes_for_all(config, host_weights(), needs);
  if (options.device_memory < least) {
    // What the context would have to be, or the whole cache where it has a size of its own.
    const bool own_size = options.cache_tokens != options.context * options.sessions;
    const int64_t per_token = needs.cache / (own_size ? options.cache_tokens : options.context);
    const int64_t room = options.device_memory - (least - needs.cache);
    const std::string instead = room >= per_token * kPageTokens
                                    ? fmt::format(" to {}", room / per_token / kPageTokens * kPageTokens)
                                    : std::string();
    return no_memory(
        fmt::format("--gpu-memory: attention, shared weights, workspace and a cache of {} tokens take {} "
                    "bytes ({}), {} are given; give at least as much, or lower {}{}",
                    options.cache_tokens, least, gib_text(least), gib_text(options.device_memory),
                    own_size ? "--cache-tokens" : "--ctx-size", instead));
  }
  MOEBIUS_ASSIGN(device, make_device(options.device_memory));
  MOEBIUS_ASSIGN(on_device, DeviceModel::create(config, host_weights(), options, cache_type, needs,
                                                known_heat(), *host, *device));
  if (on_device->plan()) notes.push_back(plan_paragraph(*on_device->plan()));
  return Status();
}

Status Engine::Impl::open_sessions(const DeviceModel::Needs& needs) {
  const ModelConfig& config = model_config();
  MOEBIUS_ASSIGN(cache, KvCache::create(config, cache_type, options.cache_tokens, backend()));
  MOEBIUS_ASSIGN(workspace, WorkspaceMemory::create(config, needs.most_tokens, backend()));
  if (needs.second_tokens > 0) {
    MOEBIUS_ASSIGN(second_workspace, WorkspaceMemory::create(config, needs.second_tokens, backend(), 1));
  }
  const Weights& weights = on_device ? on_device->weights() : host_weights();
  const int64_t in_memory = files->checkpoint().total_bytes() + needs.cache + needs.workspace;
  if (!on_device && !lent_weights && options.load != Load::kEager && in_memory > usable_ram(options.ram)) {
    const int64_t experts = expert_bytes(base_weights()), adapters = expert_bytes(weights) - experts;
    const int64_t others = files->checkpoint().total_bytes() - experts;
    disk.emplace(weights, files->checkpoint().mapped(),
                 ExpertCache::Options{usable_ram(options.ram) - (in_memory - experts) - adapters,
                                      others + spared_ram(options.ram)});
    notes.push_back(
        fmt::format("of {} memory holds {} of the {} experts at a time, the others are read from disk when "
                    "they are needed",
                    gib_text(options.ram), disk->room(), count_experts(weights)));
  }
  map.emplace(host_weights());
  // Experts on both sides are counted where the host is asked for them. With all of them on the device, only
  // models that skip some are worth what it costs to look.
  const SkipShares skip{static_cast<float>(options.skip_threshold),
                        static_cast<float>(options.skip_minor_threshold)};
  const bool skips = config.moe.zero_experts > 0 || skip.expert > 0 || skip.minor > 0;
  const bool counted = !on_device || (!on_device->cold() && skips);
  const Model model{config,
                    weights,
                    rotary,
                    backend(),
                    on_device ? on_device->cold() : nullptr,
                    host.get(),
                    disk ? &*disk : nullptr,
                    skip,
                    counted ? &*map : nullptr,
                    saliency.get(),
                    nullptr,
                    options.routing};
  const int64_t two_groups_from =
      on_device && on_device->cold() && options.overlap ? on_device->plan()->two_groups_from : 0;
  parts.emplace(SessionParts{model, *cache, workspace, second_workspace,
                             on_device ? on_device->prefill() : nullptr, options.context,
                             options.prefill_chunk, two_groups_from, fingerprint});
  return Status();
}

Status Engine::Impl::open_saliency() {
  if (options.saliency.empty()) return Status();
  if (device)
    return unsupported(
        "--saliency is gathered on the CPU; leave --device out, or score a text with tenp --calibrate");
  if (adapted)
    return unsupported(
        "--saliency is of the model alone; leave --adapter out, or merge it with moebius merge");
  MOEBIUS_ASSIGN(saliency,
                 Saliency::open(options.saliency, *files, *host, options.threads, options.saliency_every));
  notes.push_back(fmt::format("scores for `moebius tenp` are gathered in {}; routed experts take longer",
                              options.saliency));
  return Status();
}

Status Engine::Impl::open_trace() {
  if (options.trace.empty()) return Status();
  if (!device)
    return invalid("--trace shows the streams of a device; give --device too, or leave --trace out");
  MOEBIUS_ASSIGN(trace, TraceFile::create(options.trace));
  device->trace(&trace->tracer());
  if (on_device->cold()) on_device->cold()->trace(&trace->tracer());
  return Status();
}

Result<std::unique_ptr<Engine>> Engine::open(const EngineOptions& asked) {
  EngineOptions options = asked;
  MOEBIUS_ASSIGN(const MakeDevice device, device_maker(options, {options.threads, options.exact_activations,
                                                                 options.isa, options.gemm}));
  return open(options, device);
}

Result<std::unique_ptr<Engine>> Engine::open(const EngineOptions& asked, const MakeDevice& device) {
  auto impl = std::make_unique<Impl>();
  impl->options = asked;
  return open(std::move(impl), device);
}

Result<std::unique_ptr<Engine>> Engine::open(const EngineOptions& asked, const ModelConfig& config,
                                             const Weights& weights) {
  MOEBIUS_CHECK(asked.adapter.empty());
  auto impl = std::make_unique<Impl>();
  impl->options = asked;
  impl->lent_config = &config, impl->lent_weights = &weights;
  return open(std::move(impl), MakeDevice());
}

Result<std::unique_ptr<Engine>> Engine::open(std::unique_ptr<Impl> impl, const MakeDevice& device) {
  EngineOptions& options = impl->options;
  if (options.model.empty()) {
    MOEBIUS_ASSIGN(options.model, default_model_dir());
  } else {
    MOEBIUS_ASSIGN(options.model, resolve_model_dir(options.model, hub_cache_dir()));
  }
  MOEBIUS_ASSIGN(impl->files, ModelFiles::open(options.model));
  const ModelConfig& config = impl->model_config();
  if (options.context > config.context) {
    return invalid(fmt::format("--ctx-size {} is more than the model's limit of {} tokens", options.context,
                               config.context));
  }
  if (options.context == 0) options.context = std::min(config.context, kDefaultContext);
  if (options.threads == 0) options.threads = physical_cores();
  if (options.ram == 0) options.ram = machine_memory();
  options.prefill_chunk = std::min(options.prefill_chunk, options.context);
  if (options.load == Load::kEager) MOEBIUS_TRY(impl->read_weights());
  impl->rotary = rotary_table(config.rotary);
  MOEBIUS_ASSIGN(impl->generation, GenerationConfig::load(options.model, config));
  if (has_tokenizer_files(options.model)) {
    MOEBIUS_ASSIGN(impl->tokenizer, Tokenizer::open(options.model));
  }
  MOEBIUS_ASSIGN(impl->prompt, PromptRenderer::open(options.model));
  if (impl->tokenizer) impl->markup = chat_markup(*impl->tokenizer, impl->prompt.source());
  const bool float32 = impl->base_weights().layers.front().o.format == Format::kF32;
  impl->cache_type = cache_dtype(options.cache, float32);
  if (options.cache == CacheType::kInt8) MOEBIUS_TRY(takes_int8_cache(config, options.device));
  MOEBIUS_ASSIGN(const std::string config_text, read_text_file(options.model + "/config.json", 16 << 20));
  impl->fingerprint = fingerprint_of(*impl->files, config_text);
  impl->notes = impl->files->notes();
  if (options.skip_minor_threshold > 0 && !config.moe.halves) {
    return invalid(fmt::format(
        "--skip-minor-threshold: the experts of {} are not in halves; write a model of which they "
        "are with moebius tenp --halves, or give --skip-threshold alone",
        options.model));
  }
  if (options.skip_threshold > 0) impl->fingerprint += fmt::format(" skip {}", options.skip_threshold);
  if (options.skip_minor_threshold > 0)
    impl->fingerprint += fmt::format(" skip minor {}", options.skip_minor_threshold);
  if (!options.adapter.empty()) MOEBIUS_TRY(impl->open_adapter());
  MOEBIUS_TRY(impl->open_backend(device));
  if (config.random_weights)
    impl->notes.push_back("the weights of this model are random: its answers are noise");
  if (options.load == Load::kAuto) impl->move_to_large_pages();
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

}  // namespace moebius
