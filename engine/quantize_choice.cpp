#include "engine/quantize_choice.h"

#include <map>

#include <fmt/format.h>

#include "models/file_io.h"

namespace moebius {
namespace {

constexpr std::string_view kPattern = "re:";

std::optional<Role> role_of(const std::string& text) {
  static const std::map<std::string, Role> kRoles = {{"attention", Role::kAttention},
                                                     {"dense", Role::kDense},
                                                     {"shared", Role::kShared},
                                                     {"experts", Role::kExpert},
                                                     {"head", Role::kHead}};
  const auto at = kRoles.find(text);
  return at == kRoles.end() ? std::nullopt : std::optional(at->second);
}

// The whole of a dotted name, its first parts or its last.
bool is_part(const std::string& name, const std::string& part) {
  if (name == part) return true;
  return name.starts_with(part + ".") || name.ends_with("." + part);
}

}  // namespace

Result<QuantizeChoice> QuantizeChoice::create(const std::vector<std::string>& entries) {
  QuantizeChoice choice;
  for (const std::string& text : entries) {
    Entry entry{text, role_of(text), std::nullopt};
    if (text.starts_with(kPattern)) {
      MOEBIUS_ASSIGN(entry.pattern, NamePattern::whole(text.substr(kPattern.size()), "--keep"));
    }
    choice.entries_.push_back(std::move(entry));
  }
  return choice;
}

Result<bool> QuantizeChoice::takes(const std::string& module, Role role) {
  bool any = false;
  for (Entry& entry : entries_) {
    bool takes = entry.role ? *entry.role == role : is_part(module, entry.text);
    if (entry.pattern) {
      MOEBIUS_ASSIGN(takes, entry.pattern->matches(module));
    }
    entry.used |= takes;
    any |= takes;
  }
  return any;
}

Status QuantizeChoice::all_used() const {
  for (const Entry& entry : entries_) {
    if (entry.used || entry.role) continue;
    return invalid(fmt::format(
        "--keep: '{}' is no matrix of this model that can be quantised; give attention, dense, shared, "
        "experts, head, or names as `moebius inspect --tensors` lists them",
        printable(entry.text)));
  }
  return Status();
}

}  // namespace moebius
