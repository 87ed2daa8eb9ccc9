#include "tools/eval_text.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include <fmt/format.h>

#include "engine/engine.h"
#include "engine/train/dataset.h"
#include "kernels/tensor.h"
#include "models/file_io.h"
#include "tools/eval_score.h"
#include "tools/progress.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kDefaultWindow = 2048;

struct Model {
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Session> session;
};

Result<Model> open_model(const EngineOptions& options) {
  Model model;
  MOEBIUS_ASSIGN(model.engine, Engine::open(options));
  MOEBIUS_ASSIGN(model.session, model.engine->new_session());
  return model;
}

struct Text {
  std::vector<int32_t> prefix;  // put before every window, never scored
  std::vector<int32_t> ids;
  std::vector<uint8_t> counts;    // of each id; empty: all
  std::vector<int64_t> examples;  // where each begins, and the end; empty: it is one text
};

// The examples one after another; of a conversation, only what an assistant says counts.
Result<Text> read_examples(const EvalText& options, const Engine& engine) {
  if (!engine.has_tokenizer())
    return not_found("this model has no tokenizer; add tokenizer.json to its folder");
  MOEBIUS_ASSIGN(const PromptRenderer prompts, PromptRenderer::open(engine.options().model));
  DatasetOptions how;
  how.max_tokens = engine.options().context;
  how.vocab = engine.config().vocab;
  how.stop_ids = engine.generation().eos_ids;
  how.threads = engine.options().threads;
  MOEBIUS_ASSIGN(const Dataset data, Dataset::load(options.data, engine.tokenizer(), prompts, how));
  Text out;
  for (int64_t i = 0; i < data.size(); ++i) {
    const Dataset::Example example = data.example(i);
    out.examples.push_back(std::ssize(out.ids));
    out.ids.insert(out.ids.end(), example.ids.begin(), example.ids.end());
    out.counts.insert(out.counts.end(), example.mask.begin(), example.mask.end());
  }
  out.examples.push_back(std::ssize(out.ids));
  if (data.counted() == 0)
    return invalid(fmt::format("'{}' holds nothing that counts; it needs an assistant's turns, or texts",
                               printable(options.data)));
  return out;
}

Result<Text> read_text(const EvalText& options, const Engine& engine) {
  if (!options.data.empty()) return read_examples(options, engine);
  Text out;
  if (!options.ids_file.empty()) {
    MOEBIUS_ASSIGN(const std::string list, read_input(options.ids_file));
    MOEBIUS_ASSIGN(out.ids, parse_ids(list, fmt::format("'{}'", printable(options.ids_file))));
  } else {
    if (!engine.has_tokenizer()) {
      return not_found("this model has no tokenizer; add tokenizer.json to its folder, or pass --ids-file");
    }
    MOEBIUS_ASSIGN(const std::string text, read_input(options.text));
    MOEBIUS_ASSIGN(out.ids, engine.tokenizer().encode(text, {.add_special = false, .parse_special = false}));
    if (!options.no_special) {
      MOEBIUS_ASSIGN(const auto framed, engine.tokenizer().encode("a", {.add_special = true}));
      MOEBIUS_ASSIGN(const auto plain, engine.tokenizer().encode("a", {.add_special = false}));
      const auto at = std::search(framed.begin(), framed.end(), plain.begin(), plain.end());
      if (at != framed.end()) out.prefix.assign(framed.begin(), at);
    }
  }
  MOEBIUS_TRY(check_ids(out.ids, engine.config().vocab));
  if (out.ids.size() + (out.prefix.empty() ? 0 : 1) < 2) {
    return invalid(fmt::format("the text has {} tokens; scoring needs at least 2", out.ids.size()));
  }
  return out;
}

class Evaluation {
 public:
  Evaluation(const Text& text, std::vector<Window> windows) : text_(text), windows_(std::move(windows)) {}

