// moebius chat: a conversation in the terminal, through pipes, or one answer to one text.
#include <filesystem>
#include <memory>
#include <optional>
#include <random>

#include <fmt/format.h>

#include "engine/engine.h"
#include "models/file_io.h"
#include "tools/chat_commands.h"
#include "tools/chat_conversation.h"
#include "tools/chat_input.h"
#include "tools/chat_interrupt.h"
#include "tools/chat_view.h"
#include "tools/command.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

constexpr int kInterrupted = 130;

struct Options {
  EngineOptions engine;
  std::string system, kwargs;
  std::optional<std::string> prompt;
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
  std::optional<uint64_t> seed;
  int64_t max_tokens = -1;
};

Result<ChatSettings> settings_of(const Options& options, const Engine& engine) {
  ChatSettings settings;
  SamplingParams& sampling = settings.generate.sampling = engine.default_sampling();
  sampling.temperature = options.temperature.value_or(sampling.temperature);
  sampling.top_k = options.top_k.value_or(sampling.top_k);
  sampling.top_p = options.top_p.value_or(sampling.top_p);
  sampling.min_p = options.min_p.value_or(sampling.min_p);
  sampling.repetition_penalty = options.repetition_penalty.value_or(sampling.repetition_penalty);
  sampling.seed = options.seed.has_value() ? *options.seed : std::random_device()();
  MOEBIUS_TRY(sampling.validate(engine.config().vocab));
  settings.generate.max_tokens = options.max_tokens;
  if (!options.kwargs.empty()) {
    MOEBIUS_ASSIGN(settings.kwargs, parse_document(options.kwargs, "--chat-template-kwargs"));
    if (!settings.kwargs.is_object()) {
      return invalid(
          "--chat-template-kwargs is not a JSON object; write for example '{\"enable_thinking\": false}'");
    }
  }
  return settings;
}

class Chat {
 public:
  Chat(Conversation& conversation, Interrupts& interrupts)
      : conversation_(conversation), interrupts_(interrupts), view_(!no_color()) {}

  int run_once(const std::string& text) {
    const std::optional<Answer> answer =
        reply([&](const AnswerHooks& hooks) { return conversation_.say(text, hooks); });
    if (answer.has_value() && answer->stopped && !output_closed_) return kInterrupted;
    return failed_ ? 1 : 0;
  }

  // Until the end of the input. At a prompt, Ctrl-C discards the line; pressed again, also after it stopped
  // an answer, it leaves.
  int run(LineReader& reader) {
    bool pressed = false;
    if (reader.interactive()) view_.note("/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves");
    while (!output_closed_) {
      const Turn turn = read_turn(reader);
      if (turn.kind == InputKind::kEnd) break;
      if (turn.kind == InputKind::kInterrupt) {
        if (pressed || !reader.interactive()) return kInterrupted;
        pressed = true;
        view_.note("Ctrl-C again leaves");
        continue;
      }
      if (turn.text.find_first_not_of(" \t\n") == std::string::npos) continue;
      if (leaves(turn)) break;
      pressed = stopped_;
      if (stopped_ && !reader.interactive()) return kInterrupted;
    }
    return failed_ && !reader.interactive() ? 1 : 0;
  }

 private:
  using Reply = std::function<Result<Answer>(const AnswerHooks&)>;

  // Does what a turn asks; true for /quit.
  bool leaves(const Turn& turn) {
    stopped_ = false;
    const bool slash = !turn.block && turn.text[0] == '/';
    if (!slash || turn.text.compare(0, 2, "//") == 0) {
      const std::string text = slash ? turn.text.substr(1) : turn.text;
      reply([&](const AnswerHooks& hooks) { return conversation_.say(text, hooks); });
      return false;
    }
    const CommandResult result = run_command(conversation_, turn.text);
    view_.text(result.text);
    if (!result.status.ok()) complain(result.status);
    if (result.effect == CommandEffect::kRegenerate) {
      reply([&](const AnswerHooks& hooks) { return conversation_.regenerate(hooks); });
    }
    return result.effect == CommandEffect::kQuit;
  }

