// moebius bench: prefill and decode speed of a model, beside the machine's limits probed in the same run.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <numeric>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "models/checkpoint.h"
#include "models/file_io.h"
#include "models/geometries.h"
#include "tools/bench_measure.h"
#include "tools/chat_interrupt.h"
#include "tools/command.h"
#include "tools/model_cost.h"
#include "tools/progress.h"
#include "tools/statistics.h"
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
  std::string csv;
  bool prompts_given = false, depths_given = false;
  bool json = false, ops = false;
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

using Probe = double Limits::*;

// Probed around run i of a row.
double around(const BenchRow& row, size_t i, Probe probe) {
  return (row.limits[i].*probe + row.limits[i + 1].*probe) / 2;
}

double median_probe(const BenchRow& row, Probe probe) {
  std::vector<double> values;
  for (const Limits& limits : row.limits) values.push_back(limits.*probe);
  return median(std::move(values));
}

// How far the probes of a row lie apart, as a factor: what else runs on the machine moves every figure.
double drift(const BenchRow& row) {
  double factor = 1;
  for (const Probe probe : {&Limits::read_GBs, &Limits::float32_GFLOPs, &Limits::int8_GOPs}) {
    const auto [least, most] = std::ranges::minmax_element(row.limits, {}, probe);
    if (*least.*probe > 0) factor = std::max(factor, *most.*probe / (*least.*probe));
  }
  return factor;
}

