// moebius plan: what of a model goes where on a machine and how fast it will be, before anything is loaded.
#include <memory>

#include <fmt/format.h>

#include "engine/workspace.h"
#include "kernels/gpu.h"
#include "models/file_io.h"
#include "models/geometries.h"
#include "models/peft.h"
#include "tools/command.h"
#include "tools/plan_options.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

constexpr int64_t kDefaultContext = 16384, kDefaultPrompt = 4096;

Status read_config(const PlanOptions& options, PlanReport& r) {
  std::string text;
  r.model = options.geometry.empty() ? options.config : options.geometry;
  if (options.geometry.empty()) {
    MOEBIUS_ASSIGN(text, read_text_file(options.config, 16 << 20));
  } else {
    MOEBIUS_ASSIGN(text, geometry_config(options.geometry));
  }
  MOEBIUS_ASSIGN(r.config, ModelConfig::parse(text, r.model));
  FormatRule rule(options.format.value_or(Format::kBF16), options.experts_only);
  if (!options.format) {
    MOEBIUS_ASSIGN(rule, FormatRule::read(text, r.model));
  }
  MOEBIUS_ASSIGN(const Matrix o, rule.stored("model.layers.0.self_attn.o_proj", Role::kAttention, 1, 1));
  MOEBIUS_ASSIGN(r.bytes, model_bytes(r.config, rule, cache_dtype(options.cache, o.format == Format::kF32)));
  return Status();
}

Status read_files(const PlanOptions& options, PlanReport& r) {
  if (options.model.empty()) {
    MOEBIUS_ASSIGN(r.model, default_model_dir());
  } else {
    MOEBIUS_ASSIGN(r.model, resolve_model_dir(options.model, hub_cache_dir()));
  }
  MOEBIUS_ASSIGN(const std::unique_ptr<ModelFiles> files, ModelFiles::open(r.model));
  r.config = files->config();
  const bool wide = files->weights().layers.front().o.format == Format::kF32;
  MOEBIUS_ASSIGN(r.bytes, model_bytes(r.config, files->weights(), cache_dtype(options.cache, wide)));
  return Status();
}

Result<int64_t> adapter_bytes(const std::string& dir, const ModelConfig& config) {
  if (dir.empty()) return 0;
  MOEBIUS_ASSIGN(const Adapter adapter, read_adapter(dir, config));
  size_t numbers = 0;
  for (const AdapterFactors& f : adapter.factors) numbers += f.a.size() + f.b.size();
  return static_cast<int64_t>(numbers * sizeof(float));
}

int64_t gpu_memory_here(std::vector<std::string>& notes) {
  const Result<std::vector<GpuInfo>> gpus = gpu_devices();
  if (gpus.ok() && !gpus->empty()) {
    notes.push_back(fmt::format("the GPU is {}; its speeds are not probed", printable(gpus->front().name)));
    return gpus->front().memory_bytes;
  }
  notes.push_back("no GPU was found here; --gpu-memory SIZE plans for one");
  return 0;
}

int64_t device_memory(const PlanOptions& options, std::vector<std::string>& notes) {
  if (options.device == DeviceKind::kHost) return 0;
  return options.gpu_memory < 0 ? gpu_memory_here(notes) : options.gpu_memory;
}

Result<PlanReport> make_report(const PlanOptions& options) {
  PlanReport r;
  const bool config_alone = !options.config.empty() || !options.geometry.empty();
  MOEBIUS_TRY(config_alone ? read_config(options, r) : read_files(options, r));
  Budgets& b = r.budgets;
  b.device_bytes = device_memory(options, r.notes);
  b.ram_bytes = options.ram < 0 ? machine_memory() : options.ram;
  b.context = options.context > 0 ? options.context : std::min(r.config.context, kDefaultContext);
  b.prompt = std::min(options.prompt > 0 ? options.prompt : kDefaultPrompt, b.context);
  b.sequences = options.sequences, b.cache_tokens = options.cache_tokens;
  MOEBIUS_ASSIGN(b.adapter_bytes, adapter_bytes(options.adapter, r.config));
  if (b.device_bytes > 0) b.adapter_bytes += options.adapter_memory;
  r.bytes.workspace = WorkspaceMemory::bytes(r.config, std::min(options.prefill_chunk, b.context),
                                             b.sequences, b.device_bytes > 0);
  if (b.context > r.config.context) {
    r.notes.push_back(
        fmt::format("the model's own limit is {} tokens: chat and serve refuse a --ctx-size of {}",
                    r.config.context, b.context));
  }
  MOEBIUS_ASSIGN(r.speeds, find_speeds(options.speeds, r.bytes.format));
  if (!options.finetune) r.plan = plan_model(r.bytes, machine_speeds(r.speeds), b);
  return r;
}

Result<std::string> text_of(const PlanOptions& options) {
  TrainingReport training;
  MOEBIUS_ASSIGN(training.model, make_report(options));
  if (!options.finetune)
    return options.json ? to_text(plan_json(training.model), 2) + "\n" : plan_table(training.model);
  training.shape = options.training;
  MOEBIUS_TRY(plan_finetune(training));
  return options.json ? to_text(training_json(training), 2) + "\n" : training_table(training);
}

}  // namespace

void add_plan(CLI::App& app, Run& run) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* command = app.add_subcommand(
      "plan", "what of a model fits where, how fast it will be and why, before it is loaded");
  add_plan_options(*command, *options);
  command->callback([options, &run] {
    run = [options] {
      const Result<std::string> text = text_of(*options);
      return text.ok() ? print_output(*text) : fail(text.status());
    };
  });
}

}  // namespace moebius
