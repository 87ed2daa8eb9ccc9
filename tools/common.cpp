#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "tools/command.h"
#include "tools/progress.h"
#include "tools/size_text.h"

namespace moebius {

namespace {

std::function<bool(int64_t, int64_t)> loading_bar() {
  return [bar = std::make_shared<ProgressBar>("load, MB")](int64_t done, int64_t total) {
    bar->update(done / 1'000'000, total / 1'000'000);
    if (done == total) bar->clear();
    return true;
  };
}

}  // namespace

void add_cache_type(CLI::App& app, CacheType& type) {
  add_choice<CacheType>(app, "--cache-type,--kv-cache-dtype", type,
                        {{"auto", CacheType::kAuto},
                         {"f32", CacheType::kF32},
                         {"bf16", CacheType::kBF16},
                         {"int8", CacheType::kInt8}},
                        "type of the attention cache (default auto: f32 for float32 models, else bf16)");
}

void add_device_options(CLI::App& app, DeviceOptions& options) {
  add_choice<DeviceKind>(
      app, "--device", options.device,
      {{"auto", DeviceKind::kAuto},
       {"host", DeviceKind::kHost},
       {"sim", DeviceKind::kSim},
       {"cuda", DeviceKind::kCuda}},
      "where the model runs (default host; auto: the first GPU, if there is one; sim: a simulated "
      "GPU with memory of its own)");
  add_size(app, "--gpu-memory", options.device_memory,
           "of the device, such as 6GiB; what does not fit stays on the host (default: nine tenths of what "
           "the GPU has free; of a simulated one as much as all needs)");
  add_size(app, "--ram", options.ram,
           "memory to count on, such as 16GiB; experts beyond it are prefetched from disk (default: the "
           "machine's)");
  app.add_option("--link-gbs", options.link_GBs, "GB/s between host and simulated device (default: no limit)")
      ->check(CLI::PositiveNumber);
  app.add_option("--device-gbs", options.device_GBs,
                 "GB/s of the simulated device's memory, by which its operations last (default: no limit)")
      ->check(CLI::PositiveNumber);
  app.add_flag(
      "--overlap,!--no-overlap", options.overlap,
      "whether the device goes on while the host computes its experts (default on; off is slower, for "
      "comparison)");
}

void add_engine_options(CLI::App& app, EngineOptions& options) {
  app.add_option("-m,--model,--hf-repo", options.model,
                 "checkpoint folder, or a Hugging Face id already in the cache (default: the shipped model)");
  app.add_option("--adapter", options.adapter,
                 "folder of a PEFT LoRA adapter, as `moebius finetune` writes, to add to the weights");
  app.add_option("-c,--ctx-size,--max-model-len", options.context,
                 "tokens a conversation can hold (default: the model's limit, at most 16384)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("-t,--threads", options.threads, "CPU threads (default: one per physical core)")
      ->check(CLI::Range(0, 4096));
  options.load = Load::kAuto;
  options.on_load = loading_bar();
  add_choice<Load>(
      app, "--load", options.load,
      {{"auto", Load::kAuto}, {"mapped", Load::kMapped}, {"eager", Load::kEager}},
      "mapped: weights stay in their files, shared with other programs, and come from disk as "
      "they are first used; eager: all are read at the start, into large pages; auto: mapped, and "
      "moved there while the model already answers, if memory allows (default auto)");
  add_cache_type(app, options.cache);
  add_choice<CpuGemm>(app, "--cpu-gemm", options.gemm,
                      {{"auto", CpuGemm::kAuto}, {"onednn", CpuGemm::kOneDnn}, {"own", CpuGemm::kOwn}},
                      "who multiplies large batches on the CPU (default auto)");
  add_choice<Isa>(
      app, "--isa", options.isa,
      {{"auto", Isa::kAmx}, {"avx512", Isa::kAvx512}, {"avx2", Isa::kAvx2}, {"scalar", Isa::kScalar}},
      "the most the CPU's kernels may use, for comparison (default auto: all the processor has)");
  add_device_options(app, options);
  app.add_option(
         "--skip-threshold", options.skip_threshold,
         "leave out experts whose share of a token's expert weights is below this: faster, less exact "
         "(default 0: none)")
      ->check(CLI::Range(0.0, 0.99));
  app.add_option(
         "--skip-minor-threshold", options.skip_minor_threshold,
         "below this share, compute only the half of an expert that does more; of a model that `moebius "
         "tenp --halves` wrote (default 0: never)")
      ->check(CLI::Range(0.0, 0.99));
  app.add_option(
      "--trace", options.trace,
      "write what the device's streams and the CPU did to this file at the end, for chrome://tracing");
  app.add_option("--prefill-chunk,--ubatch-size", options.prefill_chunk,
                 "prompt tokens per forward pass (default 512)")
      ->check(CLI::Range(1, 65536));
  app.add_flag("--exact-activations", options.exact_activations,
               "leave activations unrounded, with int4 and int8 weights and in attention over a BF16 cache "
               "(slow; for comparison)");
}

void add_saliency_options(CLI::App& app, EngineOptions& options) {
  CLI::Option* file = app.add_option(
      "--saliency", options.saliency,
      "file in which to gather, while running, how much experts and neurons do, for `moebius tenp "
      "--scores`; an earlier one is gone on with (default: none)");
  app.add_option("--saliency-every", options.saliency_every,
                 "score one pass in so many, which costs so much less (default 64)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->needs(file);
}

int fail(const std::string& message) {
  fmt::print(stderr, "moebius: {}\n", message);
  return 1;
}

int fail(const Status& status) { return fail(status.message()); }

}  // namespace moebius
