#include "models/format_rule.h"

#include <algorithm>

#include <fmt/format.h>

#include "models/json_fields.h"

namespace moebius {
namespace {

constexpr std::string_view kExpression = "re:";
constexpr size_t kMaxExpressions = 1024;

DType dtype_of(Format plain) {
  if (plain == Format::kF32) return DType::kF32;
  return plain == Format::kF16 ? DType::kF16 : DType::kBF16;
}

Format plain_format(JsonFields& in) {
  const std::string name = in.text("torch_dtype", in.text("dtype", "bfloat16"));
  if (name == "float32") return Format::kF32;
  return name == "float16" ? Format::kF16 : Format::kBF16;
}

}  // namespace

Result<ModuleNames> ModuleNames::create(const std::vector<std::string>& entries, const std::string& origin) {
  ModuleNames names;
  for (const std::string& entry : entries) {
    if (!entry.starts_with(kExpression)) {
      names.parts_.insert(entry);
      continue;
    }
    if (names.patterns_.size() == kMaxExpressions)
      return invalid(fmt::format("{}: more than {} expressions for modules", origin, kMaxExpressions));
    MOEBIUS_ASSIGN(NamePattern pattern, NamePattern::starting(entry.substr(kExpression.size()), origin));
    names.patterns_.push_back(std::move(pattern));
  }
  return names;
}

Result<bool> ModuleNames::have(std::string_view module) const {
  const auto next_dot = [&](size_t from) { return std::min(module.find('.', from), module.size()); };
  for (size_t begin = 0; begin < module.size() && !parts_.empty(); begin = next_dot(begin) + 1) {
    for (size_t end = next_dot(begin);; end = next_dot(end + 1)) {
      if (parts_.contains(module.substr(begin, end - begin))) return true;
      if (end == module.size()) break;
    }
  }
  for (const NamePattern& pattern : patterns_) {
    MOEBIUS_ASSIGN(const bool matches, pattern.matches(module));
    if (matches) return true;
  }
  return false;
}

FormatRule::FormatRule(Format linear, bool experts_only) : experts_only_(experts_only) {
  if (linear == Format::kFp8Block || is_integer(linear))
    groups_.push_back({true, {}, linear, linear == Format::kFp8Block ? kFp8Block : kActivationGroup});
  else
    plain_ = linear;
}

Result<FormatRule> FormatRule::read(std::string_view json, const std::string& origin) {
  const nlohmann::json document = parse_json(json);
  JsonFields in(document, origin);
  JsonFields quant = in.object("quantization_config");
  FormatRule rule(plain_format(in));
  const std::string method = quant.text("quant_method", "");
  std::vector<std::string> left_out;
  if (method == "fp8") {
    rule.groups_.push_back({true, {}, Format::kFp8Block, kFp8Block});
    left_out = quant.texts("modules_to_not_convert");
  } else if (method == "compressed-tensors") {
    MOEBIUS_TRY(rule.read_groups(quant));
    left_out = quant.texts("ignore");
  }
  MOEBIUS_TRY(quant.status());
  MOEBIUS_TRY(in.status());
  MOEBIUS_ASSIGN(rule.left_out_, ModuleNames::create(left_out, origin));
  return rule;
}

Status FormatRule::read_groups(JsonFields& quant) {
  for (JsonFields& in : quant.objects("config_groups")) {
    JsonFields weights = in.object("weights");
    Group group;
    group.format = weights.integer("num_bits", 4, 1, 16) == 8 ? Format::kInt8 : Format::kInt4;
    if (weights.text("strategy", "group") == "group")
      group.columns = weights.integer("group_size", kActivationGroup, 1, 1 << 20);
    const std::vector<std::string> targets = in.texts("targets");
    group.all = targets.empty() || std::ranges::count(targets, "Linear") > 0;
    MOEBIUS_TRY(weights.status());
    MOEBIUS_TRY(in.status());
    MOEBIUS_ASSIGN(group.targets, ModuleNames::create(targets, in.origin()));
    groups_.push_back(std::move(group));
  }
  return quant.status();
}

// Null: the matrix is not quantised.
Result<const FormatRule::Group*> FormatRule::group_of(const std::string& module, Role role) const {
  if (groups_.empty() || role == Role::kEmbed || role == Role::kRouter) return nullptr;
  if (experts_only_ && role != Role::kExpert) return nullptr;
  MOEBIUS_ASSIGN(const bool left_out, left_out_.have(module));
  if (left_out) return nullptr;
  for (const Group& group : groups_) {
    MOEBIUS_ASSIGN(const bool named, group.targets.have(module));
    if (!named && !group.all) continue;
    return role == Role::kHead && group.format == Format::kFp8Block ? nullptr : &group;
  }
  return nullptr;
}

Result<Matrix> FormatRule::stored(const std::string& module, Role role, int64_t rows, int64_t cols) const {
  static constexpr char kSomewhere = 0;
  Matrix w;
  w.format = plain_, w.rows = rows, w.cols = cols;
  MOEBIUS_ASSIGN(const Group* const group, group_of(module, role));
  if (group == nullptr) return w;
  w.format = group->format;
  w.group = group->columns > 0 ? group->columns : cols;
  w.scale_dtype = is_integer(w.format) ? dtype_of(plain_) : DType::kF32;
  w.scales = &kSomewhere;
  return w;
}

}  // namespace moebius
