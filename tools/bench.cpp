// moebius bench: prefill and decode speed of a model, beside the machine's limits probed in the same run.
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>

#include <fmt/format.h>

#include "kernels/probe.h"
#include "models/checkpoint.h"
#include "models/file_io.h"
#include "models/geometries.h"
#include "tools/bench_measure.h"
#include "tools/chat_interrupt.h"
#include "tools/command.h"
#include "tools/model_cost.h"
#include "tools/progress.h"
#include "tools/synth.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

struct Options {
  EngineOptions engine;
  SynthOptions synth;
  BenchWork work;
  std::string temporary;  // the folder in which the random checkpoint is written
  bool json = false;
};

struct Limits {
  double read_GBs = 0, float32_GFLOPs = 0, int8_GOPs = 0;
};

// A checkpoint for the length of the run, when none is given.
class TemporaryModel {
 public:
  ~TemporaryModel() {
    std::error_code ignored;
    if (!dir_.empty()) std::filesystem::remove_all(dir_, ignored);
  }

  Status create(Options& options, Interrupts& interrupts) {
    std::error_code error;
    std::string root = options.temporary;
    if (root.empty()) root = std::filesystem::temp_directory_path(error).string();
    if (error) return system_error("find", "the folder for temporary files", error.value());
    std::string pattern = root + "/moebius-bench-XXXXXX";
    if (!mkdtemp(pattern.data())) return system_error("make a folder in", root, errno);
    dir_ = pattern;
    options.synth.out = dir_ + "/model";
    options.engine.model = options.synth.out;
    MOEBIUS_ASSIGN(const int64_t bytes, synth_bytes(options.synth));
    fmt::print(stderr, "moebius: writing {:.2f} GB of random weights into '{}', removed when done\n",
               static_cast<double>(bytes) * 1e-9, printable(dir_, 4096));
    ProgressBar bar("synth, MB");
    MOEBIUS_ASSIGN(const SynthReport report, synthesize(options.synth, [&](int64_t done, int64_t total) {
                     bar.update(done / 1'000'000, total / 1'000'000);
                     return !interrupts.take();
                   }));
    return Status();
  }

 private:
  std::string dir_;
};

Result<Limits> probe(int threads) {
  constexpr double kSeconds = 0.4;
  Limits limits;
  MOEBIUS_ASSIGN(limits.read_GBs, probe_memory_read_GBs(threads, probe_buffer_bytes(), kSeconds));
  limits.float32_GFLOPs = probe_float32_GFLOPs(threads, kSeconds);
  limits.int8_GOPs = probe_int8_GOPs(threads, kSeconds);
  return limits;
}

Limits better(const Limits& a, const Limits& b) {
  return {std::max(a.read_GBs, b.read_GBs), std::max(a.float32_GFLOPs, b.float32_GFLOPs),
          std::max(a.int8_GOPs, b.int8_GOPs)};
}

// How far two probes of the same machine lie apart, as a factor: what else runs here moves every figure.
double drift(const Limits& a, const Limits& b) {
  const auto factor = [](double x, double y) { return x > 0 && y > 0 ? std::max(x / y, y / x) : 1; };
  return std::max({factor(a.read_GBs, b.read_GBs), factor(a.float32_GFLOPs, b.float32_GFLOPs),
                   factor(a.int8_GOPs, b.int8_GOPs)});
}

double resident_GB() {  // pages of the process in memory, the mapped weights included
  std::ifstream file("/proc/self/statm");
  double total = 0, resident = 0;
  file >> total >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE)) * 1e-9;
}

struct Cost {
  Format format;
  ModelCost model;
};

Result<Cost> cost_of(const Engine& engine) {
  MOEBIUS_ASSIGN(const std::unique_ptr<ModelFiles> files, ModelFiles::open(engine.options().model));
  const bool wide = engine.options().cache == CacheType::kF32;
  return Cost{main_format(files->weights()),
              model_cost(files->config(), files->weights(), wide ? DType::kF32 : DType::kBF16)};
}

ordered_json prefill_facts(const BenchWork& work, const BenchTimes& times, const Cost& cost,
                           const Limits& limits) {
  if (times.prefill_s.empty()) return nullptr;
  const double rate = static_cast<double>(work.prompt) / median(times.prefill_s);
  const double operations = 2 * static_cast<double>(cost.model.active_weights - cost.model.head_weights);
  const double limit =
      is_integer(cost.format) && limits.int8_GOPs > 0 ? limits.int8_GOPs : limits.float32_GFLOPs;
  return {{"tokens", work.prompt},
          {"runs_s", times.prefill_s},
          {"tokens_per_s", rate},
          {"operations_per_token", operations},
          {"GOPs", rate * operations * 1e-9},
          {"share_of_probe", rate * operations * 1e-9 / limit}};
}

ordered_json decode_facts(const BenchWork& work, const BenchTimes& times, const Cost& cost,
                          const Limits& limits) {
  if (times.decode_token_s.empty()) return nullptr;
  const double rate = 1 / median(times.decode_token_s);
  const int64_t cache =
      cost.model.cache_bytes_per_token * (std::max<int64_t>(work.depth, 1) + work.answer / 2);
  const double bytes = static_cast<double>(cost.model.active_bytes + cache);
  return {{"tokens", work.answer},
          {"depth", work.depth},
          {"runs_token_s", times.decode_token_s},
          {"tokens_per_s", rate},
          {"bytes_per_token", bytes},
          {"GBs", rate * bytes * 1e-9},
          {"share_of_probe", rate * bytes * 1e-9 / limits.read_GBs}};
}

