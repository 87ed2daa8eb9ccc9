// moebius template: the prompt that a chat template makes of messages, byte for byte.
#include <memory>

#include <fmt/format.h>

#include "engine/engine.h"
#include "models/chat_template.h"
#include "models/file_io.h"
#include "tools/command.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

struct Options {
  EngineOptions engine;
  std::string source, messages, tools, kwargs;
  bool no_generation_prompt = false;
};

Result<ordered_json> request_of(const Options& options) {
  MOEBIUS_ASSIGN(ordered_json request, read_json(options.messages));
  if (request.is_array()) request = ordered_json{{"messages", std::move(request)}};
  if (!request.is_object() || !request.contains("messages")) {
    return invalid(fmt::format("'{}' holds no messages; write a list of them or {{\"messages\": [...]}}",
                               printable(options.messages)));
  }
  if (!options.tools.empty()) {
    MOEBIUS_ASSIGN(request["tools"], read_json(options.tools));
    if (!request["tools"].is_array()) {
      return invalid(fmt::format("'{}' is not a list of tools", printable(options.tools)));
    }
  }
  if (!options.kwargs.empty()) {
    MOEBIUS_ASSIGN(const ordered_json kwargs, read_json(options.kwargs));
    if (!kwargs.is_object()) {
      return invalid(fmt::format("'{}' is not an object of template variables", printable(options.kwargs)));
    }
    for (const auto& [name, value] : kwargs.items()) request[name] = value;
  }
  return request;
}

Result<std::string> rendered(const Options& options) {
  MOEBIUS_ASSIGN(ordered_json request, request_of(options));
  if (options.source.empty()) {
    MOEBIUS_ASSIGN(const std::unique_ptr<Engine> engine, Engine::open(options.engine));
    return engine->render_chat(request, !options.no_generation_prompt);
  }
  MOEBIUS_ASSIGN(const std::string source, read_input(options.source));
  MOEBIUS_ASSIGN(const std::unique_ptr<ChatTemplate> parsed, ChatTemplate::parse(source));
  // Absent means none, not undefined: templates ask `tools is not none`.
  for (const char* name : {"tools", "documents"}) {
    if (!request.contains(name)) request[name] = nullptr;
  }
  request["add_generation_prompt"] = !options.no_generation_prompt;
  return parsed->render(request);
}

}  // namespace

void add_template(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("template", "print the prompt that a chat template makes of messages");
  command->option_defaults()->take_last();
  auto* source = command->add_option("--template", options->source, "Jinja file; - for standard input");
  command
      ->add_option("-m,--model", options->engine.model,
                   "checkpoint whose template to use (default: the shipped model)")
      ->excludes(source);
  command
      ->add_option(
          "--messages", options->messages,
          "JSON file: a list of messages, or {\"messages\": [...]} with template variables beside it")
      ->required();
  command->add_option("--tools", options->tools, "JSON file: a list of tools");
  command->add_option("--kwargs", options->kwargs,
                      "JSON file: an object of further template variables, such as bos_token");
  command->add_flag("--no-generation-prompt", options->no_generation_prompt,
                    "end after the last message, not with the start of an answer");
  command->callback([options, &run] {
    run = [options] {
      const Result<std::string> text = rendered(*options);
      if (!text.ok()) return fail(text.status());
      return print_output(*text);
    };
  });
}

}  // namespace moebius