  Status run(Model& model, Model* reference) {
    int64_t total = 0;
    for (const Window& window : windows_) total += window_size(window) * (reference ? 2 : 1);
    ProgressBar bar("eval");
    for (const Window& window : windows_) {
      if (reference) MOEBIUS_TRY(run_reference(*reference, window, &bar, total));
      MOEBIUS_TRY(rows(
          model, window,
          [&](int64_t position, std::span<const float> logits) -> Status {
            MOEBIUS_ASSIGN(const double nats, token_nats(logits, text_.ids[static_cast<size_t>(position)]));
            nats_ += nats;
            ++scored_;
            if (!reference) return {};
            const float* kept = kept_.as<float>() + (position - window.scored) * vocab(model);
            MOEBIUS_ASSIGN(const Comparison comparison, compare_rows({kept, logits.size()}, logits));
            divergences_.push_back(comparison.divergence);
            same_top_ += comparison.same_top;
            return {};
          },
          &bar, total));
    }
    return {};
  }

  ordered_json report() const {
    const double mean = nats_ / static_cast<double>(scored_);
    return {{"tokens", text_.ids.size()}, {"scored", scored_},
            {"windows", windows_.size()}, {"nats", nats_},
            {"nats_per_token", mean},     {"perplexity", std::exp(mean)}};
  }

  ordered_json comparison() const {
    const double mean = reference_nats_ / static_cast<double>(scored_);
    const Distribution kl = summarize(divergences_);
    return {{"nats_per_token", mean},
            {"perplexity", std::exp(mean)},
            {"kl_mean", kl.mean},
            {"kl_median", kl.median},
            {"kl_p99", kl.p99},
            {"kl_max", kl.max},
            {"top1_agreement", static_cast<double>(same_top_) / static_cast<double>(scored_)}};
  }

 private:
  using OnRow = std::function<Status(int64_t position, std::span<const float> logits)>;

  static int64_t vocab(const Model& model) { return model.engine->config().vocab; }

  int64_t window_size(const Window& window) const {
    return static_cast<int64_t>(text_.prefix.size()) + window.end - window.begin;
  }

  // Calls on_row with the logits that predict each scored token of the window, by its position in the text.
  Status rows(Model& model, const Window& window, const OnRow& on_row, ProgressBar* bar, int64_t total) {
    std::vector<int32_t> input = text_.prefix;
    input.insert(input.end(), text_.ids.begin() + window.begin, text_.ids.begin() + window.end);
    const int64_t width = vocab(model);
    const int64_t offset = window.begin - static_cast<int64_t>(text_.prefix.size()) + 1;
    return model.session->sync_all(input, [&](int64_t first, std::span<const float> logits) -> Status {
      const int64_t count = static_cast<int64_t>(logits.size()) / width;
      for (int64_t row = 0; row < count; ++row) {
        const int64_t position = first + row + offset;
        if (position < window.scored || position >= window.end) continue;
        if (!text_.counts.empty() && text_.counts[static_cast<size_t>(position)] == 0) continue;
        MOEBIUS_TRY(
            on_row(position, logits.subspan(static_cast<size_t>(row * width), static_cast<size_t>(width))));
      }
      bar->update(done_ += count, total);
      return {};
    });
  }

  // Keeps the reference's logits of one window in memory, so that the two models never run at the same time.
  Status run_reference(Model& reference, const Window& window, ProgressBar* bar, int64_t total) {
    const size_t width = static_cast<size_t>(vocab(reference));
    const size_t bytes = static_cast<size_t>(window.end - window.scored) * width * sizeof(float);
    if (kept_.bytes() < bytes) {
      kept_.reset();
      MOEBIUS_ASSIGN(kept_, Buffer::host(bytes));
    }
    return rows(
        reference, window,
        [&](int64_t position, std::span<const float> logits) -> Status {
          MOEBIUS_ASSIGN(const double nats, token_nats(logits, text_.ids[static_cast<size_t>(position)]));
          reference_nats_ += nats;
          std::copy(logits.begin(), logits.end(),
                    kept_.as<float>() + static_cast<size_t>(position - window.scored) * width);
          return {};
        },
        bar, total);
  }