Result<ordered_json> measure(Options options) {
  Interrupts interrupts;
  TemporaryModel temporary;
  if (options.synth.threads == 0) options.synth.threads = physical_cores();
  if (!options.synth.geometry.empty()) MOEBIUS_TRY(temporary.create(options, interrupts));
  const int64_t needed = std::max(options.work.prompt, options.work.depth + options.work.answer + 1);
  if (options.engine.context == 0 && needed > 16384) options.engine.context = needed;

  const auto start = std::chrono::steady_clock::now();
  MOEBIUS_ASSIGN(const std::unique_ptr<Engine> engine, Engine::open(options.engine));
  const double open_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  MOEBIUS_ASSIGN(const Cost cost, cost_of(*engine));
  const int threads = engine->options().threads;
  MOEBIUS_ASSIGN(const Limits before, probe(threads));
  MOEBIUS_ASSIGN(const BenchTimes times,
                 bench_model(*engine, options.work, [&] { return !interrupts.take(); }));
  const double resident = resident_GB();
  MOEBIUS_ASSIGN(const Limits after, probe(threads));
  const Limits limits = better(before, after);

  const std::string model = options.synth.geometry.empty() ? engine->options().model : options.synth.geometry;
  return ordered_json{{"model", model},
                      {"model_type", engine->config().model_type},
                      {"random_weights", engine->config().random_weights},
                      {"layers", engine->config().layers},
                      {"format", format_name(cost.format)},
                      {"threads", threads},
                      {"open_s", open_s},
                      {"resident_GB", resident},
                      {"prefill", prefill_facts(options.work, times, cost, limits)},
                      {"decode", decode_facts(options.work, times, cost, limits)},
                      {"limits",
                       {{"memory_read_GBs", limits.read_GBs},
                        {"float32_GFLOPs", limits.float32_GFLOPs},
                        {"int8_GOPs", limits.int8_GOPs},
                        {"drift", drift(before, after)}}}};
}

std::string table(const ordered_json& f) {
  const auto number = [](const ordered_json& value) { return value.get<double>(); };
  const bool integer = f["format"] == "int4" || f["format"] == "int8";
  std::string text =
      fmt::format("{}: {}, {} layers, {}, {} threads; opened in {:.0f} ms, {:.2f} GB resident\n",
                  printable(f["model"].get<std::string>(), 4096), f["model_type"].get<std::string>(),
                  f["layers"].dump(), f["format"].get<std::string>(), f["threads"].dump(),
                  number(f["open_s"]) * 1e3, number(f["resident_GB"]));
  if (const ordered_json& p = f["prefill"]; !p.is_null()) {
    text += fmt::format(
        "prefill {:>5}   {:>8.2f} tok/s   {:.2f} Gop per token, {:.0f} Gop/s, {:.0f} % of the {} probe\n",
        p["tokens"].dump(), number(p["tokens_per_s"]), number(p["operations_per_token"]) * 1e-9,
        number(p["GOPs"]), number(p["share_of_probe"]) * 100, integer ? "int8" : "float32");
  }
  if (const ordered_json& d = f["decode"]; !d.is_null()) {
    text += fmt::format(
        "decode  {:>5}   {:>8.2f} tok/s   {:.2f} GB per token at depth {}, {:.1f} GB/s, {:.0f} % of the "
        "memory probe\n",
        d["tokens"].dump(), number(d["tokens_per_s"]), number(d["bytes_per_token"]) * 1e-9, d["depth"].dump(),
        number(d["GBs"]), number(d["share_of_probe"]) * 100);
  }
  const ordered_json& l = f["limits"];
  text += fmt::format("probed limits   memory {:.1f} GB/s, float32 {:.0f} GFLOP/s, int8 {:.0f} GOP/s\n",
                      number(l["memory_read_GBs"]), number(l["float32_GFLOPs"]), number(l["int8_GOPs"]));
  if (number(l["drift"]) > 1.25) {
    text += fmt::format("the machine is busy: its limits moved by a factor of {:.1f} during the run\n",
                        number(l["drift"]));
  }
  return text;
}

}  // namespace

void add_bench(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("bench", "measure prefill and decode beside the machine's limits");
  add_engine_options(*command, options->engine);
  CLI::Option* model = command->get_option("--model");
  CLI::Option* geometry =
      command->add_option("--geometry", options->synth.geometry,
                          fmt::format("random weights of {}, or of a config.json", geometry_names()));
  geometry->excludes(model);
  add_choice(*command, "--quant", options->synth.format, synth_formats(), "their format (default int4)")
      ->needs(geometry);
  command->add_option("--layers", options->synth.layers, "their number of layers (default: the geometry's)")
      ->check(CLI::Range(1, 4096))
      ->needs(geometry);
  command
      ->add_option("--temporary", options->temporary,
                   "folder to write them to, removed when done (default: the system's)")
      ->needs(geometry);
  command->add_option("-p,--prompt", options->work.prompt, "tokens of a prefill (default 512; 0: none)")
      ->check(CLI::Range(0, 1 << 24));
  command->add_option("-n,--tokens", options->work.answer, "tokens to decode (default 32; 0: none)")
      ->check(CLI::Range(0, 1 << 24));
  command->add_option("--depth", options->work.depth, "tokens in the context before decoding (default 0)")
      ->check(CLI::Range(0, 1 << 24));
  command->add_option("--repeats", options->work.repeats, "runs to take the median of (default 3)")
      ->check(CLI::Range(1, 1000));
  command->add_flag("--json", options->json, "print JSON");
  options->synth.threads = 0;
  command->callback([options, &run] {
    run = [options] {
      const Result<ordered_json> facts = measure(*options);
      if (!facts.ok()) return fail(facts.status());
      return print_output(options->json ? to_text(*facts, 2) + "\n" : table(*facts));
    };
  });
}

}  // namespace moebius
