// moebius quantize: a checkpoint with its weights packed into int8 or int4.
#include "engine/quantize.h"

#include <chrono>
#include <cmath>
#include <memory>

#include <fmt/format.h>

#include "engine/calibration_text.h"
#include "engine/options.h"
#include "kernels/backend.h"
#include "models/file_io.h"
#include "tools/chat_interrupt.h"
#include "tools/command.h"
#include "tools/eval_text.h"
#include "tools/model_cost.h"
#include "tools/progress.h"
#include "tools/synth_folder.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kOtherBytes = 64 << 20;  // tokenizer, configuration, headers and index, amply
constexpr int64_t kCalibrationWindow = 2048;

struct Options {
  std::string model, out, calibrate, report_text;
  QuantizeOptions quantize;
  bool experts_only = false, json = false;
  int64_t calibrate_tokens = 8192;
  int threads = 0;
};

struct Report {
  QuantizePlan plan;
  QuantizeErrors errors{};
  int64_t calibrated = 0;  // tokens
  ordered_json evaluation;
  double seconds = 0;  // of packing and writing
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Result<ColumnWeights> calibrate(const ModelFiles& files, const Options& options, Interrupts& interrupts,
                                int64_t* tokens) {
  const std::string& dir = files.checkpoint().dir();
  MOEBIUS_ASSIGN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::open(dir));
  MOEBIUS_ASSIGN(const PromptRenderer prompts, PromptRenderer::open(dir));
  const int64_t window = std::min(kCalibrationWindow, files.config().context);
  MOEBIUS_ASSIGN(const CalibrationText text,
                 read_calibration_text(options.calibrate, files.config(), *tokenizer, prompts,
                                       {options.calibrate_tokens, window, options.threads}));
  *tokens = text.tokens;
  ProgressBar bar("calibrate");
  return column_weights(files, text.sequences, {options.threads, [&](int64_t done, int64_t total) {
                                                  bar.update(done, total);
                                                  return !interrupts.take();
                                                }});
}

Result<Report> quantize(const Options& options) {
  std::string model = options.model;
  if (model.empty()) {
    MOEBIUS_ASSIGN(model, default_model_dir());
  } else {
    MOEBIUS_ASSIGN(model, resolve_model_dir(model, hub_cache_dir()));
  }
  MOEBIUS_ASSIGN(const std::unique_ptr<ModelFiles> files, ModelFiles::open(model));
  Report report;
  MOEBIUS_ASSIGN(report.plan, plan_quantize(*files, options.quantize));
  MOEBIUS_ASSIGN(FolderInMaking folder,
                 FolderInMaking::create(options.out, report.plan.bytes + kOtherBytes, {}, ""));
  Interrupts interrupts;
  QuantizeRun run;
  run.threads = options.threads;
  if (!options.calibrate.empty()) {
    MOEBIUS_ASSIGN(run.weights, calibrate(*files, options, interrupts, &report.calibrated));
  }
  const auto start = std::chrono::steady_clock::now();
  ProgressBar bar("quantize, MB");
  run.progress = [&](int64_t done, int64_t total) {
    bar.update(done / 1'000'000, total / 1'000'000);
    return !interrupts.take();
  };
  MOEBIUS_ASSIGN(report.errors, write_quantized(*files, report.plan, folder.dir(), run));
  MOEBIUS_TRY(folder.commit());
  report.seconds = seconds_since(start);
  bar.clear();
  if (report.plan.plain_experts > 0 && report.errors[static_cast<size_t>(Role::kAttention)].weights > 0) {
    fmt::print(
        stderr,
        "moebius: transformers (seen with 5.23) does not load plain experts beside other packed weights, as "
        "this model now has\n");
  }
  for (const std::string& note : files->notes()) fmt::print(stderr, "moebius: {}\n", note);
  if (!options.report_text.empty()) {
    EvalText eval;
    eval.engine.model = options.out;
    eval.engine.threads = options.threads;
    eval.text = options.report_text;
    eval.against = model;
    MOEBIUS_ASSIGN(report.evaluation, evaluate_text(eval));
  }
  return report;
}

struct ClassCost {
  int64_t weights = 0, bytes = 0;
  double error = 0;  // relative, of what is packed
  bool packed = false;
};

ClassCost cost_of(const Report& report, Role role) {
  ClassCost cost;
  for (const QuantizeMatrix& m : report.plan.matrices) {
    if (m.role != role) continue;
    cost.weights += m.w.rows * m.w.cols, cost.bytes += m.bytes_after;
    cost.packed |= m.packed;
  }
  const QuantizeError& e = report.errors[static_cast<size_t>(role)];
  if (e.square > 0) cost.error = std::sqrt(e.error / e.square);
  return cost;
}

double bits(int64_t bytes, int64_t weights) {
  return weights > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(weights) : 0;
}