  const Text& text_;
  std::vector<Window> windows_;
  int64_t done_ = 0, scored_ = 0, same_top_ = 0;
  double nats_ = 0, reference_nats_ = 0;
  std::vector<double> divergences_;
  Buffer kept_;
};

Result<std::vector<Window>> windows_of(const EvalText& options, const Text& text, int64_t context) {
  if (!text.examples.empty()) {
    std::vector<Window> windows;
    for (size_t i = 0; i + 1 < text.examples.size(); ++i)
      windows.push_back({text.examples[i], text.examples[i + 1], text.examples[i] + 1});
    return windows;
  }
  const int64_t room = context - static_cast<int64_t>(text.prefix.size());
  const int64_t size = options.window > 0 ? options.window : std::min(room, kDefaultWindow);
  const int64_t stride = options.stride > 0 ? options.stride : size;
  const int64_t least = text.prefix.empty() ? 2 : 1;
  if (size < least || size > room) {
    return invalid(
        fmt::format("--window is {}; with this context it must be {} to {} tokens", size, least, room));
  }
  if (stride > size) {
    return invalid(fmt::format("--stride is {}; it must be at most the window of {} tokens", stride, size));
  }
  return plan_windows(static_cast<int64_t>(text.ids.size()), size, stride, !text.prefix.empty());
}

}  // namespace

Result<ordered_json> evaluate_text(const EvalText& options) {
  MOEBIUS_ASSIGN(Model model, open_model(options.engine));
  Model reference;
  if (!options.against.empty()) {
    EngineOptions other = options.engine;
    other.model = options.against;
    other.adapter = "", other.skip_threshold = other.skip_minor_threshold = 0;  // it runs as it is
    MOEBIUS_ASSIGN(reference, open_model(other));
    const int64_t vocab = model.engine->config().vocab, other_vocab = reference.engine->config().vocab;
    if (vocab != other_vocab) {
      return invalid(
          fmt::format("the models have vocabularies of {} and {} tokens; only models with the same "
                      "tokenizer can be compared",
                      vocab, other_vocab));
    }
  }
  MOEBIUS_ASSIGN(const Text text, read_text(options, *model.engine));
  int64_t context = model.session->context();
  if (reference.session) context = std::min(context, reference.session->context());
  MOEBIUS_ASSIGN(const std::vector<Window> windows, windows_of(options, text, context));

  for (const Model* each : {&model, &reference}) {
    if (!each->engine) continue;
    for (const std::string& note : each->engine->notes()) fmt::print(stderr, "moebius: {}\n", note);
  }
  Evaluation evaluation(text, windows);
  MOEBIUS_TRY(evaluation.run(model, reference.session ? &reference : nullptr));
  ordered_json report = evaluation.report();
  if (reference.session) report["against"] = evaluation.comparison();
  return report;
}

std::string describe_evaluation(const ordered_json& report) {
  std::string text = fmt::format("perplexity {:.4f} ({:.6f} nats per token over {} scored of {} tokens)\n",
                                 report["perplexity"].get<double>(), report["nats_per_token"].get<double>(),
                                 report["scored"].get<int64_t>(), report["tokens"].get<int64_t>());
  if (!report.contains("against")) return text;
  const ordered_json& against = report["against"];
  const auto number = [&](const char* name) { return against[name].get<double>(); };
  text += fmt::format("perplexity of the reference {:.4f}\n", number("perplexity"));
  text +=
      fmt::format("KL from the reference, nats: mean {:.6g}, median {:.6g}, 99 % {:.6g}, maximum {:.6g}\n",
                  number("kl_mean"), number("kl_median"), number("kl_p99"), number("kl_max"));
  return text + fmt::format("same most likely token {:.2f} %\n", 100 * number("top1_agreement"));
}

}  // namespace moebius
