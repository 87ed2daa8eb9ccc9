// moebius tenp: a smaller checkpoint, without the neurons of routed experts that do least.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>

#include <fmt/format.h>

#include "engine/calibration_text.h"
#include "engine/options.h"
#include "engine/prune/calibration.h"
#include "engine/prune/pruned_checkpoint.h"
#include "models/file_io.h"
#include "tools/chat_interrupt.h"
#include "tools/command.h"
#include "tools/progress.h"
#include "tools/synth_folder.h"
#include "tools/tenp_view.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

constexpr int64_t kOtherBytes = 64 << 20;  // tokenizer, configuration, headers and index, amply
constexpr int64_t kLeastTokens = 32;       // of an expert, to score its neurons by

struct Options {
  std::string model, calibrate, scores, out, picture, depth = "1:2";
  PruneRequest request;
  int64_t tokens = 32768, window = 2048;
  int threads = 0;
  bool dry_run = false, json = false;
};

struct Report {
  nlohmann::ordered_json json;
  std::string text;
};

int threads_of(const Options& options) { return options.threads > 0 ? options.threads : physical_cores(); }

// "1:2"
Status parse_depth(const std::string& text, PruneRequest& request) {
  char* end = nullptr;
  request.first_depth = std::strtod(text.c_str(), &end);
  const bool first = end != text.c_str() && *end == ':';
  const char* second = first ? end + 1 : end;
  request.last_depth = std::strtod(second, &end);
  if (first && end != second && *end == '\0') return Status();
  return invalid(fmt::format("--depth-weights '{}' is not FIRST:LAST, as 1:2 is", printable(text)));
}

Status check(const Options& o) {
  if (o.calibrate.empty() && o.scores.empty())
    return invalid(
        "nothing to go by: give a text with --calibrate, or scores of an earlier run, or of `moebius serve "
        "--saliency`, with --scores");
  const bool only_scores = !o.calibrate.empty() && !o.scores.empty();
  if (o.out.empty() && !o.dry_run && !only_scores)
    return invalid("nowhere to write to: give --out, or --dry-run to see the plan alone");
  return Status();
}

class Pruning {
 public:
  explicit Pruning(const Options& options) : options_(options) {}

  Result<Report> run() {
    MOEBIUS_TRY(check(options_));
    PruneRequest request = options_.request;
    MOEBIUS_TRY(parse_depth(options_.depth, request));
    MOEBIUS_TRY(open());
    // What is wrong with the request or the folder shows before the work.
    MOEBIUS_ASSIGN(PrunePlan plan, plan_pruning(*files_, no_scores(files_->config()), request));
    if (!options_.out.empty()) {
      MOEBIUS_ASSIGN(const FolderInMaking probe, FolderInMaking::create(options_.out, 0, {}, ""));
    }
    MOEBIUS_ASSIGN(scores_, score());
    score_rare();
    MOEBIUS_ASSIGN(plan, plan_pruning(*files_, scores_, request));
    MOEBIUS_ASSIGN(const PrunedCheckpoint pruned, PrunedCheckpoint::create(*files_, plan));
    if (!options_.picture.empty()) {
      MOEBIUS_TRY(write_text_file(options_.picture,
                                  plan_picture(plan, scores_, fmt::format("{} pruned", options_.model))));
    }
    if (!options_.out.empty() && !options_.dry_run) MOEBIUS_TRY(write(pruned));
    return report(plan, pruned.sizes());
  }

 private:
  Status open() {
    if (options_.model.empty()) {
      MOEBIUS_ASSIGN(options_.model, default_model_dir());
    } else {
      MOEBIUS_ASSIGN(options_.model, resolve_model_dir(options_.model, hub_cache_dir()));
    }
    MOEBIUS_ASSIGN(files_, ModelFiles::open(options_.model));
    return check_prunable(*files_);
  }