// The operations of one row, of all its runs, longest first, and what of the time lies between them.
ordered_json op_facts(const BenchRow& row, double read_GBs) {
  std::vector<std::pair<std::string, OpTotal>> ops(row.ops.begin(), row.ops.end());
  std::sort(ops.begin(), ops.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  const double all = std::accumulate(row.runs_s.begin(), row.runs_s.end(), 0.0);
  const double tokens = static_cast<double>(row.tokens * row.batch * std::ssize(row.runs_s));
  ordered_json list = ordered_json::array();
  double in_ops = 0;
  for (const auto& [name, t] : ops) {
    in_ops += t.seconds;
    list.push_back({{"op", name},
                    {"calls", t.calls},
                    {"us_per_token", t.seconds / tokens * 1e6},
                    {"share_of_time", t.seconds / all},
                    {"bytes_per_token", t.bytes / tokens},
                    {"GBs", t.seconds > 0 ? t.bytes / t.seconds * 1e-9 : 0},
                    {"share_of_bandwidth", t.seconds > 0 ? t.bytes / t.seconds * 1e-9 / read_GBs : 0}});
  }
  list.push_back({{"op", "between operations"},
                  {"calls", 0},
                  {"us_per_token", (all - in_ops) / tokens * 1e6},
                  {"share_of_time", 1 - in_ops / all},
                  {"bytes_per_token", 0},
                  {"GBs", 0},
                  {"share_of_bandwidth", 0}});
  return list;
}

ordered_json row_facts(const BenchRow& row, const Cost& cost, const Options& options) {
  const double tokens = static_cast<double>(row.tokens * row.batch), took = median(row.runs_s);
  const int64_t weights = cost.model.active_weights - (row.decode ? 0 : cost.model.head_weights);
  const double operations = 2 * static_cast<double>(weights);  // a token; attention's left out
  double bytes = row.bytes / tokens;
  if (bytes == 0)  // on a device nothing is counted
    bytes = static_cast<double>(cost.model.active_bytes + cost.model.cache_bytes_per_token * row.depth);
  const Probe multipliers = is_integer(cost.format) && median_probe(row, &Limits::int8_GOPs) > 0
                                ? &Limits::int8_GOPs
                                : &Limits::float32_GFLOPs;
  std::vector<double> shares;
  for (size_t i = 0; i < row.runs_s.size(); ++i)
    shares.push_back(
        std::max(bytes / around(row, i, &Limits::read_GBs), operations / around(row, i, multipliers)) * 1e-9 *
        tokens / row.runs_s[i]);
  const double read_GBs = median_probe(row, &Limits::read_GBs);
  const bool by_memory = bytes / read_GBs > operations / median_probe(row, multipliers);
  ordered_json facts = {{"test", row.decode ? "decode" : "prefill"},
                        {"quant", format_name(cost.format)},
                        {"tokens", row.tokens},
                        {"depth", row.depth},
                        {"batch", row.batch},
                        {"skipped", row.skipped},
                        {"tok_s", tokens / took},
                        {"bytes_per_token", bytes},
                        {"operations_per_token", operations},
                        {"disk_bytes_per_token", row.disk_bytes / tokens / static_cast<double>(row.runs_s.size())},
                        {"limit", by_memory ? "memory" : "multipliers"},
                        {"limit_share", median(shares)},
                        {"runs_s", row.runs_s},
                        {"memory_read_GBs", read_GBs},
                        {"large_pages_GBs", median_probe(row, &Limits::large_pages_GBs)},
                        {"float32_GFLOPs", median_probe(row, &Limits::float32_GFLOPs)},
                        {"int8_GOPs", median_probe(row, &Limits::int8_GOPs)},
                        {"drift", drift(row)},
                        {"resident_GB", row.resident_GB}};
  if (options.ops) facts["ops"] = op_facts(row, read_GBs);
  return facts;
}

// What does not fit the context is left out, unless it was asked for.
BenchWork fitting(const Options& options, int64_t context) {
  BenchWork work = options.work;
  const auto too_much = [&](int64_t tokens) { return tokens > context; };
  if (!options.prompts_given) std::erase_if(work.prompts, too_much);
  if (!options.depths_given) std::erase_if(work.depths, too_much);
  return work;
}

Result<ordered_json> measure(Options options) {
  Interrupts interrupts;
  TemporaryModel temporary;
  if (options.synth.threads == 0) options.synth.threads = physical_cores();
  if (!options.synth.geometry.empty()) MOEBIUS_TRY(temporary.create(options, interrupts));
  if (options.engine.context == 0 && options.work.needed_context() > 16384)
    options.engine.context = options.work.needed_context();
  options.engine.sessions = options.work.most_batch();
  options.engine.meter = true;

  const auto start = std::chrono::steady_clock::now();
  MOEBIUS_ASSIGN(const std::unique_ptr<Engine> engine, Engine::open(options.engine));
  const double open_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  engine->wait_loaded();
  MOEBIUS_ASSIGN(const Cost cost, cost_of(*engine));
  const BenchWork work = fitting(options, engine->options().context);
  MOEBIUS_ASSIGN(const std::vector<BenchRow> rows,
                 bench_model(*engine, work, [&] { return !interrupts.take(); }));
  const std::string model = options.synth.geometry.empty() ? engine->options().model : options.synth.geometry;
  ordered_json list = ordered_json::array();
  for (const BenchRow& row : rows) {
    ordered_json facts = row_facts(row, cost, options);
    facts["model"] = valid_utf8(model);
    facts["layers"] = engine->config().layers;
    facts["threads"] = engine->options().threads;
    facts["open_s"] = open_s;
    list.push_back(std::move(facts));
  }
  return list;
}

std::string table(const ordered_json& rows) {
  const auto number = [](const ordered_json& value) { return value.get<double>(); };
  if (rows.empty()) return "nothing to measure\n";
  double resident = 0, drift = 1, large = INFINITY;  // large: in every row, for probes come and go
  for (const ordered_json& r : rows) {
    resident = std::max(resident, number(r["resident_GB"])), drift = std::max(drift, number(r["drift"]));
    large = std::min(large, number(r["large_pages_GBs"]) / number(r["memory_read_GBs"]));
  }
  const ordered_json& first = rows[0];
  std::string text = fmt::format(
      "{}: {}, {} layers, {} threads; opened in {:.0f} ms, {:.2f} GB resident at most\n\n"
      "test     tokens  depth  batch  skipped     tok/s   MB/token  Gop/token   GB/s  Gop/s   of limit\n",
      printable(first["model"].get<std::string>(), 4096), first["quant"].get<std::string>(),
      first["layers"].dump(), first["threads"].dump(), number(first["open_s"]) * 1e3, resident);
  for (const ordered_json& r : rows) {
    const double rate = number(r["tok_s"]), bytes = number(r["bytes_per_token"]);
    const double operations = number(r["operations_per_token"]);
    const bool memory = r["limit"] == "memory";
    text += fmt::format(
        "{:<8} {:>6} {:>6} {:>6} {:>6.1f} % {:>9.2f} {:>10.2f} {:>10.3f} {:>6.1f} {:>6.0f}   {:.0f} % of "
        "{:.{}f} {}\n",
        r["test"].get<std::string>(), r["tokens"].dump(), r["depth"].dump(), r["batch"].dump(),
        100 * number(r["skipped"]), rate, bytes * 1e-6, operations * 1e-9, rate * bytes * 1e-9,
        rate * operations * 1e-9, 100 * number(r["limit_share"]),
        memory
            ? number(r["memory_read_GBs"])
            : number(r["quant"].get<std::string>().starts_with("int") ? r["int8_GOPs"] : r["float32_GFLOPs"]),
        memory ? 1 : 0, memory ? "GB/s" : "Gop/s");
    if (!r.contains("ops")) continue;
    for (const ordered_json& op : r["ops"])
      text += fmt::format(
          "    {:<22} {:>9.1f} us/token {:>5.1f} % {:>9.2f} MB/token {:>6.1f} GB/s {:>4.0f} %\n",
          op["op"].get<std::string>(), number(op["us_per_token"]), 100 * number(op["share_of_time"]),
          number(op["bytes_per_token"]) * 1e-6, number(op["GBs"]), 100 * number(op["share_of_bandwidth"]));
  }
  if (large > 1.1)
    text += fmt::format(
        "in large pages memory is read {:.1f} times as fast as where the weights lie; try --load "
        "eager\n",
        large);
  if (drift > 1.25)
    text += fmt::format("the machine is busy: its limits moved by a factor of {:.1f} during a row\n", drift);
  return text;
}

std::string csv(const ordered_json& rows) {
  constexpr const char* kColumns[] = {
      "model",          "layers",      "quant",           "threads",
      "test",           "tokens",      "depth",           "batch",
      "skipped",        "tok_s",       "bytes_per_token", "operations_per_token",
      "limit",          "limit_share", "memory_read_GBs", "large_pages_GBs",
      "float32_GFLOPs", "int8_GOPs",   "drift",           "resident_GB"};
  std::string text = fmt::format("{}\n", fmt::join(kColumns, ","));
  for (const ordered_json& row : rows) {
    std::vector<std::string> cells;
    for (const char* column : kColumns)
      cells.push_back(row[column].is_number_float() ? fmt::format("{:.6g}", row[column].get<double>())
                      : row[column].is_string()     ? row[column].get<std::string>()
                                                    : row[column].dump());
    text += fmt::format("{}\n", fmt::join(cells, ","));
  }
  return text;
}

int run_bench(const Options& options) {
  const Result<ordered_json> rows = measure(options);
  if (!rows.ok()) return fail(rows.status());
  if (!options.csv.empty())
    if (const Status status = write_text_file(options.csv, csv(*rows)); !status.ok()) return fail(status);
  return print_output(options.json ? to_text(*rows, 2) + "\n" : table(*rows));
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
  CLI::Option* prompts =
      command
          ->add_option("-p,--prompt", options->work.prompts,
                       "tokens of prefills (default 128,512,2048, as the context allows; 0: none)")
          ->delimiter(',')
          ->check(CLI::Range(0, 1 << 24));
  command->add_option("-n,--tokens", options->work.tokens, "tokens a sequence decodes (default 16; 0: none)")
      ->check(CLI::Range(0, 1 << 24));
  CLI::Option* depths =
      command
          ->add_option("--depth", options->work.depths,
                       "tokens in the context when decoding (default 0,2048,8192, as the context allows)")
          ->delimiter(',')
          ->check(CLI::Range(0, 1 << 24));
  command->add_option("--batch", options->work.batches, "sequences decoded together (default 1,4,8)")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024));
  command
      ->add_option("--repeats", options->work.repeats,
                   "runs to take the median of, for 15 s at most (default 3)")
      ->check(CLI::Range(1, 1000));
  add_saliency_options(*command, options->engine);
  command->add_flag("--ops", options->ops, "show what each operation took and moved, too");
  command->add_option("--csv", options->csv, "write the table to this file as well");
  command->add_flag("--json", options->json, "print the rows as a JSON array");
  command->footer(
      "\nof limit: the time that the bytes of weights and cache take at the memory's probed speed, or the "
      "products at\n"
      "the multipliers' if that is longer, as a share of the time taken: each run by what was probed just "
      "before "
      "and\n"
      "after it, and the median run. Bytes are of the experts really chosen.");
  options->synth.threads = 0;
  command->callback([options, prompts, depths, &run] {
    options->prompts_given = prompts->count() > 0;
    options->depths_given = depths->count() > 0;
    std::erase(options->work.prompts, 0);
    if (options->work.depths.empty() || options->work.batches.empty()) options->work.tokens = 0;
    run = [options] { return run_bench(*options); };
  });
}

}  // namespace moebius
