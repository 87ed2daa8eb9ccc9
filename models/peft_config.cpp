#include "models/peft_config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include <fmt/format.h>

#include "models/file_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kMaxRank = 1 << 16;
constexpr double kMaxAlpha = 1e9;
constexpr size_t kMaxMembers = 8192;  // of all objects: ordered_json looks each name up from the start

// Read here, or by name below.
constexpr std::string_view kReadOptions[] = {"peft_type",
                                             "task_type",
                                             "base_model_name_or_path",
                                             "revision",
                                             "auto_mapping",
                                             "peft_version",
                                             "r",
                                             "lora_alpha",
                                             "use_rslora",
                                             "rank_pattern",
                                             "alpha_pattern",
                                             "target_modules",
                                             "target_parameters",
                                             "exclude_modules",
                                             "layers_to_transform",
                                             "layers_pattern",
                                             "bias",
                                             "init_lora_weights"};

// Without effect on finished factors: training only, initialisation only, or details of what is off.
constexpr std::string_view kIgnoredOptions[] = {"lora_dropout",   "inference_mode", "megatron_core",
                                                "loftq_config",   "eva_config",     "corda_config",
                                                "lora_ga_config", "runtime_config", "qalora_group_size"};

template <size_t n>
bool contains(const std::string_view (&list)[n], std::string_view name) {
  return std::find(std::begin(list), std::end(list), name) != std::end(list);
}

bool is_unset(const ordered_json& value) {
  if (value.is_null()) return true;
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_string()) return value.get_ref<const std::string&>().empty();
  return value.is_structured() && value.empty();
}

// As peft compares a name with a list: all of it, or what follows one of its dots.
bool is_listed(const std::unordered_set<std::string>& names, const std::string& name) {
  if (names.contains(name)) return true;
  for (size_t dot = name.find('.'); dot != name.npos; dot = name.find('.', dot + 1)) {
    if (names.contains(name.substr(dot + 1))) return true;
  }
  return false;
}

size_t count_members(const nlohmann::json& value) {
  size_t count = value.is_object() ? value.size() : 0;
  if (value.is_structured()) {
    for (const auto& item : value) count += count_members(item);
  }
  return count;
}

Status refuse_options(const ordered_json& document, const std::string& origin) {
  for (const auto& [name, value] : document.items()) {
    if (contains(kReadOptions, name) || contains(kIgnoredOptions, name) || is_unset(value)) continue;
    return unsupported(fmt::format(
        "{}: option {} is set, and adapters that use it are not supported; merge the adapter into its base "
        "with peft, or train it again without",
        origin, printable(name, 64)));
  }
  return {};
}

// Some initialisations also take the factors' first value out of the base weights; their factors fit those.
Status check_initialisation(const ordered_json& document, const std::string& origin) {
  const auto found = document.find("init_lora_weights");
  if (found == document.end() || found->is_boolean() || found->is_null()) return {};
  const std::string how = found->is_string() ? found->get<std::string>() : found->dump();
  for (const char* harmless : {"gaussian", "eva", "orthogonal", "true", "false"}) {
    if (how == harmless) return {};
  }
  return unsupported(
      fmt::format("{}: init_lora_weights \"{}\" changes the base weights too; save the adapter again with "
                  "path_initial_model_for_weight_conversion",
                  origin, printable(how, 64)));
}

}  // namespace

