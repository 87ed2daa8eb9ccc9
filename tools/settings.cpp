#include "tools/settings.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tools/command.h"
#include "tools/preset.h"

namespace moebius {

namespace {

// The spellings of llama-server with one dash and several letters, which the parser would take for several
// options.
const std::map<std::string, std::string>& short_spellings() {
  static const auto* all = new std::map<std::string, std::string>{
      {"-np", "--parallel"}, {"-hf", "--model"}, {"-ub", "--ubatch-size"}, {"-ctk", "--cache-type"}};
  return *all;
}

// llama-server's names in the environment, where they are not LLAMA_ARG_ and the option's.
const std::map<std::string, std::string>& llama_names() {
  static const auto* all = new std::map<std::string, std::string>{{"api-key", "LLAMA_API_KEY"},
                                                                  {"parallel", "LLAMA_ARG_N_PARALLEL"},
                                                                  {"ubatch-size", "LLAMA_ARG_UBATCH"},
                                                                  {"cache-type", "LLAMA_ARG_CACHE_TYPE_K"},
                                                                  {"hf-repo", "LLAMA_ARG_HF_REPO"}};
  return *all;
}
// Those that llama-server has, too.
const std::set<std::string>& shared_with_llama() {
  static const auto* all = new std::set<std::string>{
      "model",   "alias",        "ctx-size",      "threads",           "host",         "port",
      "timeout", "ssl-key-file", "ssl-cert-file", "sse-ping-interval", "api-key-file", "lora"};
  return *all;
}

std::string as_variable(const std::string& prefix, const std::string& name) {
  std::string out = prefix + name;
  for (char& c : out) c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

// The names of an option in the environment, our own first.
std::vector<std::string> variables_of(const CLI::Option& option) {
  std::vector<std::string> ours, theirs;
  for (const std::string& name : option.get_lnames()) {
    ours.push_back(as_variable("MOEBIUS_", name));
    if (const auto own = llama_names().find(name); own != llama_names().end()) theirs.push_back(own->second);
    if (shared_with_llama().count(name) > 0) theirs.push_back(as_variable("LLAMA_ARG_", name));
  }
  ours.insert(ours.end(), theirs.begin(), theirs.end());
  return ours;
}

enum class Rank : uint8_t { kEnvironment, kModel, kAll };  // the first goes first

struct Setting {
  CLI::Option* option;
  std::string name;   // that it was called by, as the option of it is written
  std::string value;  // as it stands there
  std::string where;
  Rank rank;
};

// `serve`, parsed for what the command line says.
class Probe {
 public:
  Probe() {
    add_serve(app_, run_);
    serve_ = app_.get_subcommand("serve");
  }
  // Throws CLI::ParseError.
  void parse(std::vector<std::string> arguments) {
    std::reverse(arguments.begin(), arguments.end());  // as the parser takes them
    app_.parse(arguments);
  }
  std::string value(const std::string& name) const {
    const CLI::Option* option = serve_->get_option(name);
    return option->count() > 0 ? option->results().back() : "";
  }
  std::vector<CLI::Option*> options() const {
    return serve_->get_options(
        [](CLI::Option* option) { return !option->check_name("--help") && !option->check_name("--preset"); });
  }

 private:
  CLI::App app_;
  Run run_;
  CLI::App* serve_;
};

bool is_flag(const CLI::Option& option) { return option.get_items_expected_max() == 0; }
bool repeats(const CLI::Option& option) { return option.get_items_expected_max() > 1; }

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

// The arguments that say the same on the command line.
Status append(const Setting& setting, std::vector<std::string>& arguments) {
  const auto wrong = [&](const std::string& what) {
    return invalid(fmt::format("{}: {}: {}", setting.where, setting.name, what));
  };
  std::vector<std::string> values = {setting.value};
  if (is_flag(*setting.option)) {
    const std::string word = lower(setting.value);
    const bool yes = word == "true" || word == "1" || word == "on" || word == "enabled";
    const bool no = word == "false" || word == "0" || word == "off" || word == "disabled";
    if (!yes && !no) return wrong(fmt::format("`{}` is neither true nor false", setting.value));
    values = {yes ? "true" : "false"};
  } else if (repeats(*setting.option)) {
    values = CLI::detail::split(setting.value, ',');
  }
  std::vector<std::string> added;
  for (const std::string& value : values) added.push_back(setting.name + "=" + value);
  try {
    std::vector<std::string> alone = {"serve"};
    alone.insert(alone.end(), added.begin(), added.end());
    Probe().parse(std::move(alone));
  } catch (const CLI::ParseError& error) {
    return invalid(fmt::format("{}: {}", setting.where, error.what()));
  }
  arguments.insert(arguments.end(), added.begin(), added.end());
  return {};
}

// The option that a key of a preset means, and how it is written; nullptr: none.
CLI::Option* find_option(const std::vector<CLI::Option*>& options, const std::string& key,
                         std::string& name) {
  for (CLI::Option* option : options) {
    for (const std::string& written : {"--" + key, "-" + key}) {
      name = written[1] == '-' ? written : "--" + option->get_lnames().front();
      if (key[0] != '-' && option->check_name(written)) return option;
    }
    for (const auto& [short_name, long_name] : short_spellings()) {
      name = long_name;
      if (short_name == "-" + key && option->check_name(long_name)) return option;
    }
    const std::vector<std::string> variables = variables_of(*option);
    name = "--" + option->get_lnames().front();
    if (std::find(variables.begin(), variables.end(), key) != variables.end()) return option;
  }
  return nullptr;
}

// Those of one section, in its order.
Status read_section(const std::string& path, const PresetSection& section,
                    const std::vector<CLI::Option*>& options, std::vector<Setting>& settings) {
  const Rank rank = section.name == "*" ? Rank::kAll : Rank::kModel;
  std::set<CLI::Option*> seen;
  for (const PresetEntry& entry : section.entries) {
    const std::string where = fmt::format("{}:{}", path, entry.line);
    std::string name;
    CLI::Option* option = find_option(options, entry.key, name);
    if (option == nullptr)
      return invalid(fmt::format(
          "{}: unknown key `{}`; keys are the options that `moebius serve --help` shows", where, entry.key));
    if (!seen.insert(option).second && !repeats(*option))
      return invalid(fmt::format("{}: `{}` is set twice in [{}]", where, entry.key, section.name));
    settings.push_back({option, name, entry.value, where, rank});
  }
  return {};
}

// -m may name a section: then the model is what that says.
void replace_model(const std::string& section, const std::string& model,
                   std::vector<std::string>& arguments) {
  for (size_t i = 1; i < arguments.size(); ++i) {
    const std::string& before = arguments[i - 1];
    if (arguments[i] == section && (before == "-m" || before == "--model" || before == "--hf-repo"))
      arguments[i] = model;
    for (const std::string prefix : {"-m", "--model=", "--hf-repo="})
      if (arguments[i] == prefix + section) arguments[i] = prefix + model;
  }
}

// What the preset says for the model, the most particular first.
Result<std::vector<Setting>> preset_settings(const std::string& path, const std::string& model,
                                             const std::vector<CLI::Option*>& options) {
  Result<std::vector<PresetSection>> sections = read_preset(path);
  if (!sections.ok()) return sections.status();
  const PresetSection* own = nullptr;
  std::vector<std::string> models;
  for (const PresetSection& section : *sections) {
    if (section.name == "*") continue;
    models.push_back(section.name);
    if (model.empty() || section.name == model) own = &section;
  }
  if (model.empty() && models.size() > 1)
    return invalid(
        fmt::format("{}: has several models; choose one with -m: {}", path, fmt::join(models, ", ")));
  std::vector<Setting> settings;
  // Every section is looked at, so that a mistake in it is found today.
  for (const PresetSection& section : *sections) {
    std::vector<Setting> read;
    if (const Status status = read_section(path, section, options, read); !status.ok()) return status;
    if (&section == own) settings.insert(settings.begin(), read.begin(), read.end());
    if (section.name == "*") settings.insert(settings.end(), read.begin(), read.end());
  }
  return settings;
}

std::vector<Setting> environment_settings(const std::vector<std::string>& environment,
                                          const std::vector<CLI::Option*>& options) {
  std::map<std::string, std::string> values;
  for (const std::string& entry : environment) {
    const size_t equals = entry.find('=');
    if (equals != std::string::npos && equals + 1 < entry.size())
      values.emplace(entry.substr(0, equals), entry.substr(equals + 1));
  }
  std::vector<Setting> settings;
  for (CLI::Option* option : options) {
    for (const std::string& variable : variables_of(*option)) {
      const auto found = values.find(variable);
      if (found == values.end()) continue;
      std::string name;
      find_option({option}, variable, name);
      settings.push_back({option, name, found->second, variable, Rank::kEnvironment});
      break;
    }
  }
  return settings;
}

void spell_out(std::vector<std::string>& arguments) {
  for (std::string& argument : arguments) {
    const auto found = short_spellings().find(argument.substr(0, argument.find('=')));
    if (found != short_spellings().end()) argument.replace(0, found->first.size(), found->second);
  }
}

}  // namespace

Result<std::vector<std::string>> complete_arguments(std::vector<std::string> arguments,
                                                    const std::vector<std::string>& environment,
                                                    std::vector<std::string>& from) {
  if (arguments.empty() || arguments.front() != "serve") return arguments;
  spell_out(arguments);
  Probe probe;
  try {
    probe.parse(arguments);
  } catch (const CLI::ParseError&) {
    return arguments;  // the parsing that counts says it again
  }
  const std::vector<CLI::Option*> options = probe.options();
  std::vector<Setting> settings = environment_settings(environment, options);
  std::string preset = probe.value("--preset"), model = probe.value("--model");
  for (const std::string& entry : environment) {
    constexpr std::string_view kPreset = "MOEBIUS_PRESET=";
    if (preset.empty() && entry.starts_with(kPreset)) preset = entry.substr(kPreset.size());
  }
  for (const Setting& setting : settings)
    if (model.empty() && setting.option->check_name("--model")) model = setting.value;
  if (!preset.empty()) {
    Result<std::vector<Setting>> more = preset_settings(preset, model, options);
    if (!more.ok()) return more.status();
    settings.insert(settings.end(), more->begin(), more->end());
  }
  std::map<CLI::Option*, Rank> said;  // by whom, for options that may stand there several times
  for (const Setting& setting : settings) {
    const bool names_model = setting.option->check_name("--model") && setting.rank == Rank::kModel;
    if (names_model) replace_model(model, setting.value, arguments);
    const auto by = said.try_emplace(setting.option, setting.rank).first;
    if (setting.option->count() > 0 || by->second != setting.rank) continue;
    if (const Status status = append(setting, arguments); !status.ok()) return status;
    from.push_back(fmt::format("{} from {}", setting.name, setting.where));
  }
  return arguments;
}

}  // namespace moebius
