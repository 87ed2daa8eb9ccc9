#include <algorithm>

#include <fmt/core.h>

#include "models/jinja/call.h"

namespace moebius::jinja {

Parameters::Parameters(const Arguments& args, std::string_view function,
                       std::initializer_list<std::string_view> names, size_t required)
    : function_(function), values_(names.size(), nullptr) {
  if (args.positional.size() > names.size()) {
    fail(fmt::format("{} takes no more than {} arguments", function, names.size()));
  }
  for (size_t i = 0; i < args.positional.size(); ++i) values_[i] = &args.positional[i];
  for (const auto& [name, value] : args.named) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) fail(fmt::format("{} has no parameter '{}'", function, name));
    const Value*& slot = values_[static_cast<size_t>(found - names.begin())];
    if (slot != nullptr) fail(fmt::format("{} got the argument '{}' twice", function, name));
    slot = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr) fail(fmt::format("{} needs at least {} arguments", function, required));
  }
}

int64_t Parameters::integer(size_t i, int64_t fallback) const {
  if (values_[i] == nullptr) return fallback;
  if (values_[i]->is_undefined()) fail_undefined(*values_[i]);
  const auto value = as_int(*values_[i]);
  if (!value) fail(fmt::format("{} needs an integer, not {}", function_, type_name(*values_[i])));
  return clamp_int(*value);
}

const std::string& Parameters::text(size_t i) const {
  if (values_[i] == nullptr || !values_[i]->is_string()) {
    if (values_[i] != nullptr && values_[i]->is_undefined()) fail_undefined(*values_[i]);
    fail(fmt::format("{} needs a string{}", function_,
                     values_[i] == nullptr ? "" : ", not " + type_name(*values_[i])));
  }
  return values_[i]->text();
}

Native find_native(std::span<const NativeEntry> table, std::string_view name) {
  const auto found =
      std::find_if(table.begin(), table.end(), [&](const NativeEntry& e) { return e.name == name; });
  return found == table.end() ? nullptr : found->function;
}

Native find_filter(std::string_view name) {
  for (const auto table : {text_filters(), number_filters(), sequence_filters(), selection_filters()}) {
    if (const Native found = find_native(table, name)) return found;
  }
  return nullptr;
}

Native find_method(const Value& self, std::string_view name) {
  if (self.is_string()) {
    const Native found = find_native(string_methods(), name);
    return found != nullptr ? found : find_native(string_predicates(), name);
  }
  if (!self.is_object()) return nullptr;
  switch (self.object()->kind) {
    case ObjectKind::kList:
      return find_native(list_methods(), name);
    case ObjectKind::kTuple:
    case ObjectKind::kRange:
      return find_native(tuple_methods(), name);
    case ObjectKind::kDict:
      return find_native(dict_methods(), name);
    default:
      return nullptr;
  }
}

}  // namespace moebius::jinja