  std::optional<Answer> reply(const Reply& ask) {
    view_.begin_answer();
    AnswerHooks hooks;
    hooks.on_text = [&](std::string_view text) {
      output_closed_ = !view_.show(text);
      return !output_closed_ && !interrupts_.take();
    };
    hooks.on_progress = [&](int64_t done, int64_t total) {
      view_.reading(done, total);
      return !interrupts_.take();
    };
    const Result<Answer> answer = ask(hooks);
    static_cast<void>(interrupts_.take());  // impatience while it stopped is not a wish to leave
    if (!answer.ok()) {
      view_.show("");
      complain(answer.status());
      return std::nullopt;
    }
    if (output_closed_) {
      complain(io_error("standard output was closed; the answer was cut off"));
      return *answer;
    }
    view_.end_answer(*answer);
    stopped_ = answer->stopped;
    return *answer;
  }

  void complain(const Status& status) { failed_ = fail(status) != 0; }

  Conversation& conversation_;
  Interrupts& interrupts_;
  ChatView view_;
  bool failed_ = false, stopped_ = false, output_closed_ = false;
};

struct Opened {
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Conversation> conversation;
};

Result<Opened> open_conversation(const Options& options, const Interrupts& interrupts) {
  const ExitOnInterrupt guard(interrupts);
  Opened out;
  MOEBIUS_ASSIGN(out.engine, Engine::open(remembering_experts(options.engine)));
  MOEBIUS_ASSIGN(ChatSettings settings, settings_of(options, *out.engine));
  MOEBIUS_ASSIGN(out.conversation, Conversation::open(*out.engine, std::move(settings)));
  out.conversation->set_system(valid_utf8(options.system));
  const ChatView view(!no_color());
  view.note(out.engine->describe());
  for (const std::string& note : out.engine->notes()) view.note(note);
  if (out.conversation->raw())
    view.note("this model has no chat template: it continues the text as it stands");
  return out;
}

int run_chat(const Options& options) {
  Interrupts interrupts;
  Result<Opened> opened = open_conversation(options, interrupts);
  if (!opened.ok()) return fail(opened.status());
  Chat chat(*opened->conversation, interrupts);
  if (!options.prompt.has_value()) {
    const std::string data = user_data_dir();
    const std::unique_ptr<LineReader> reader =
        LineReader::open(interrupts, data.empty() ? "" : data + "/chat_history");
    return chat.run(*reader);
  }
  std::string text = *options.prompt;
  if (text == "-") {
    const ExitOnInterrupt guard(interrupts);
    Result<std::string> input = read_input("-");
    if (!input.ok()) return fail(input.status());
    text = std::move(*input);
  }
  return chat.run_once(valid_utf8(text));
}

}  // namespace

void add_chat(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("chat", "talk with a model");
  command->option_defaults()->take_last();
  add_engine_options(*command, options->engine);
  command->add_option(
      "-p,--prompt", options->prompt,
      "answer this text and leave; only the answer goes to standard output. - reads the text from "
      "standard input");
  command->add_option("--system", options->system, "system message");
  command->add_option("--temp,--temperature", options->temperature,
                      "0 always takes the likeliest token (default: the model's)");
  command->add_option("--top-k", options->top_k,
                      "draw from the K likeliest tokens; 0: all (default: the model's)");
  command->add_option("--top-p", options->top_p,
                      "draw from the fewest tokens with this share of probability (default: the model's)");
  command->add_option(
      "--min-p", options->min_p,
      "drop tokens below this share of the likeliest one's probability (default: the model's)");
  command->add_option("--repetition-penalty", options->repetition_penalty,
                      "1: none; above it, tokens that occurred become less likely (default: the model's)");
  command
      ->add_option("-n,--max-tokens", options->max_tokens,
                   "longest answer in tokens (default -1: as many as the context holds)")
      ->check(CLI::Range(int64_t{-1}, int64_t{1} << 40));
  command->add_option("--seed", options->seed,
                      "of the first answer, later ones count up from it (default: a new one every run)");
  command->add_option("--chat-template-kwargs", options->kwargs,
                      "JSON object of further variables for the chat template");
  command->footer(
      "Without -p: on a terminal an editable line with history; through a pipe every line is a turn. A line "
      "that\n"
      "starts with / is a command (/help lists them), // stands for a slash. A backslash at the end of a "
      "line\n"
      "continues it; \"\"\" starts and ends a block of lines.");
  command->callback([options, &run] { run = [options] { return run_chat(*options); }; });
}

}  // namespace moebius
