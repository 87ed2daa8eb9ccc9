// What ties schemas together: $ref, allOf, anyOf and oneOf.
#include <algorithm>

#include <fmt/format.h>

#include "models/constraint/schema_compiler.h"
#include "models/file_io.h"

namespace moebius {

namespace {

constexpr int kChain = 16;           // references to references
constexpr int kSchemaMerges = 1000;  // of a document: each copies schemas
constexpr size_t kParts = 100;       // of allOf and oneOf, and names looked at to tell two objects apart
constexpr size_t kPairs = 100'000;   // of values that are compared

// ~1, ~0 and %XX undone.
std::string unescape(std::string_view token) {
  std::string out;
  for (size_t i = 0; i < token.size(); ++i) {
    const std::string_view rest = token.substr(i);
    if (rest.starts_with("~1") || rest.starts_with("~0")) {
      out += rest[1] == '1' ? '/' : '~';
      ++i;
    } else if (rest.size() > 2 && rest[0] == '%' && std::isxdigit(static_cast<unsigned char>(rest[1])) &&
               std::isxdigit(static_cast<unsigned char>(rest[2]))) {
      out += static_cast<char>(std::stoi(std::string(rest.substr(1, 2)), nullptr, 16));
      i += 2;
    } else {
      out += token[i];
    }
  }
  return out;
}

constexpr const char* kIgnored[] = {"title",      "description", "default",   "examples",     "$comment",
                                    "deprecated", "readOnly",    "writeOnly", "$schema",      "$id",
                                    "$defs",      "definitions", "$anchor",   "discriminator"};

bool is_ignored(std::string_view key) {
  return std::any_of(std::begin(kIgnored), std::end(kIgnored), [&](const char* name) { return key == name; });
}

// The schema without a keyword and without what says nothing; an object without keys restricts nothing.
Schema without(const Schema& s, std::string_view key) {
  Schema out = Schema::object();
  for (const auto& [name, value] : s.items()) {
    if (name != key && !is_ignored(name)) out[name] = value;
  }
  return out;
}

}  // namespace

const Schema* SchemaCompiler::find(const std::string& pointer) const {
  const Schema* at = &document_;
  for (size_t begin = 1; begin < pointer.size();) {
    const size_t end = std::min(pointer.find('/', begin + 1), pointer.size());
    if (pointer[begin] != '/') return nullptr;
    const std::string key = unescape(std::string_view(pointer).substr(begin + 1, end - begin - 1));
    if (at->is_object() && at->contains(key)) {
      at = &(*at)[key];
    } else if (at->is_array() && !key.empty() && key.size() < 7 &&
               std::all_of(key.begin(), key.end(), [](unsigned char c) { return std::isdigit(c); }) &&
               static_cast<size_t>(std::stoi(key)) < at->size()) {
      at = &(*at)[static_cast<size_t>(std::stoi(key))];
    } else {
      return nullptr;
    }
    begin = end;
  }
  return at;
}

ExprId SchemaCompiler::reference(const Schema& s, const Place& place) {
  const Schema rest = without(s, "$ref");
  if (!rest.empty()) {  // keywords beside it hold too
    const Schema* target = resolve(s, place);
    return target == nullptr ? 0 : schema(merged(*target, rest, place), place);
  }
  if (!s["$ref"].is_string()) {
    wrong(place, "`$ref` is a string");
    return 0;
  }
  const std::string pointer = s["$ref"].get<std::string>();
  if (!pointer.starts_with('#')) {
    refuse(place, "a `$ref` out of the document");
    return 0;
  }
  if (find(pointer) == nullptr) {
    wrong(place, fmt::format("`$ref` to {}, which is not there", printable(pointer, 100)));
    return 0;
  }
  const auto [at, added] = references_.try_emplace(pointer, 0);
  if (added) {
    at->second = g_.add_rule();
    waiting_.push_back({pointer, at->second});
  }
  return g_.call(at->second);
}

const Schema* SchemaCompiler::resolve(const Schema& s, const Place& place) {
  const Schema* at = &s;
  for (int i = 0; i < kChain && at != nullptr; ++i) {
    if (!at->is_object() || !at->contains("$ref")) return at;
    const Schema& pointer = (*at)["$ref"];
    const bool alone = i == 0 || without(*at, "$ref").empty();
    at = alone && pointer.is_string() && pointer.get_ref<const std::string&>().starts_with('#')
             ? find(pointer.get<std::string>())
             : nullptr;
  }
  wrong(place, "`$ref` leads nowhere");
  return nullptr;
}

Schema SchemaCompiler::merged(const Schema& a, const Schema& b, const Place& place) {
  if (++merges_ > kSchemaMerges) {
    wrong(place, "too many schemas hold together");
    return false;
  }
  if (a == true || b == true) return a == true ? b : a;
  if (a == false || b == false) return false;
  if (!a.is_object() || !b.is_object()) {
    wrong(place, "a schema is an object, true or false");
    return false;
  }
  Schema out = without(a, "");
  const Schema other = without(b, "");
  // What an object may hold beyond its properties depends on the properties beside it.
  const auto closes = [](const Schema& one, const Schema& another) {
    return one.contains("additionalProperties") &&
           (another.contains("properties") || another.contains("patternProperties"));
  };
  if (closes(a, b) || closes(b, a))
    refuse(place, "`additionalProperties` in one and `properties` in another of schemas that hold together");
  for (const auto& [key, value] : other.items()) {
    if (!out.contains(key) || out[key] == value) {
      out[key] = value;
    } else if (key == "required" && out[key].is_array() && value.is_array()) {
      for (const Schema& name : value) out[key].push_back(name);
    } else if (key == "properties" && out[key].is_object() && value.is_object()) {
      for (const auto& [name, property] : value.items())
        out[key][name] = out[key].contains(name) ? merged(out[key][name], property, place) : property;
    } else {
      refuse(place, fmt::format("`{}` in two schemas that hold together", printable(key, 40)));
    }
  }
  return out;
}

ExprId SchemaCompiler::all_of(const Schema& s, const Place& place) {
  if (!s["allOf"].is_array() || s["allOf"].empty()) {
    wrong(place, "`allOf` is a list of at least one schema");
    return 0;
  }
  if (s["allOf"].size() > kParts) {
    refuse(place, fmt::format("`allOf` of more than {} schemas", kParts));
    return 0;
  }
  const Schema rest = without(s, "allOf");
  if (rest.empty() && s["allOf"].size() == 1) return schema(s["allOf"][0], place.at("allOf"));
  Schema sum = rest;
  for (const Schema& part : s["allOf"]) {
    const Schema* target = resolve(part, place);
    if (target == nullptr || !g_.status().ok()) return 0;
    sum = merged(sum, *target, place);
  }
  return schema(sum, place.at("allOf"));
}

ExprId SchemaCompiler::alternatives(const Schema& s, const char* key, const Place& place) {
  const Schema& list = s[key];
  if (!list.is_array() || list.empty()) {
    wrong(place, fmt::format("`{}` is a list of at least one schema", key));
    return 0;
  }
  if (std::string_view(key) == "oneOf") {
    if (list.size() > kParts) refuse(place, fmt::format("`oneOf` of more than {} schemas", kParts));
    for (size_t i = 0; i < list.size() && g_.status().ok(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        if (!exclude_each_other(list[i], list[j], place, 0) && g_.status().ok())
          refuse(place, "`oneOf` of schemas that may hold together (write `anyOf`)");
      }
    }
  }
  const Schema rest = without(s, key);
  std::vector<ExprId> ways;
  for (size_t i = 0; i < list.size() && g_.status().ok(); ++i) {
    const Place at = place.at(key).at(std::to_string(i));
    if (rest.empty()) {
      ways.push_back(schema(list[i], at));
      continue;
    }
    const Schema* target = resolve(list[i], place);
    if (target != nullptr) ways.push_back(schema(merged(rest, *target, at), at));
  }
  return g_.choice(std::move(ways));
}

bool SchemaCompiler::exclude_each_other(const Schema& first, const Schema& second, const Place& place,
                                        int depth) {
  const Schema *a = resolve(first, place), *b = resolve(second, place);
  if (a == nullptr || b == nullptr) return false;
  const unsigned common = types_of(*a) & types_of(*b);
  if (common == 0) return true;
  if (!a->is_object() || !b->is_object()) return false;
  const auto has_value = [](const Schema& s, const Schema& value) {
    if (s.contains("const")) return s["const"] == value;
    return std::find(s["enum"].begin(), s["enum"].end(), value) != s["enum"].end();
  };
  const auto finite = [](const Schema& s) {
    return s.contains("const") || (s.contains("enum") && s["enum"].is_array());
  };
  if (finite(*a) && finite(*b)) {
    const auto count = [](const Schema& s) { return s.contains("const") ? 1 : s["enum"].size(); };
    if (count(*a) * count(*b) > kPairs) return false;
    if (a->contains("const")) return !has_value(*b, (*a)["const"]);
    return std::none_of((*a)["enum"].begin(), (*a)["enum"].end(),
                        [&](const Schema& v) { return has_value(*b, v); });
  }
  // Both are objects, and a property that both must have tells them apart.
  const unsigned object = types_of(Schema{{"type", "object"}});
  if (common != object || depth > 2) return false;
  const auto requires_property = [](const Schema& s, const std::string& name) {
    return s.contains("required") && s["required"].is_array() && s["required"].size() <= kParts &&
           s.contains("properties") && s["properties"].is_object() && s["properties"].contains(name) &&
           std::find(s["required"].begin(), s["required"].end(), name) != s["required"].end();
  };
  if (!a->contains("properties") || !(*a)["properties"].is_object()) return false;
  if ((*a)["properties"].size() > kParts) return false;
  for (const auto& [name, value] : (*a)["properties"].items()) {
    if (requires_property(*a, name) && requires_property(*b, name) &&
        exclude_each_other(value, (*b)["properties"][name], place, depth + 1))
      return true;
  }
  return false;
}

}  // namespace moebius
