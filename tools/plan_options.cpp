#include "tools/plan_options.h"

#include <fmt/format.h>

#include "engine/measure_speeds.h"
#include "models/geometries.h"
#include "tools/size_text.h"
#include "tools/synth.h"
#include "tools/training_loop.h"

namespace moebius {
namespace {

void add_finetune_options(CLI::App& command, PlanOptions& o) {
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

void add_model_options(CLI::App& command, PlanOptions& o) {
  CLI::Option* model = command.add_option(
      "-m,--model,--hf-repo", o.model,
      "checkpoint folder, or a Hugging Face id already in the cache (default: the shipped model)");
  CLI::Option* config = command.add_option("--config", o.config, "a config.json alone, without its weights");
  CLI::Option* geometry = command.add_option("--geometry", o.geometry, geometry_names());
  model->excludes(config)->excludes(geometry);
  config->excludes(geometry);
  command
      .add_option_function<std::string>(
          "--quant", [&o](const std::string& word) { o.format = synth_formats().at(word); },
          "format of the linear weights (fp8: but the head), with --config or --geometry (default: what the "
          "file says, else bf16)")
      ->check(CLI::IsMember({"bf16", "fp8", "int8", "int4"}))
      ->type_name("WORD")
      ->excludes(model);
  command.add_flag("--experts-only", o.experts_only, "that format for routed experts alone, else BF16")
      ->needs(command.get_option("--quant"));
}

void add_machine_options(CLI::App& command, PlanOptions& o) {
  add_choice<DeviceKind>(command, "--device", o.device,
                         {{"auto", DeviceKind::kAuto},
                          {"host", DeviceKind::kHost},
                          {"sim", DeviceKind::kSim},
                          {"cuda", DeviceKind::kCuda}},
                         "where the model will run; host: as --gpu-memory 0 (default auto: on a GPU)");
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
      ->check(CLI::Range(0, 4096));
}

void add_use_options(CLI::App& command, PlanOptions& o) {
  command
      .add_option("-c,--ctx-size,--max-model-len", o.context,
                  "tokens a sequence can hold (default: the model's limit, at most 16384)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  command
      .add_option("--parallel,--max-num-seqs", o.sequences,
                  "sequences at once, each with a cache (default 1, as a chat has; serve's default is 4)")
      ->check(CLI::Range(1, 65536));
  command
      .add_option("--cache-tokens", o.cache_tokens,
                  "tokens that the cache of all sequences holds together (default: --ctx-size for each of "
                  "--parallel)")
      ->check(CLI::Range(int64_t{64}, int64_t{1} << 40));
  add_cache_type(command, o.cache);
  command
      .add_option("--prefill-chunk,--ubatch-size", o.prefill_chunk,
                  "prompt tokens per forward pass (default 512)")
      ->check(CLI::Range(1, 65536));
  command
      .add_option("--prompt", o.prompt,
                  "tokens of the prompt that speeds are predicted for and after (default 4096)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  command.add_option("--adapter", o.adapter, "folder of a PEFT LoRA adapter to make room for");
  add_size(command, "--adapter-memory", o.adapter_memory,
           "of the device, such as 256MiB, kept free for adapters that requests choose; they are taken to be "
           "used (default 0)");
}

}  // namespace

void add_plan_options(CLI::App& command, PlanOptions& options) {
  add_model_options(command, options);
  add_machine_options(command, options);
  add_use_options(command, options);
  command.add_flag("--json", options.json, "print JSON");
  add_finetune_options(command, options);
}

}  // namespace moebius
