#include "tools/zeda_report.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include <fmt/format.h>

#include "engine/engine.h"
#include "engine/prompt.h"
#include "engine/zeda/usage.h"
#include "tools/chat_interrupt.h"
#include "tools/eval_tasks.h"
#include "tools/eval_text.h"
#include "tools/progress.h"
#include "tools/statistics.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kTasksAtOnce = 16;
constexpr int64_t kMaxAnswer = 512;
constexpr int64_t kSpeedTokens = 512;  // decoded for a speed

struct Options {
  EngineOptions engine;
  std::string data, tasks, against;
  int64_t limit = 0, repeats = 9;
  bool json = false;
};

ordered_json count_json(const SlotCount& c) { return {{"zero_rate", c.rate()}, {"slots", c.slots}}; }

class Report {
 public:
  explicit Report(Options options) : options_(std::move(options)) {}

  Result<ordered_json> run() {
    EngineOptions& e = options_.engine;
    if (e.model.empty()) {
      MOEBIUS_ASSIGN(e.model, default_model_dir());
    } else {
      MOEBIUS_ASSIGN(e.model, resolve_model_dir(e.model, hub_cache_dir()));
    }
    if (e.threads == 0) e.threads = physical_cores();
    MOEBIUS_TRY(count_use());
    if (!options_.tasks.empty()) MOEBIUS_TRY(solve());
    if (!options_.against.empty()) MOEBIUS_TRY(compare());
    MOEBIUS_TRY(measure());
    return std::move(report_);
  }

 private:
  Status count_use() {
    MOEBIUS_ASSIGN(const std::unique_ptr<ModelFiles> files, ModelFiles::open(options_.engine.model));
    const ModelConfig& config = files->config();
    if (std::count(config.moe_layer.begin(), config.moe_layer.end(), true) == 0)
      return invalid(fmt::format("{}: a model without routed experts skips none", options_.engine.model));
    MOEBIUS_ASSIGN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::open(options_.engine.model));
    MOEBIUS_ASSIGN(const PromptRenderer prompts, PromptRenderer::open(options_.engine.model));
    MOEBIUS_ASSIGN(const GenerationConfig generation, GenerationConfig::load(options_.engine.model, config));
    DatasetOptions how;
    how.max_tokens = config.context;
    how.too_long = DatasetOptions::TooLong::kCut;
    how.vocab = config.vocab;
    how.stop_ids = generation.eos_ids;
    how.threads = options_.engine.threads;
    MOEBIUS_ASSIGN(data_, Dataset::load(options_.data, *tokenizer, prompts, how));
    ProgressBar bar("count");
    SlotUseOptions use_options;
    use_options.adapter = options_.engine.adapter;
    use_options.skip = {static_cast<float>(options_.engine.skip_threshold),
                        static_cast<float>(options_.engine.skip_minor_threshold)};
    use_options.threads = options_.engine.threads;
    use_options.progress = [&](int64_t done, int64_t total) {
      bar.update(done, total);
      return !interrupts_.take();
    };
    MOEBIUS_ASSIGN(const SlotUse use, count_slots(*files, data_, *tokenizer, use_options));
    report_ = count_json(use.all);
    report_["tokens"] = use.tokens, report_["expert_bytes_per_token"] = use.expert_bytes;
    for (size_t l = 0; l < use.layers.size(); ++l)
      if (use.layers[l].slots > 0) report_["layers"][std::to_string(l)] = count_json(use.layers[l]);
    for (size_t k = 0; k < kTokenKinds; ++k) {
      if (use.kinds[k].slots == 0) continue;
      report_["kinds"][token_kind_name(static_cast<TokenKind>(k))] = count_json(use.kinds[k]);
    }
    return Status();
  }

  // The reference runs as it is, without --skip-threshold.
  EngineOptions reference() const {
    EngineOptions other = options_.engine;
    other.model = options_.against, other.adapter = "";
    other.skip_threshold = other.skip_minor_threshold = 0;
    return other;
  }

  Result<double> accuracy(EngineOptions engine_options, const std::vector<Task>& tasks) const {
    engine_options.sessions = std::min<int64_t>(kTasksAtOnce, std::ssize(tasks));
    MOEBIUS_ASSIGN(const std::unique_ptr<Engine> engine, Engine::open(engine_options));
    MOEBIUS_ASSIGN(const ordered_json solved, evaluate_tasks(*engine, tasks, kMaxAnswer));
    return solved["accuracy"].get<double>();
  }

  Status solve() {
    MOEBIUS_ASSIGN(const std::string text, read_input(options_.tasks));
    MOEBIUS_ASSIGN(const std::vector<Task> tasks,
                   parse_tasks(text, fmt::format("'{}'", printable(options_.tasks)), options_.limit));
    report_["tasks"] = tasks.size();
    MOEBIUS_ASSIGN(const double mine, accuracy(options_.engine, tasks));
    report_["accuracy"] = mine;
    if (options_.against.empty()) return Status();
    MOEBIUS_ASSIGN(const double before, accuracy(reference(), tasks));
    report_["accuracy_before"] = before;
    return Status();
  }

  Status compare() {
    EvalText text;
    text.engine = options_.engine, text.data = options_.data, text.against = options_.against;
    MOEBIUS_ASSIGN(const ordered_json result, evaluate_text(text));
    report_["perplexity"] = result["perplexity"];
    report_["perplexity_before"] = result["against"]["perplexity"];
    report_["kl"] = result["against"]["kl_mean"];
    return Status();
  }

  struct Speed {
    std::unique_ptr<Engine> engine;
    std::unique_ptr<Session> session;
    std::vector<double> tokens_per_s;
  };

  static Result<Speed> open(const EngineOptions& options) {
    Speed speed;
    MOEBIUS_ASSIGN(speed.engine, Engine::open(options));
    MOEBIUS_ASSIGN(speed.session, speed.engine->new_session());
    return speed;
  }

  // Examples are decoded as they stand, since how many experts a token takes depends on the text.
  Status decode(Speed& speed) const {
    double seconds = 0;
    int64_t tokens = 0;
    for (int64_t i = 0; i < data_.size() && tokens < kSpeedTokens; ++i) {
      const Dataset::Example example = data_.example(i);
      const auto first = std::ranges::find(example.mask, uint8_t{1}) - example.mask.begin();
      if (std::ssize(example.ids) >= speed.session->context() || first == 0) continue;
      MOEBIUS_TRY(speed.session->sync(example.ids.first(static_cast<size_t>(first))));
      const auto start = std::chrono::steady_clock::now();
      for (size_t t = static_cast<size_t>(first); t < example.ids.size(); ++t, ++tokens)
        MOEBIUS_TRY(speed.session->append(example.ids[t]));
      seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    speed.tokens_per_s.push_back(static_cast<double>(tokens) / seconds);
    return Status();
  }

  // By turns, each first in every other one, so that what else the machine does meets both.
  Status measure() {
    std::vector<Speed> both;
    MOEBIUS_ASSIGN(Speed mine, open(options_.engine));
    both.push_back(std::move(mine));
    if (!options_.against.empty()) {
      MOEBIUS_ASSIGN(Speed before, open(reference()));
      both.push_back(std::move(before));
    }
    ProgressBar bar("decode");
    for (int64_t i = 0; i < options_.repeats; ++i) {
      for (size_t turn = 0; turn < both.size(); ++turn)
        MOEBIUS_TRY(decode(both[(turn + static_cast<size_t>(i)) % both.size()]));
      bar.update(i + 1, options_.repeats);
      if (interrupts_.take()) return {Code::kCancelled, "interrupted"};
    }
    report_["tokens_per_s"] = median(both[0].tokens_per_s);
    if (both.size() == 1) return Status();
    report_["tokens_per_s_before"] = median(both[1].tokens_per_s);
    std::vector<double> times;  // as fast as before
    for (size_t i = 0; i < both[0].tokens_per_s.size(); ++i)
      times.push_back(both[0].tokens_per_s[i] / both[1].tokens_per_s[i]);
    const Interval interval = median_interval(times);
    report_["times_as_fast"] = {{"median", median(times)}, {"low", interval.low}, {"high", interval.high}};
    return Status();
  }

  Options options_;
  Interrupts interrupts_;
  Dataset data_;
  ordered_json report_;
};

