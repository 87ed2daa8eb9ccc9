// moebius synth: a random checkpoint of a named geometry.
#include "tools/synth.h"

#include <chrono>
#include <memory>

#include <fmt/format.h>

#include "kernels/backend.h"
#include "models/file_io.h"
#include "models/geometries.h"
#include "tools/chat_interrupt.h"
#include "tools/command.h"
#include "tools/progress.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

struct Options {
  SynthOptions synth;
  double shard_gb = 0;
  bool json = false;
};

std::string list() {
  std::string text;
  for (const Geometry& g : geometries()) text += fmt::format("{}\n", g.name);
  return text;
}

int synth(Options options) {
  if (options.synth.geometry == "list") return print_output(list());
  SynthOptions& s = options.synth;
  if (s.threads == 0) s.threads = physical_cores();
  if (options.shard_gb > 0) s.shard_bytes = static_cast<int64_t>(options.shard_gb * 1e9);
  const auto start = std::chrono::steady_clock::now();
  Interrupts interrupts;
  ProgressBar bar("synth, MB");
  const Result<SynthReport> report = synthesize(s, [&](int64_t done, int64_t total) {
    bar.update(done / 1'000'000, total / 1'000'000);
    return !interrupts.take();
  });
  bar.clear();
  if (!report.ok()) return fail(report.status());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (const std::string& note : report->notes) fmt::print(stderr, "moebius: {}\n", note);
  if (options.json) {
    return print_output(to_text({{"out", s.out},
                                 {"model_type", report->model_type},
                                 {"layers", report->layers},
                                 {"dtype", format_name(s.format)},
                                 {"experts_only", s.experts_only},
                                 {"seed", s.seed},
                                 {"bytes", report->bytes},
                                 {"files", report->files},
                                 {"seconds", seconds}}) +
                        "\n");
  }
  return print_output(fmt::format(
      "{}: {}, {} layers, {}{}, {:.2f} GB in {} file{}, {:.1f} s\n", printable(s.out, 4096),
      report->model_type, report->layers, format_name(s.format), s.experts_only ? " experts" : "",
      static_cast<double>(report->bytes) / 1e9, report->files, report->files == 1 ? "" : "s", seconds));
}

}  // namespace

std::map<std::string, Format> synth_formats() {
  return {
      {"bf16", Format::kBF16}, {"fp8", Format::kFp8Block}, {"int8", Format::kInt8}, {"int4", Format::kInt4}};
}

void add_synth(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  SynthOptions& s = options->synth;
  CLI::App* command =
      app.add_subcommand("synth", "write a checkpoint of random weights, to measure and test");
  command
      ->add_option("--geometry", s.geometry,
                   fmt::format("{}; a config.json or a checkpoint folder; or `list`", geometry_names()))
      ->required();
  add_choice(*command, "--dtype", s.format, synth_formats(), "format of the linear weights (default int4)");
  command->add_flag("--experts-only", s.experts_only, "that format for routed experts alone, else BF16");
  command->add_option("--layers", s.layers, "layers in place of the geometry's own number")
      ->check(CLI::Range(1, 4096));
  command->add_option("--seed", s.seed, "of the random numbers (default 0)");
  command->add_option("-t,--threads", s.threads, "CPU threads (default: one per physical core)")
      ->check(CLI::Range(1, 4096));
  command->add_option("--max-shard-size", options->shard_gb, "GB per file (default 4.8)")
      ->check(CLI::Range(1e-3, 1e3));
  CLI::Option* out = command->add_option("-o,--out", s.out, "folder to write, which must be new or empty");
  command->add_flag("--force", s.force, "replace a checkpoint that synth wrote there before");
  command->add_flag("--json", options->json, "print the summary as JSON");
  s.threads = 0;
  command->callback([options, out, &run] {
    if (out->count() == 0 && options->synth.geometry != "list") throw CLI::RequiredError("--out");
    run = [options] { return synth(*options); };
  });
}

}  // namespace moebius