  Result<PruneScores> score() {
    if (options_.calibrate.empty()) return read_scores(options_.scores, *files_);
    MOEBIUS_ASSIGN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::open(options_.model));
    MOEBIUS_ASSIGN(const PromptRenderer prompts, PromptRenderer::open(options_.model));
    const int64_t window = std::min(options_.window, files_->config().context);
    MOEBIUS_ASSIGN(const CalibrationText text,
                   read_calibration_text(options_.calibrate, files_->config(), *tokenizer, prompts,
                                         {options_.tokens, window, threads_of(options_)}));
    Interrupts interrupts;
    ProgressBar bar("calibrate, tokens x layers");
    CalibrationOptions how;
    how.threads = threads_of(options_);
    how.progress = [&](int64_t done, int64_t total) {
      bar.update(done, total);
      return !interrupts.take();
    };
    const auto start = std::chrono::steady_clock::now();
    Result<PruneScores> scores = calibrate(*files_, text.sequences, how);
    bar.clear();
    if (!scores.ok()) return scores.status();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    notes_.push_back(
        fmt::format("calibrated on {} of {} tokens in {:.1f} s", text.tokens, text.of_file, seconds));
    if (!options_.scores.empty()) MOEBIUS_TRY(write_scores(options_.scores, *files_, *scores));
    return scores;
  }

  void score_rare() {
    const std::vector<RareExpert> rare = score_rare_experts(files_->weights(), kLeastTokens, scores_);
    if (rare.empty()) return;
    const RareExpert& least = *std::ranges::min_element(rare, {}, &RareExpert::tokens);
    notes_.push_back(
        fmt::format("{} of {} experts had fewer than {} tokens (the rarest, layer {} expert {}, had {}): "
                    "their neurons go "
                    "by the norms of their weights; calibrate on more text for better",
                    rare.size(), scores_.experts * std::ssize(scores_.layers), kLeastTokens, least.layer,
                    least.expert, least.tokens));
  }

  Status write(const PrunedCheckpoint& pruned) {
    MOEBIUS_ASSIGN(FolderInMaking folder,
                   FolderInMaking::create(options_.out, pruned.sizes().bytes + kOtherBytes, {}, ""));
    Interrupts interrupts;
    ProgressBar bar("write, MB");
    PruneWriteOptions how;
    how.threads = threads_of(options_);
    how.progress = [&](int64_t done, int64_t total) {
      bar.update(done / 1'000'000, total / 1'000'000);
      return !interrupts.take();
    };
    MOEBIUS_TRY(pruned.write(folder.dir(), how));
    return folder.commit();
  }

  Report report(const PrunePlan& plan, const PruneSizes& sizes) {
    if (sizes.shared != sizes.shared_before) {
      notes_.push_back(
          fmt::format("the shared experts' {} neurons are filled up with zeros to {}, a multiple of the "
                      "routed experts' {}, "
                      "as other programs expect",
                      sizes.shared_before, sizes.shared, plan.widest()));
    }
    for (const std::string& note : notes_) fmt::print(stderr, "moebius: {}\n", note);
    Report report;
    report.json = plan_json(plan, scores_);
    report.json["calibration_tokens"] = scores_.tokens;
    report.json["bytes"] = sizes.bytes, report.json["bytes_before"] = sizes.bytes_before;
    report.json["expert_bytes"] = sizes.expert_bytes;
    report.json["expert_bytes_before"] = sizes.expert_bytes_before;
    const PlanRow total = plan_total(plan, scores_);
    const auto gb = [](int64_t bytes) { return static_cast<double>(bytes) / 1e9; };
    if (options_.dry_run) report.text = plan_table(plan, scores_);
    report.text += fmt::format(
        "{}: {}, {:.2f} % of routed neurons kept, {:.2f} % of a token's{}; {:.4g} of {:.4g} GB\n",
        options_.dry_run ? "plan" : printable(options_.out.empty() ? options_.scores : options_.out, 4096),
        method_name(plan.method), 100 * total.kept, 100 * total.of_token, plan.halves ? ", in halves" : "",
        gb(sizes.bytes), gb(sizes.bytes_before));
    return report;
  }

  Options options_;
  std::unique_ptr<ModelFiles> files_;
  PruneScores scores_;
  std::vector<std::string> notes_;
};

