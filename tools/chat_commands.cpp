#include "tools/chat_commands.h"

#include <charconv>
#include <variant>

#include <fmt/format.h>

#include "models/file_io.h"

namespace moebius {
namespace {

struct Parameter {
  std::string_view name;
  std::variant<float*, int64_t*, uint64_t*> target;
};

std::vector<Parameter> parameters(ChatSettings& settings) {
  SamplingParams& sampling = settings.generate.sampling;
  return {{"temp", &sampling.temperature},
          {"top_k", &sampling.top_k},
          {"top_p", &sampling.top_p},
          {"min_p", &sampling.min_p},
          {"repetition_penalty", &sampling.repetition_penalty},
          {"presence_penalty", &sampling.presence_penalty},
          {"frequency_penalty", &sampling.frequency_penalty},
          {"seed", &sampling.seed},
          {"max_tokens", &settings.generate.max_tokens}};
}

// "--top-p", "top-p" and "temperature" are what fingers type.
std::string canonical(std::string_view name) {
  std::string out(name.substr(std::min(name.find_first_not_of('-'), name.size())));
  for (char& c : out) c = c == '-' ? '_' : c;
  return out == "temperature" ? "temp" : out;
}

std::string describe(ChatSettings& settings) {
  std::string text;
  for (const Parameter& parameter : parameters(settings)) {
    std::visit([&](auto* value) { text += fmt::format("  {} {}\n", parameter.name, *value); },
               parameter.target);
  }
  return text;
}

CommandResult help() {
  return {CommandEffect::kDone,
          "  /help                this list\n"
          "  /clear               start over; the system message stays\n"
          "  /system TEXT         set the system message; without TEXT show it, with - remove it\n"
          "  /set NAME VALUE      change a sampling parameter; without arguments show them\n"
          "  /regen               answer the last question again\n"
          "  /experts             which side computed the experts, layer by layer\n"
          "  /save FILE           write the conversation as JSON\n"
          "  /load FILE           continue a saved conversation\n"
          "  /quit                leave (also Ctrl-D)\n"
          "A backslash at the end of a line continues it; \"\"\" starts and ends a block of lines.\n"
          "Text that starts with a slash is written with two. Ctrl-C stops an answer.\n",
          {}};
}

CommandResult system_command(Conversation& conversation, const std::string& text) {
  if (text.empty()) {
    const std::string now = conversation.system();
    return {CommandEffect::kDone, now.empty() ? "no system message\n" : now + "\n", {}};
  }
  conversation.set_system(text == "-" ? "" : text);
  return {CommandEffect::kDone, text == "-" ? "system message removed\n" : "system message set\n", {}};
}

CommandResult set_command(Conversation& conversation, const std::string& argument) {
  ChatSettings& settings = conversation.settings();
  if (argument.empty()) return {CommandEffect::kDone, describe(settings), {}};
  const size_t space = argument.find_first_of(" \t=");
  const std::string name = argument.substr(0, space);
  const size_t start = space == std::string::npos ? space : argument.find_first_not_of(" \t=", space);
  if (start == std::string::npos) {
    return {CommandEffect::kDone, "", invalid(fmt::format("/set {} needs a value", printable(name, 40)))};
  }
  const std::string value = argument.substr(start);
  const Status status = set_parameter(settings, name, value, conversation.vocab());
  if (!status.ok()) return {CommandEffect::kDone, "", status};
  return {CommandEffect::kDone, fmt::format("{} is now {}\n", canonical(name), value), {}};
}

CommandResult experts_command(const Conversation& conversation) {
  const std::vector<LayerUse> layers = conversation.expert_use();
  if (layers.empty()) {
    const SlotSum slots = conversation.slots();
    std::string text = "all experts are in one place; --gpu-memory shares them out\n";
    if (slots.skipped > 0)
      text += fmt::format("{:.1f} % of their slots were skipped\n", 100 * slots.skip_rate());
    return {CommandEffect::kDone, text, {}};
  }
  std::string text = "  layer  on device  host ms  device ms  link ms  MiB brought  skipped\n";
  LayerUse sum;
  const auto row = [&](const std::string& name, const LayerUse& use) {
    const double MiB = static_cast<double>(use.moved_bytes + use.streamed_bytes) / (1 << 20);
    text += fmt::format("  {:>5}  {:>7.1f} %  {:>7.1f}  {:>9.1f}  {:>7.1f}  {:>11.1f}  {:>5.1f} %\n", name,
                        100 * use.hit_rate(), 1e3 * use.host_s, 1e3 * use.device_s, 1e3 * use.link_s, MiB,
                        100 * use.skip_rate());
  };
  for (size_t l = 0; l < layers.size(); ++l) {
    const LayerUse& use = layers[l];
    if (use.device_slots + use.host_slots == 0) continue;
    row(fmt::format_int(l).str(), use);
    sum += use;
  }
  row("all", sum);
  return {CommandEffect::kDone, text, {}};
}

CommandResult file_command(Conversation& conversation, bool save, const std::string& path) {
  if (path.empty()) {
    return {CommandEffect::kDone, "", invalid(fmt::format("/{} needs a file name", save ? "save" : "load"))};
  }
  const Status status = save ? conversation.save(path) : conversation.load(path);
  if (!status.ok()) return {CommandEffect::kDone, "", status};
  return {CommandEffect::kDone,
          fmt::format("{} {} messages {} '{}'\n", save ? "saved" : "loaded", conversation.messages().size(),
                      save ? "to" : "from", printable(path)),
          {}};
}

}  // namespace

Status set_parameter(ChatSettings& settings, std::string_view name, std::string_view value, int64_t vocab) {
  ChatSettings changed = settings;
  std::string names;
  for (const Parameter& parameter : parameters(changed)) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", parameter.name);
    if (parameter.name != canonical(name)) continue;
    const bool read = std::visit(
        [&](auto* target) {
          const auto [stop, error] = std::from_chars(value.data(), value.data() + value.size(), *target);
          return error == std::errc() && stop == value.data() + value.size();
        },
        parameter.target);
    if (!read) {
      return invalid(
          fmt::format("'{}' is not a value for {}; it takes a number", printable(value, 40), parameter.name));
    }
    MOEBIUS_TRY(changed.generate.sampling.validate(vocab));
    if (changed.generate.max_tokens < -1 || changed.generate.max_tokens == 0) {
      return invalid("max_tokens must be at least 1, or -1 for as many as the context holds");
    }
    settings = std::move(changed);
    return {};
  }
  return not_found(fmt::format("there is no parameter '{}'; there are {}", printable(name, 40), names));
}

CommandResult run_command(Conversation& conversation, std::string_view line) {
  line.remove_suffix(line.size() - (line.find_last_not_of(" \t\n") + 1));
  const size_t space = line.find_first_of(" \t\n");
  const std::string_view name = line.substr(0, space);
  std::string argument;
  if (space != std::string_view::npos) argument = line.substr(line.find_first_not_of(" \t\n", space));

  if (name == "/help" || name == "/?") return help();
  if (name == "/quit" || name == "/exit" || name == "/bye") return {CommandEffect::kQuit, "", {}};
  if (name == "/regen") return {CommandEffect::kRegenerate, "", {}};
  if (name == "/experts") return experts_command(conversation);
  if (name == "/system") return system_command(conversation, argument);
  if (name == "/set") return set_command(conversation, argument);
  if (name == "/save" || name == "/load") return file_command(conversation, name == "/save", argument);
  if (name == "/clear") {
    conversation.clear();
    return {CommandEffect::kDone, "conversation cleared\n", {}};
  }
  return {CommandEffect::kDone, "",
          not_found(fmt::format("there is no command {}; /help lists them", printable(name, 40)))};
}

}  // namespace moebius
