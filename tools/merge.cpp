// moebius merge: a checkpoint with an adapter added to its weights.
#include "engine/merge.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include <fmt/format.h>

#include "engine/options.h"
#include "kernels/backend.h"
#include "models/file_io.h"
#include "tools/chat_interrupt.h"
#include "tools/command.h"
#include "tools/progress.h"
#include "tools/synth_folder.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

constexpr int64_t kOtherBytes = 64 << 20;  // tokenizer, configuration, headers and index, amply

struct Options {
  std::string model, adapter, out;
  MergeType type = MergeType::kAuto;
  int threads = 0;
  bool json = false;
};

struct Report {
  std::string adapter;  // what it adapts, in words
  int64_t merged = 0, unpacked = 0, unpacked_alone = 0, bytes = 0, files = 0;
};

Result<Report> merge(const Options& options) {
  std::string model = options.model;
  if (model.empty()) {
    MOEBIUS_ASSIGN(model, default_model_dir());
  } else {
    MOEBIUS_ASSIGN(model, resolve_model_dir(model, hub_cache_dir()));
  }
  MOEBIUS_ASSIGN(const std::unique_ptr<ModelFiles> files, ModelFiles::open(model));
  MOEBIUS_ASSIGN(const Adapter adapter, read_adapter(options.adapter, files->config()));
  MOEBIUS_ASSIGN(const MergePlan plan, plan_merge(*files, adapter.factors, options.type));
  const std::string smaller = options.type == MergeType::kF32 ? " or a smaller --dtype" : "";
  MOEBIUS_ASSIGN(FolderInMaking folder,
                 FolderInMaking::create(options.out, plan.bytes + kOtherBytes, {}, smaller));
  Interrupts interrupts;
  ProgressBar bar("merge, MB");
  MergeOptions how;
  how.threads = options.threads > 0 ? options.threads : physical_cores();
  how.progress = [&](int64_t done, int64_t total) {
    bar.update(done / 1'000'000, total / 1'000'000);
    return !interrupts.take();
  };
  MOEBIUS_TRY(write_merged(*files, plan, folder.dir(), how));
  MOEBIUS_TRY(folder.commit());
  const auto is_experts = [](const std::string& module) { return module.ends_with(".experts"); };
  if (plan.quantized && files->config().quant == ModelConfig::Quant::kPacked &&
      std::any_of(plan.unpacked_modules.begin(), plan.unpacked_modules.end(), is_experts)) {
    fmt::print(stderr,
               "moebius: transformers (seen with 5.23) does not load plain experts beside other packed "
               "weights, as this model now has\n");
  }
  for (const std::vector<std::string>* notes : {&files->notes(), &adapter.notes})
    for (const std::string& note : *notes) fmt::print(stderr, "moebius: {}\n", note);
  return Report{
      describe_adapter(adapter), std::ssize(adapter.factors), plan.unpacked, plan.unpacked_alone, plan.bytes,
      std::ssize(plan.shards)};
}

std::string render(const Options& options, const Report& report, double seconds) {
  if (options.json) {
    return to_text({{"out", options.out},
                    {"merged", report.merged},
                    {"unpacked", report.unpacked},
                    {"unpacked_without_adapter", report.unpacked_alone},
                    {"bytes", report.bytes},
                    {"files", report.files},
                    {"seconds", seconds}}) +
           "\n";
  }
  std::string text = fmt::format(
      "{}: merged {}; {:.2f} GB in {} file{}, {:.1f} s\n", printable(options.out, 4096), report.adapter,
      static_cast<double>(report.bytes) / 1e9, report.files, report.files == 1 ? "" : "s", seconds);
  if (report.unpacked > 0) {
    text += fmt::format("{} quantised matrices are now {}", report.unpacked,
                        options.type == MergeType::kF32 ? "F32" : "BF16");
    if (report.unpacked_alone > 0)
      text += fmt::format(", {} of them experts beside adapted ones", report.unpacked_alone);
    text += "\n";
  }
  return text;
}

int run_merge(const Options& options) {
  const auto start = std::chrono::steady_clock::now();
  const Result<Report> report = merge(options);
  if (!report.ok()) return fail(report.status());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return print_output(render(options, *report, seconds));
}

}  // namespace

void add_merge(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command = app.add_subcommand("merge", "add an adapter to a model's weights: a new checkpoint");
  command->option_defaults()->take_last();
  command->add_option(
      "-m,--model", o.model,
      "checkpoint folder, or a Hugging Face id already in the cache (default: the shipped model)");
  command->add_option("--adapter", o.adapter, "folder of a PEFT LoRA adapter, as `moebius finetune` writes")
      ->required();
  command->add_option("-o,--out", o.out, "folder to write, which must be new or empty")->required();
  add_choice<MergeType>(*command, "--dtype", o.type,
                        {{"auto", MergeType::kAuto}, {"bf16", MergeType::kBF16}, {"f32", MergeType::kF32}},
                        "of adapted matrices (default auto: as the model's; bf16 where that is quantised)");
  command->add_option("-t,--threads", o.threads, "CPU threads (default: one per physical core)")
      ->check(CLI::Range(0, 4096));
  command->add_flag("--json", o.json, "print the summary as JSON");
  command->footer(
      "\nMatrices without an adapter are copied as they are. A quantised matrix with one becomes plain, and\n"
      "so do all routed experts of a layer where one of them has one; config.json lists them.");
  command->callback([options, &run] { run = [options] { return run_merge(*options); }; });
}

}  // namespace moebius
