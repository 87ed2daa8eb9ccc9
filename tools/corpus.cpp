// moebius corpus: training and held-out examples for small chat models.
#include "tools/corpus.h"

#include <chrono>
#include <memory>

#include <fmt/format.h>

#include "models/file_io.h"
#include "tools/chat_interrupt.h"
#include "tools/command.h"
#include "tools/progress.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kMaxExamples = 20'000'000;

struct Options {
  CorpusOptions corpus;
  bool json = false;
};

ordered_json counts(const std::vector<std::pair<std::string, int64_t>>& tasks) {
  ordered_json out = ordered_json::object();
  for (const auto& [task, count] : tasks) out[task] = count;
  return out;
}

int corpus(const Options& options) {
  const CorpusOptions& c = options.corpus;
  const auto start = std::chrono::steady_clock::now();
  Interrupts interrupts;
  ProgressBar bar("corpus");
  const Result<CorpusReport> report = write_corpus(c, [&](int64_t done, int64_t total) {
    bar.update(done, total);
    return !interrupts.take();
  });
  bar.clear();
  if (!report.ok()) return fail(report.status());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (options.json) {
    return print_output(to_text({{"out", c.out},
                                 {"seed", c.seed},
                                 {"train", c.train},
                                 {"held_out", c.held_out},
                                 {"repeated", report->repeated},
                                 {"train_tasks", counts(report->train)},
                                 {"held_out_tasks", counts(report->tests)},
                                 {"seconds", seconds}}) +
                        "\n");
  }
  return print_output(
      fmt::format("{}: {} examples in train.jsonl, {} in held_out.jsonl, {} tasks, {:.1f} s\n",
                  printable(c.out, 4096), c.train, c.held_out, report->train.size(), seconds));
}

}  // namespace

void add_corpus(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  CorpusOptions& c = options->corpus;
  CLI::App* command = app.add_subcommand(
      "corpus", "write seeded training examples whose answers can be checked, and held-out ones");
  command->option_defaults()->take_last();
  command->add_option("-o,--out", c.out, "folder for train.jsonl and held_out.jsonl, which are replaced")
      ->required();
  command->add_option("--seed", c.seed,
                      "of the random numbers (default 0); the same seed writes the same bytes");
  command->add_option("--train", c.train, "training examples (default 400000)")
      ->check(CLI::Range(int64_t{0}, kMaxExamples));
  command->add_option("--held-out", c.held_out, "held-out examples (default 4000)")
      ->check(CLI::Range(int64_t{0}, kMaxExamples));
  command
      ->add_option("--focus", c.focus,
                   "tasks, separated by commas, that half of the training examples are of, for a model that "
                   "has learned the rest (default: none)")
      ->delimiter(',');
  command->add_flag("--json", options->json, "print the summary as JSON");
  command->footer(
      "\nA line is {\"task\", \"messages\", optional \"tools\", \"answer\"}. Tasks: questions about Moebius, "
      "worked "
      "arithmetic,\nlists and letters, a small world of people, stories, calls of a calculator, small talk. "
      "One "
      "problem in eight\nis held out, whatever the seed and however it is worded. `moebius eval --tasks` "
      "scores a "
      "model on such a file.");
  command->callback([options, &run] { run = [options] { return corpus(*options); }; });
}

}  // namespace moebius