Result<PeftConfig> PeftConfig::parse(std::string_view json, const std::string& origin) {
  const nlohmann::json unordered = parse_json(json);
  if (!unordered.is_object()) return invalid(fmt::format("{}: not a JSON object", origin));
  if (count_members(unordered) > kMaxMembers) {
    return invalid(fmt::format("{}: more than {} fields and patterns", origin, kMaxMembers));
  }
  const ordered_json document = parse_ordered_json(json);
  PeftConfig config;
  config.origin_ = origin;
  JsonFields in(unordered, origin);
  const std::string type = in.text("peft_type", "");
  if (in.status().ok() && type != "LORA") {
    return unsupported(
        fmt::format("{}: peft_type \"{}\" is not supported; LORA is", origin, printable(type, 64)));
  }
  const std::string task = in.text("task_type", "CAUSAL_LM"), bias = in.text("bias", "none");
  config.rank_ = in.integer("r", 8, 1, kMaxRank);
  config.alpha_ = in.number("lora_alpha", 8, -kMaxAlpha, kMaxAlpha);
  config.rank_stabilized_ = in.boolean("use_rslora", false);
  MOEBIUS_TRY(in.status());
  if (task != "CAUSAL_LM") {
    return unsupported(
        fmt::format("{}: task_type \"{}\" is not supported; CAUSAL_LM is", origin, printable(task, 64)));
  }
  if (bias != "none") {
    return unsupported(
        fmt::format("{}: bias \"{}\" is not supported; \"none\" is", origin, printable(bias, 64)));
  }
  MOEBIUS_TRY(refuse_options(document, origin));
  MOEBIUS_TRY(check_initialisation(document, origin));
  MOEBIUS_TRY(config.read_base(document));
  MOEBIUS_TRY(config.read_targets(document));
  MOEBIUS_TRY(config.read_layers(document));
  return config;
}

Status PeftConfig::read_base(const ordered_json& document) {
  const nlohmann::json plain = document;
  JsonFields in(plain, origin_);
  base_model_ = in.text("base_model_name_or_path", "");
  revision_ = in.text("revision", "");
  base_class_ = in.object("auto_mapping").text("base_model_class", "");
  const std::string version = in.text("peft_version", "");
  int major = 0, minor = 0, patch = 0;
  if (std::sscanf(version.c_str(), "%4d.%4d.%4d", &major, &minor, &patch) >= 2) {
    const bool old = std::tuple(major, minor, patch) < std::tuple(0, 19, 1);
    fused_input_ = old ? FusedInput::kOut : FusedInput::kIn;
  }
  return in.status();
}