int run_tenp(const Options& options) {
  Pruning pruning(options);
  const Result<Report> report = pruning.run();
  if (!report.ok()) return fail(report.status());
  return print_output(options.json ? to_text(report->json) + "\n" : report->text);
}

void add_plan_options(CLI::App& command, Options& o) {
  add_choice<PruneMethod>(
      command, "--method", o.request.method,
      {{"tenp", PruneMethod::kTenp},
       {"enp", PruneMethod::kEnp},
       {"usage", PruneMethod::kUsage},
       {"gate", PruneMethod::kGate},
       {"random", PruneMethod::kRandom},
       {"drop", PruneMethod::kDrop}},
      "what goes (default tenp: full experts by importance, the others' neurons by score; "
      "usage, gate: full experts by tokens or gate weights; random: both at random; enp: "
      "all experts equally wide; drop: whole experts)");
  command.add_option("--keep", o.request.keep,
                     "share of the routed experts' neurons to keep, above 0 and at most 1 (default 0.6)");
  command.add_option("--full-experts", o.request.full,
                     "share of the experts that keep all, of tenp, usage, gate and random (default: half of "
                     "--keep)");
  command.add_option("--depth-weights", o.depth,
                     "FIRST:LAST, how many full experts the first and the last layer have, in proportion "
                     "(default 1:2)");
  command
      .add_option("--multiple", o.request.multiple,
                  "of which widths are multiples (default: 64, 128 for FP8; less in narrow experts)")
      ->check(CLI::PositiveNumber);
  command.add_option("--seed", o.request.seed, "of --method random (default 1)");
  command.add_flag(
      "--halves", o.request.halves,
      "write each expert as two, its better neurons and the others, for --skip-minor-threshold; with "
      "--keep 1 the model computes what it did");
}

}  // namespace

void add_tenp(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command = app.add_subcommand("tenp", "prune neurons of routed experts: a smaller checkpoint");
  command->option_defaults()->take_last();
  command->add_option(
      "-m,--model", o.model,
      "checkpoint folder, or a Hugging Face id already in the cache (default: the shipped model)");
  command->add_option("--calibrate", o.calibrate,
                      "text, or JSONL as `moebius finetune` reads it, like what the model will be used for");
  command->add_option(
      "--scores", o.scores,
      "file of scores: written with --calibrate, read without, for further plans; `moebius serve "
      "--saliency` writes one, too");
  command->add_option("-o,--out", o.out, "folder to write, which must be new or empty");
  add_plan_options(*command, o);
  command
      ->add_option("--tokens", o.tokens, "most tokens to calibrate on, evenly over the file (default 32768)")
      ->check(CLI::PositiveNumber);
  command->add_option("--window", o.window, "longest sequence of these (default 2048, at most the context)")
      ->check(CLI::PositiveNumber);
  command->add_flag("--dry-run", o.dry_run, "print the plan as a table and write no checkpoint");
  command->add_option("--picture", o.picture,
                      "file for a picture of the plan (SVG): layers and experts by width");
  command->add_option("-t,--threads", o.threads, "CPU threads (default: one per physical core)")
      ->check(CLI::Range(0, 4096));
  command->add_flag("--json", o.json, "print plan and summary as JSON");
  command->footer(
      "\nRouter, attention and shared experts stay as they are. Columns of a quantised down_proj are "
      "quantised\n"
      "again where those that shared a scale part. Experts of unequal width run in Moebius; with --method "
      "enp or\n"
      "drop the result is an ordinary checkpoint.");
  command->callback([options, &run] { run = [options] { return run_tenp(*options); }; });
}

}  // namespace moebius