std::string describe(const ordered_json& r) {
  const auto number = [&](const char* name) { return r[name].get<double>(); };
  const auto before = [&](const char* name, const char* format) {
    const std::string key = std::string(name) + "_before";
    return r.contains(key)
               ? fmt::format(", before {}", fmt::format(fmt::runtime(format), r[key].get<double>()))
               : std::string();
  };
  std::string text = fmt::format(
      "skipped {:.2f} % of expert slots over {} tokens; {:.4g} MB of experts a token\n",
      100 * number("zero_rate"), r["tokens"].get<int64_t>(), number("expert_bytes_per_token") / 1e6);
  for (const char* group : {"layers", "kinds"}) {
    for (const auto& [name, count] : r[group].items())
      text += fmt::format("{:6.2f} %  {}{}\n", 100 * count["zero_rate"].get<double>(),
                          group[0] == 'l' ? "layer " : "", name);
  }
  if (r.contains("accuracy")) {
    text += fmt::format("{:.2f} % of {} tasks solved", 100 * number("accuracy"), r["tasks"].get<int64_t>());
    if (r.contains("accuracy_before"))
      text += fmt::format(", before {:.2f} %", 100 * number("accuracy_before"));
    text += "\n";
  }
  if (r.contains("kl"))
    text += fmt::format("perplexity {:.4f}{}; KL {:.5f} nats\n", number("perplexity"),
                        before("perplexity", "{:.4f}"), number("kl"));
  text += fmt::format("{:.1f} tok/s{}", number("tokens_per_s"), before("tokens_per_s", "{:.1f}"));
  if (r.contains("times_as_fast")) {
    const ordered_json& times = r["times_as_fast"];
    text += fmt::format(": {:.2f} times as fast (95 %: {:.2f} to {:.2f})", times["median"].get<double>(),
                        times["low"].get<double>(), times["high"].get<double>());
  }
  return text + "\n";
}

}  // namespace

void add_zeda_report(CLI::App& zeda, Run& run) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command = zeda.add_subcommand(
      "report", "what a model skips, by layer and kind of token, and what that costs and gives");
  command->option_defaults()->take_last();
  add_engine_options(*command, o.engine);
  command->add_option("--data", o.data, "examples to count on: JSONL as `moebius finetune` reads it")
      ->required();
  command->add_option("--tasks", o.tasks, "tasks to solve, as `moebius eval` reads them");
  command->add_option("--limit", o.limit, "only the first N tasks (default 0: all)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--against", o.against,
                      "the model it was made from: also its accuracy, perplexity, divergence and speed");
  command->add_option("--repeats", o.repeats, "of the decode speed, whose median is printed (default 9)")
      ->check(CLI::PositiveNumber);
  command->add_flag("--json", o.json, "print one JSON object");
  command->callback([options, &run] {
    run = [options] {
      const Result<ordered_json> report = Report(*options).run();
      if (!report.ok()) return fail(report.status());
      return print_output(options->json ? to_text(*report) + "\n" : describe(*report));
    };
  });
}

}  // namespace moebius