Status PeftConfig::read_targets(const ordered_json& document) {
  const auto read = [&](const char* field, bool pattern_allowed, Targets* targets) -> Status {
    const auto found = document.find(field);
    if (found == document.end() || found->is_null()) return {};
    targets->given = true;
    const std::string where = fmt::format("{}: field {}", origin_, field);
    if (found->is_string() && pattern_allowed) {
      std::string text = found->get<std::string>(), lower = text;
      std::transform(lower.begin(), lower.end(), lower.begin(),
                     [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
      targets->all_linear = lower == "all-linear" && std::string_view(field) == "target_modules";
      if (targets->all_linear) return {};
      MOEBIUS_ASSIGN(targets->pattern, NamePattern::whole(text, where));
      return {};
    }
    if (!found->is_array()) return invalid(where + ": must be a list of names");
    for (const ordered_json& name : *found) {
      if (!name.is_string()) return invalid(where + ": must be a list of names");
      targets->names.insert(name.get<std::string>());
    }
    return {};
  };
  MOEBIUS_TRY(read("target_modules", true, &modules_));
  MOEBIUS_TRY(read("exclude_modules", true, &excluded_));
  Targets parameters;
  MOEBIUS_TRY(read("target_parameters", false, &parameters));
  parameters_ = std::move(parameters.names);
  // Without a list peft chooses by architecture: then the tensors themselves say what is adapted.
  if (!modules_.given && parameters_.empty()) modules_.all_linear = true;

  for (const char* field : {"rank_pattern", "alpha_pattern"}) {
    const auto found = document.find(field);
    if (found == document.end() || found->is_null()) continue;
    const std::string where = fmt::format("{}: field {}", origin_, field);
    if (!found->is_object()) return invalid(where + ": must be an object");
    for (const auto& [pattern, value] : found->items()) {
      MOEBIUS_ASSIGN(NamePattern compiled, NamePattern::ending(pattern, where));
      const double number = value.is_number() ? value.get<double>() : NAN;
      if (std::string_view(field) == "alpha_pattern") {
        if (!(std::abs(number) <= kMaxAlpha)) return invalid(where + ": an alpha is not a number of use");
        alpha_patterns_.emplace_back(std::move(compiled), number);
        continue;
      }
      if (!(number >= 1 && number <= static_cast<double>(kMaxRank) && number == std::floor(number))) {
        return invalid(fmt::format("{}: ranks must be integers of 1 .. {}", where, kMaxRank));
      }
      rank_patterns_.emplace_back(std::move(compiled), static_cast<int64_t>(number));
    }
  }
  return {};
}

Status PeftConfig::read_layers(const ordered_json& document) {
  const nlohmann::json plain = document;
  JsonFields in(plain, origin_);
  const std::vector<int64_t> layers = in.integers("layers_to_transform", 0, 1 << 16);
  MOEBIUS_TRY(in.status());
  const auto pattern = document.find("layers_pattern");
  if (pattern != document.end() && !is_unset(*pattern)) {
    const bool usual =
        *pattern == "layers" ||
        (pattern->is_array() && std::find(pattern->begin(), pattern->end(), "layers") != pattern->end());
    if (!usual) {
      return unsupported(fmt::format("{}: layers_pattern other than \"layers\" is not supported", origin_));
    }
  }
  if (layers.empty()) return {};
  if (modules_.pattern || modules_.all_linear) {
    return invalid(fmt::format("{}: layers_to_transform needs target_modules as a list", origin_));
  }
  layers_.emplace(layers.begin(), layers.end());
  return {};
}

Result<bool> PeftConfig::hits(const Targets& targets, const std::string& name) {
  if (targets.all_linear) return true;
  if (targets.pattern) return targets.pattern->matches(name);
  return is_listed(targets.names, name);
}

Result<bool> PeftConfig::targets_module(const std::string& module) const {
  MOEBIUS_ASSIGN(const bool excluded, hits(excluded_, module));
  if (excluded) return false;
  if (modules_.all_linear && modules_.given && module == "lm_head") return false;
  MOEBIUS_ASSIGN(const bool hit, hits(modules_, module));
  if (!hit || !layers_) return hit;
  constexpr std::string_view kLayers = "model.layers.";
  if (!module.starts_with(kLayers)) return false;
  int64_t layer = -1;
  std::from_chars(module.data() + kLayers.size(), module.data() + module.size(), layer);
  return layers_->contains(layer);
}

bool PeftConfig::targets_parameter(const std::string& parameter) const {
  return is_listed(parameters_, parameter);
}

size_t PeftConfig::regular_expressions() const {
  const auto slow = [](const auto& entry) { return !entry.first.is_name(); };
  return static_cast<size_t>(std::count_if(rank_patterns_.begin(), rank_patterns_.end(), slow) +
                             std::count_if(alpha_patterns_.begin(), alpha_patterns_.end(), slow));
}

PeftConfig::Scaling PeftConfig::scaling_of(int64_t rank, double alpha) const {
  const double r = static_cast<double>(rank);
  return {rank, static_cast<float>(alpha / (rank_stabilized_ ? std::sqrt(r) : r))};
}

Result<PeftConfig::Scaling> PeftConfig::scaling(const std::string& name) const {
  int64_t rank = rank_;
  double alpha = alpha_;
  for (const auto& [pattern, value] : rank_patterns_) {
    MOEBIUS_ASSIGN(const bool hit, pattern.matches(name));
    if (!hit) continue;
    rank = value;
    break;
  }
  for (const auto& [pattern, value] : alpha_patterns_) {
    MOEBIUS_ASSIGN(const bool hit, pattern.matches(name));
    if (!hit) continue;
    alpha = value;
    break;
  }
  return scaling_of(rank, alpha);
}

}  // namespace moebius