ordered_json to_json(const Options& options, const Report& report) {
  ordered_json classes = ordered_json::object();
  int64_t weights = 0, bytes = 0, before = 0;
  for (const QuantizeMatrix& m : report.plan.matrices) before += m.w.bytes();
  for (size_t i = 0; i < kRoleCount; ++i) {
    const ClassCost cost = cost_of(report, static_cast<Role>(i));
    if (cost.weights == 0) continue;
    weights += cost.weights, bytes += cost.bytes;
    classes[role_name(static_cast<Role>(i))] = {
        {"weights", cost.weights},
        {"bits_per_weight", bits(cost.bytes, cost.weights)},
        {"relative_error", cost.packed ? ordered_json(cost.error) : ordered_json(nullptr)}};
  }
  ordered_json json = {{"out", options.out},
                       {"format", format_name(options.quantize.format)},
                       {"group", options.quantize.group},
                       {"bytes", report.plan.bytes},
                       {"files", report.plan.shards.size()},
                       {"bits_per_weight", bits(bytes, weights)},
                       {"bits_per_weight_before", bits(before, weights)},
                       {"calibration_tokens", report.calibrated},
                       {"dropped_tensors", report.plan.dropped},
                       {"seconds", report.seconds},
                       {"classes", classes}};
  if (!report.evaluation.is_null()) json["evaluation"] = report.evaluation;
  return json;
}

std::string to_words(const Options& options, const ordered_json& f) {
  const auto number = [](const ordered_json& value) { return value.get<double>(); };
  std::string text = fmt::format(
      "{}: {} in groups of {}, {:.2f} bits per weight ({:.2f} before), {:.2f} GB in {} file{}, {:.1f} s\n\n"
      "class            weights, M   bits   relative error\n",
      printable(options.out, 4096), f["format"].get<std::string>(), f["group"].dump(),
      number(f["bits_per_weight"]), number(f["bits_per_weight_before"]), number(f["bytes"]) * 1e-9,
      f["files"].dump(), f["files"] == 1 ? "" : "s", number(f["seconds"]));
  for (const auto& [name, c] : f["classes"].items()) {
    const ordered_json& error = c["relative_error"];
    text += fmt::format("{:<16} {:>10.2f} {:>6.2f}   {}\n", name, number(c["weights"]) * 1e-6,
                        number(c["bits_per_weight"]),
                        error.is_null() ? "kept" : fmt::format("{:.3f} %", 100 * number(error)));
  }
  if (f["calibration_tokens"] != 0)
    text +=
        fmt::format("errors were weighed by the activations of {} tokens\n", f["calibration_tokens"].dump());
  if (f.contains("evaluation")) return text + "\n" + describe_evaluation(f["evaluation"]);
  return text + fmt::format("\nto compare them: moebius eval -m {} --against {} --text F\n", options.out,
                            options.model.empty() ? "MODEL" : options.model);
}

int run_quantize(Options options) {
  if (options.threads == 0) options.threads = physical_cores();
  if (options.experts_only)
    for (const char* role : {"attention", "dense", "shared", "head"})
      options.quantize.keep.emplace_back(role);
  const Result<Report> report = quantize(options);
  if (!report.ok()) return fail(report.status());
  const ordered_json facts = to_json(options, *report);
  return print_output(options.json ? to_text(facts, 2) + "\n" : to_words(options, facts));
}

}  // namespace

void add_quantize(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command =
      app.add_subcommand("quantize", "pack a model's weights into int8 or int4: a new checkpoint");
  command->add_option(
      "-m,--model", o.model,
      "checkpoint folder, or a Hugging Face id already in the cache (default: the shipped model)");
  command->add_option("-o,--out", o.out, "folder to write, which must be new or empty")->required();
  add_choice<Format>(*command, "--format", o.quantize.format,
                     {{"int4", Format::kInt4}, {"int8", Format::kInt8}}, "of packed weights (default int4)");
  command->add_option("--group", o.quantize.group, "columns per scale, a multiple of 32 (default 32)")
      ->check(CLI::Range(32, 65536))
      ->check([](const std::string& text) {
        return std::stoll(text) % kActivationGroup == 0 ? std::string() : "groups must be a multiple of 32";
      });
  const char* names =
      "attention, dense, shared, experts, head, or modules: whole names, their first or last "
      "parts (kv_b_proj), re:REGEX";
  command->add_option("--keep", o.quantize.keep, fmt::format("what stays as it is: {}", names))
      ->delimiter(',');
  command->add_flag(
      "--experts-only", o.experts_only,
      "pack routed experts alone, as Kimi-K2-Thinking does: --keep attention,dense,shared,head");
  command->add_option("--calibrate", o.calibrate,
                      "text, or .jsonl as finetune reads it: weigh errors by the activations it gives");
  command->add_option("--calibrate-tokens", o.calibrate_tokens, "to take of it, evenly (default 8192)")
      ->check(CLI::Range(1, 1 << 30));
  command->add_option("--report-text", o.report_text,
                      "text to measure perplexity and divergence from the original on, at the end");
  command->add_option("-t,--threads", o.threads, "CPU threads (default: one per physical core)")
      ->check(CLI::Range(0, 4096));
  command->add_flag("--json", o.json, "print the report as JSON");
  command->footer(
      "\nThe embedding, routers and norms always stay. The output is in compressed-tensors' pack-quantized\n"
      "layout, which this program, transformers and vLLM read.");
  command->callback([options, &run] { run = [options] { return run_quantize(*options); }; });
}

}  // namespace moebius
