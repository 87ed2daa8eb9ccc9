// moebius eval: how well a model predicts a text, alone or against another checkpoint, or solves tasks.
#include <memory>

#include <fmt/format.h>

#include "engine/engine.h"
#include "models/file_io.h"
#include "tools/command.h"
#include "tools/eval_tasks.h"
#include "tools/eval_text.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kDefaultAnswer = 512;
constexpr int64_t kTasksAtOnce = 16;

struct Options {
  EvalText text;
  std::string tasks, replies, write_replies;
  int64_t limit = 0, max_tokens = kDefaultAnswer;
  bool json = false;
};

std::string describe_tasks(const ordered_json& report) {
  std::string text;
  const auto add = [&](const std::string& name, const ordered_json& score) {
    text += fmt::format("{:6.2f} % of {:>6}  {}\n", 100 * score["accuracy"].get<double>(),
                        score["n"].get<int64_t>(), printable(name));
  };
  for (const auto& [name, score] : report["per_task"].items()) add(name, score);
  add("all tasks", report);
  if (const int64_t count = report.value("too_long", int64_t{0}); count > 0) {
    text += fmt::format("{} prompts do not fit the context and count as wrong; raise -c\n", count);
  }
  return text;
}

Result<std::string> solve_tasks(const Options& options) {
  MOEBIUS_ASSIGN(const std::string text, read_input(options.tasks));
  MOEBIUS_ASSIGN(const std::vector<Task> tasks,
                 parse_tasks(text, fmt::format("'{}'", printable(options.tasks)), options.limit));
  if (!options.replies.empty()) {
    MOEBIUS_ASSIGN(const std::string replies, read_input(options.replies));
    MOEBIUS_ASSIGN(const ordered_json judged,
                   judge_replies(tasks, replies, fmt::format("'{}'", printable(options.replies))));
    return options.json ? to_text(judged) + "\n" : describe_tasks(judged);
  }
  EngineOptions batched = options.text.engine;
  // A device would have to set their caches aside, and have less room for experts.
  if (batched.device == DeviceKind::kHost)
    batched.sessions = std::min<int64_t>(kTasksAtOnce, std::ssize(tasks));
  MOEBIUS_ASSIGN(const std::unique_ptr<Engine> engine, Engine::open(batched));
  for (const std::string& note : engine->notes()) fmt::print(stderr, "moebius: {}\n", note);
  std::string replies;
  const bool keep = !options.write_replies.empty();
  MOEBIUS_ASSIGN(const ordered_json report,
                 evaluate_tasks(*engine, tasks, options.max_tokens, keep ? &replies : nullptr));
  if (keep) MOEBIUS_TRY(write_text_file(options.write_replies, replies));
  return options.json ? to_text(report) + "\n" : describe_tasks(report);
}

Result<std::string> evaluate(const Options& options) {
  if (!options.tasks.empty()) return solve_tasks(options);
  MOEBIUS_ASSIGN(const ordered_json report, evaluate_text(options.text));
  return options.json ? to_text(report) + "\n" : describe_evaluation(report);
}

}  // namespace

void add_eval(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", "measure how well a model predicts a text or solves tasks");
  command->option_defaults()->take_last();
  add_engine_options(*command, options->text.engine);
  auto* group = command->add_option_group("input");
  group->add_option("--text", options->text.text, "text file; - for standard input");
  group->add_option("--ids-file", options->text.ids_file,
                    "file of token ids in place of a text, separated by spaces or commas, or JSON");
  CLI::Option* data = group->add_option(
      "--data", options->text.data,
      "JSONL file of examples, as `moebius finetune` reads it, each on its own: of a conversation, only what "
      "the assistant says counts");
  CLI::Option* tasks = group->add_option(
      "--tasks", options->tasks,
      "JSONL file of tasks, as `moebius corpus` writes it; - for standard input: the share that the model's "
      "greedy replies to the last user turn solve");
  group->require_option(1);
  command
      ->add_option(
          "--replies", options->replies,
          "judge these replies in place of a model's: one {\"reply\": TEXT} a line, in the order of the "
          "tasks")
      ->needs(tasks);
  command
      ->add_option("--write-replies", options->write_replies,
                   "write {\"task\", \"right\", \"reply\"} for each task to this file, a line each: for "
                   "comparisons task by task, and for --replies")
      ->needs(tasks);
  command->add_option("--limit", options->limit, "only the first N tasks (default 0: all)")
      ->check(CLI::NonNegativeNumber)
      ->needs(tasks);
  command->add_option("--max-tokens", options->max_tokens, "longest reply to a task (default 512)")
      ->check(CLI::PositiveNumber)
      ->needs(tasks);
  CLI::Option* window = command
                            ->add_option("--window", options->text.window,
                                         "tokens the model sees at once (default: the context, at most 2048)")
                            ->check(CLI::PositiveNumber);
  CLI::Option* stride =
      command
          ->add_option(
              "--stride", options->text.stride,
              "tokens between the starts of two windows (default: the window, so that none overlap); "
              "a smaller one gives later tokens more to go by")
          ->check(CLI::PositiveNumber);
  CLI::Option* against =
      command->add_option("--against", options->text.against,
                          "checkpoint of the reference, which runs without --adapter and --skip-threshold: "
                          "also report the Kullback-Leibler divergence of the model's "
                          "predictions from the reference's (window x vocabulary x 4 bytes of memory)");
  command->add_flag("--no-special", options->text.no_special,
                    "do not start every window with the tokenizer's beginning of sequence");
  for (CLI::Option* option : {window, stride, against}) option->excludes(tasks);
  for (CLI::Option* option : {window, stride}) option->excludes(data);
  command->add_flag("--json", options->json, "print one JSON object");
  command->footer(
      "\nTasks: the last line \"Answer: X\" of a reply, or without one the whole reply, must be the task's "
      "answer. By the\nname of the task, a story must hold the words and be made of sentences; talk and "
      "about.fact must mention the\nanswer; about.command needs it as a line; tools.calculator needs a JSON "
      "object {\"name\": \"calculator\",\n\"arguments\": {\"expression\": E}} anywhere in the reply, where "
      "E's value is the answer.");
  command->callback([options, &run] {
    run = [options] {
      const Result<std::string> text = evaluate(*options);
      return text.ok() ? print_output(*text) : fail(text.status());
    };
  });
}

}  // namespace moebius
