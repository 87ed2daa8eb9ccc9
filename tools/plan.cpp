// moebius plan: what of a model goes where on a machine and how fast it will be, before anything is loaded.
#include <memory>

#include <fmt/format.h>

#include "engine/measure_speeds.h"
#include "kernels/gpu.h"
#include "models/file_io.h"
#include "models/geometries.h"
#include "models/peft.h"
#include "tools/command.h"
#include "tools/plan_finetune.h"
#include "tools/size_text.h"
#include "tools/synth.h"
#include "tools/text_io.h"
#include "tools/training_loop.h"

namespace moebius {
namespace {

constexpr int64_t kDefaultContext = 16384, kDefaultPrompt = 4096;

struct Options {
  std::string model, config, geometry, adapter;
  std::optional<Format> format;
  bool experts_only = false;
  int64_t gpu_memory = -1, ram = -1;  // -1: this machine's
  int64_t context = 0, prompt = 0;    // 0: by default
  int64_t sequences = 1;
  CacheType cache = CacheType::kAuto;
  SpeedOptions speeds;
  bool json = false;
  bool finetune = false;
  TrainingShape training;
};

Status read_config(const Options& options, PlanReport& r) {
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

Status read_files(const Options& options, PlanReport& r) {
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

Result<PlanReport> make_report(const Options& options) {
  PlanReport r;
  const bool config_alone = !options.config.empty() || !options.geometry.empty();
  MOEBIUS_TRY(config_alone ? read_config(options, r) : read_files(options, r));
  Budgets& b = r.budgets;
  b.device_bytes = options.gpu_memory < 0 ? gpu_memory_here(r.notes) : options.gpu_memory;
  b.ram_bytes = options.ram < 0 ? machine_memory() : options.ram;
  b.context = options.context > 0 ? options.context : std::min(r.config.context, kDefaultContext);
  b.prompt = std::min(options.prompt > 0 ? options.prompt : kDefaultPrompt, b.context);
  b.sequences = options.sequences;
  MOEBIUS_ASSIGN(b.adapter_bytes, adapter_bytes(options.adapter, r.config));
  if (b.context > r.config.context) {
    r.notes.push_back(
        fmt::format("the model's own limit is {} tokens: chat and serve refuse a --ctx-size of {}",
                    r.config.context, b.context));
  }
  MOEBIUS_ASSIGN(r.speeds, find_speeds(options.speeds, r.bytes.format));
  if (!options.finetune) r.plan = plan_model(r.bytes, machine_speeds(r.speeds), b);
  return r;
}

Result<std::string> text_of(const Options& options) {
  TrainingReport training;
  MOEBIUS_ASSIGN(training.model, make_report(options));
  if (!options.finetune)
    return options.json ? to_text(plan_json(training.model), 2) + "\n" : plan_table(training.model);
  training.shape = options.training;
  MOEBIUS_TRY(plan_finetune(training));
  return options.json ? to_text(training_json(training), 2) + "\n" : training_table(training);
}

void add_finetune_options(CLI::App& command, Options& o) {
  command.add_flag("--finetune", o.finetune, "plan a fine-tuning (`moebius finetune`) in place of answering");
  CLI::App& group = *command.add_option_group("Of a fine-tuning");
  group
      .add_option("--micro-tokens", o.training.micro_tokens,
                  "rows that pass the model together (default 4096)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  group.add_option("--accumulation", o.training.accumulation, "micro-batches in a step (default 1)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  group.add_option("--sequence", o.training.sequence, "tokens of an example (default 512)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  add_lora_options(group, o.training.lora);
}

void add_model_options(CLI::App& command, Options& o) {
  CLI::Option* model = command.add_option(
      "-m,--model", o.model,
      "checkpoint folder, or a Hugging Face id already in the cache (default: the shipped model)");
  CLI::Option* config = command.add_option("--config", o.config, "a config.json alone, without its weights");
  CLI::Option* geometry = command.add_option("--geometry", o.geometry, geometry_names());
  model->excludes(config)->excludes(geometry);
  config->excludes(geometry);
  command
      .add_option_function<std::string>(
          "--quant", [&o](const std::string& word) { o.format = synth_formats().at(word); },
          "format of the linear weights, with --config or --geometry (default: what the file says, else "
          "bf16)")
      ->check(CLI::IsMember({"bf16", "fp8", "int8", "int4"}))
      ->type_name("WORD")
      ->excludes(model);
  command.add_flag("--experts-only", o.experts_only, "that format for routed experts alone, else BF16")
      ->needs(command.get_option("--quant"));
}

void add_machine_options(CLI::App& command, Options& o) {
  add_size(command, "--gpu-memory", o.gpu_memory,
           "such as 12GiB; 0: no GPU (default: this machine's first GPU)");
  add_size(command, "--ram", o.ram, "memory of the machine, such as 64GiB (default: this machine's)");
  const auto speed = [&](const char* name, std::optional<double>& value, const std::string& help) {
    command.add_option(name, value, help)->check(CLI::Range(1e-3, 1e7))->type_name("NUMBER");
  };
  SpeedOptions& s = o.speeds;
  speed("--gpu-gbs", s.gpu_GBs, "GPU memory as kernels read it, GB/s (default 400)");
  speed("--gpu-tflops", s.gpu_TFLOPs, "GPU products, TFLOP/s (default 30)");
  speed("--link-gbs", s.link_GBs, "host to GPU, GB/s (default 20, PCIe 4.0 x16)");
  speed("--ram-gbs", s.ram_GBs, "RAM as kernels read it, GB/s (default: probed here)");
  speed("--cpu-gflops", s.cpu_GFLOPs, "CPU products, GFLOP/s (default: probed here)");
  speed("--disk-gbs", s.disk_GBs,
        fmt::format("reading experts from files, GB/s (default {})", kAssumedDiskGBs));
  speed("--handoff-us", s.handoff_us, "a layer's way to the CPU and back, microseconds (default 20)");
  speed("--gpu-op-us", s.gpu_op_us, "a small operation on the GPU, microseconds (default 4)");
  command.add_option("-t,--threads", s.threads, "CPU threads to probe with (default: one per physical core)")
      ->check(CLI::Range(1, 4096));
}

}  // namespace

void add_plan(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "plan", "what of a model fits where, how fast it will be and why, before it is loaded");
  add_model_options(*command, *options);
  add_machine_options(*command, *options);
  command
      ->add_option("-c,--ctx-size", options->context,
                   "tokens a sequence can hold (default: the model's limit, at most 16384)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  command->add_option("--parallel", options->sequences, "sequences at once, each with a cache (default 1)")
      ->check(CLI::Range(1, 65536));
  command
      ->add_option("--prompt", options->prompt,
                   "tokens of the prompt that speeds are predicted for and after (default 4096)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  add_cache_type(*command, options->cache);
  command->add_option("--adapter", options->adapter, "folder of a PEFT LoRA adapter to make room for");
  command->add_flag("--json", options->json, "print JSON");
  add_finetune_options(*command, *options);
  command->callback([options, &run] {
    run = [options] {
      const Result<std::string> text = text_of(*options);
      return text.ok() ? print_output(*text) : fail(text.status());
    };
  });
}

}  // namespace moebius
