#include "models/constraint/json_schema.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include <fmt/format.h>

#include "models/constraint/regex.h"
#include "models/constraint/schema_compiler.h"
#include "models/file_io.h"
#include "models/tokenizer_text.h"

namespace moebius {

namespace {

enum Type : unsigned {
  kNull = 1,
  kBoolean = 2,
  kInteger = 4,
  kNumber = 8,
  kString = 16,
  kArray = 32,
  kObject = 64
};
constexpr unsigned kAnyType = kNull | kBoolean | kInteger | kNumber | kString | kArray | kObject;
constexpr std::pair<const char*, unsigned> kTypes[] = {
    {"null", kNull},     {"boolean", kBoolean}, {"integer", kInteger}, {"number", kInteger | kNumber},
    {"string", kString}, {"array", kArray},     {"object", kObject}};

constexpr const char* kRefused[] = {"not",
                                    "if",
                                    "then",
                                    "else",
                                    "dependentRequired",
                                    "dependentSchemas",
                                    "dependencies",
                                    "contains",
                                    "minContains",
                                    "maxContains",
                                    "propertyNames",
                                    "$dynamicRef",
                                    "$recursiveRef",
                                    "unevaluatedProperties",
                                    "unevaluatedItems",
                                    "additionalItems"};

constexpr const char* kKept[] = {"type",
                                 "enum",
                                 "const",
                                 "anyOf",
                                 "oneOf",
                                 "allOf",
                                 "$ref",
                                 "properties",
                                 "required",
                                 "additionalProperties",
                                 "items",
                                 "prefixItems",
                                 "minItems",
                                 "maxItems",
                                 "minLength",
                                 "maxLength",
                                 "pattern",
                                 "format",
                                 "minimum",
                                 "maximum",
                                 "multipleOf",
                                 "exclusiveMinimum",
                                 "exclusiveMaximum",
                                 "minProperties",
                                 "maxProperties",
                                 "patternProperties",
                                 "uniqueItems"};

bool restricts(std::string_view key) {
  const auto is_key = [&](const char* name) { return key == name; };
  return std::any_of(std::begin(kKept), std::end(kKept), is_key) ||
         std::any_of(std::begin(kRefused), std::end(kRefused), is_key);
}

// A keyword with a value that restricts nothing.
bool is_vacuous(std::string_view key, const Schema& value) {
  if (value.is_null()) return true;
  if (key == "uniqueItems") return value == false;
  if (key == "minProperties") return value == 0;
  if (key == "propertyNames") return value == true || value == Schema{{"type", "string"}};
  if (key == "patternProperties" || key == "dependentRequired" || key == "dependentSchemas" ||
      key == "dependencies")
    return value.is_object() && value.empty();
  return false;
}

unsigned type_of_value(const Schema& value) {
  switch (value.type()) {
    case Schema::value_t::null:
      return kNull;
    case Schema::value_t::boolean:
      return kBoolean;
    case Schema::value_t::number_integer:
    case Schema::value_t::number_unsigned:
      return kInteger;
    case Schema::value_t::number_float: {
      const double number = value.get<double>();
      return number == std::floor(number) ? kInteger : kNumber;
    }
    case Schema::value_t::string:
      return kString;
    case Schema::value_t::array:
      return kArray;
    default:
      return kObject;
  }
}

// The values that enum and const leave; nothing where they restrict nothing.
std::optional<std::vector<Schema>> finite_values(const Schema& s) {
  if (!s.is_object()) return {};
  if (s.contains("const")) return std::vector<Schema>{s["const"]};
  if (!s.contains("enum") || !s["enum"].is_array()) return {};
  return std::vector<Schema>(s["enum"].begin(), s["enum"].end());
}

std::string text_of(const Schema& value) {
  return value.dump(-1, ' ', false, Schema::error_handler_t::replace);
}

}  // namespace

void SchemaCompiler::wrong(const Place& place, std::string_view what) {
  g_.fail(invalid(fmt::format("the schema is wrong at {}: {}", printable(place.pointer), what)));
}

void SchemaCompiler::refuse(const Place& place, std::string_view what) {
  g_.fail(unsupported(
      fmt::format("the schema uses {} at {}, which is not supported", what, printable(place.pointer))));
}

Result<ExprId> SchemaCompiler::compile(const Schema& part) {
  const ExprId root = schema(part, {});
  while (!waiting_.empty() && g_.status().ok()) {
    const auto [pointer, rule] = waiting_.back();
    waiting_.pop_back();
    if (const Schema* target = find(pointer)) {
      const ExprId body = schema(*target, {pointer, 0});
      if (g_.status().ok()) g_.define(rule, body);
    }
  }
  if (!g_.status().ok()) return g_.status();
  return root;
}

bool SchemaCompiler::refuse_keywords(const Schema& s, const Place& place) {
  for (const char* key : kRefused) {
    if (!s.contains(key) || is_vacuous(key, s[key])) continue;
    refuse(place, fmt::format("`{}`", key));
    return true;
  }
  return false;
}

ExprId SchemaCompiler::schema(const Schema& s, const Place& place) {
  if (!g_.status().ok()) return 0;
  if (place.depth > 2 * g_.limits().nesting) {
    wrong(place, "schemas nest too deep");
    return 0;
  }
  if (s.is_boolean()) return s.get<bool>() ? t_.value() : g_.never();
  if (!s.is_object()) {
    wrong(place, "a schema is an object, true or false");
    return 0;
  }
  if (refuse_keywords(s, place)) return 0;
  if (s.contains("$ref")) return reference(s, place);
  if (s.contains("allOf")) return all_of(s, place);
  if (s.contains("anyOf")) return alternatives(s, "anyOf", place);
  if (s.contains("oneOf")) return alternatives(s, "oneOf", place);
  if (s.contains("const") || s.contains("enum")) return values(s, place);
  return typed(s, place);
}

unsigned SchemaCompiler::types_of(const Schema& s) const {
  if (s.is_boolean()) return s.get<bool>() ? kAnyType : 0;
  unsigned types = kAnyType;
  if (s.is_object() && s.contains("type")) {
    const Schema& type = s["type"];
    types = 0;
    for (const Schema& one : type.is_array() ? type : Schema::array({type})) {
      for (const auto& [name, bits] : kTypes) {
        if (one == name) types |= bits;
      }
    }
  }
  if (const auto all = finite_values(s)) {
    unsigned found = 0;
    for (const Schema& value : *all) found |= type_of_value(value);
    types &= found;
  }
  return types;
}

ExprId SchemaCompiler::typed(const Schema& s, const Place& place) {
  if (s.contains("type")) {
    const Schema& type = s["type"];
    for (const Schema& one : type.is_array() ? type : Schema::array({type})) {
      const bool known =
          std::any_of(std::begin(kTypes), std::end(kTypes), [&](const auto& t) { return one == t.first; });
      if (!known) wrong(place, "`type` is none of null, boolean, integer, number, string, array, object");
    }
  }
  const unsigned types = types_of(s);
  if (types == kAnyType) {
    bool any = true;
    for (const auto& [key, value] : s.items()) any &= !restricts(key) || is_vacuous(key, value);
    if (any) return t_.value();
  }
  std::vector<ExprId> ways;
  if (types & kObject) ways.push_back(object(s, place));
  if (types & kArray) ways.push_back(array(s, place));
  if (types & kString) ways.push_back(string(s, place));
  if (types & (kNumber | kInteger)) ways.push_back(number(s, (types & kNumber) == 0, place));
  if (types & kBoolean) ways.push_back(g_.any_of({"true", "false"}));
  if (types & kNull) ways.push_back(g_.literal("null"));
  return g_.choice(std::move(ways));
}

ExprId SchemaCompiler::values(const Schema& s, const Place& place) {
  if (s.contains("enum") && (!s["enum"].is_array() || s["enum"].empty())) {
    wrong(place, "`enum` is a list of at least one value");
    return 0;
  }
  for (const auto& [key, value] : s.items()) {
    if (!restricts(key) || key == "type" || key == "enum" || key == "const") continue;
    // Of another type than all the values, a keyword has no say.
    const bool of_strings = key == "minLength" || key == "maxLength" || key == "pattern" || key == "format";
    if (!is_vacuous(key, value) && !(of_strings && !(types_of(s) & kString)))
      refuse(place, fmt::format("`{}` together with `enum` or `const`", key));
  }
  Schema only_type = Schema::object();
  if (s.contains("type")) only_type["type"] = s["type"];
  const unsigned types = types_of(only_type);
  std::vector<std::string> texts;  // of plain values, the likely case, which become one tree
  std::vector<ExprId> ways;
  const std::vector<Schema> all = finite_values(s).value_or(std::vector<Schema>());
  for (const Schema& value : all) {
    const bool listed = !s.contains("const") || !s.contains("enum") ||
                        std::find(s["enum"].begin(), s["enum"].end(), value) != s["enum"].end();
    if (!listed || !(type_of_value(value) & types)) continue;
    if (value.is_structured() && !value.empty()) {
      ways.push_back(this->value(value));
    } else {
      texts.push_back(text_of(value));
    }
  }
  if (!texts.empty() || ways.empty()) ways.push_back(g_.any_of(std::move(texts)));
  return g_.choice(std::move(ways));
}

// One value with the spaces that are allowed between its parts; as deep as JSON documents may be.
ExprId SchemaCompiler::value(const Schema& v) {
  if (!v.is_structured() || v.empty()) return g_.literal(text_of(v));
  std::vector<ExprId> parts = {g_.literal(v.is_array() ? "[" : "{"), t_.space()};
  for (const auto& [key, item] : v.items()) {
    if (parts.size() > 2) parts.push_back(t_.comma());
    parts.push_back(v.is_array() ? value(item) : t_.member(g_.literal(text_of(key)), value(item)));
  }
  parts.push_back(t_.space());
  parts.push_back(g_.literal(v.is_array() ? "]" : "}"));
  return g_.sequence(std::move(parts));
}

int64_t SchemaCompiler::count(const Schema& s, const char* key, int64_t absent, const Place& place) {
  constexpr int64_t kMost = 1'000'000'000;
  if (!s.contains(key) || s[key].is_null()) return absent;
  const Schema& value = s[key];
  const double number = value.is_number() ? value.get<double>() : -1;
  if (number < 0 || number != std::floor(number)) {
    wrong(place, fmt::format("`{}` is a whole number from 0 on", key));
    return absent;
  }
  return number > static_cast<double>(kMost) ? kMost : static_cast<int64_t>(number);
}

ExprId SchemaCompiler::string(const Schema& s, const Place& place) {
  const int64_t min = count(s, "minLength", 0, place), max = count(s, "maxLength", kNoMaximum, place);
  const bool has_pattern = s.contains("pattern"), has_format = s.contains("format");
  if (has_pattern && has_format) {
    refuse(place, "`pattern` together with `format`");
    return 0;
  }
  if (has_pattern) {
    if (!s["pattern"].is_string()) wrong(place, "`pattern` is a string");
    return g_.status().ok() ? pattern(s["pattern"].get<std::string>(), min, max, place.at("pattern")) : 0;
  }
  if (has_format) {
    if (!s["format"].is_string()) wrong(place, "`format` is a string");
    const std::string name = g_.status().ok() ? s["format"].get<std::string>() : "";
    const char* regex = json_format_pattern(name);
    if (regex == nullptr) refuse(place, fmt::format("the format `{}`", printable(name, 40)));
    return g_.status().ok() ? pattern(regex, min, max, place.at("format")) : 0;
  }
  return t_.string(min, max);
}

ExprId SchemaCompiler::pattern(const std::string& regex, int64_t min, int64_t max, const Place& place) {
  Result<RegexExpr> found = add_regex(g_, regex, {.json = true, .search = true});
  if (!found.ok()) {
    g_.fail({found.status().code(),
             fmt::format("at {} of the schema, {}", printable(place.pointer), found.status().message())});
    return 0;
  }
  const bool below = max != kNoMaximum && (found->max == kNoMaximum || found->max > max);
  if (found->single) {
    const int64_t low = std::max(found->min, min), high = below ? max : found->max;
    return t_.quoted(g_.repeat(found->expr, low, high));
  }
  if (below || found->min < min) {
    refuse(place, "a pattern or format that allows other lengths than `minLength` and `maxLength`");
    return 0;
  }
  return t_.quoted(found->expr);
}

ExprId SchemaCompiler::number(const Schema& s, bool whole, const Place& place) {
  const NumberRange bounds = range(s, place);
  if (!s.contains("multipleOf")) return whole ? t_.integer(bounds) : t_.number(bounds);
  constexpr double kLargest = 1e15;
  const double step = s["multipleOf"].is_number() ? s["multipleOf"].get<double>() : 0;
  if (step <= 0) wrong(place, "`multipleOf` is a number above 0");
  if (step != std::floor(step) || step > kLargest) refuse(place, "`multipleOf` a number that is not whole");
  return g_.status().ok() ? t_.multiple(static_cast<int64_t>(step), bounds) : 0;
}

NumberRange SchemaCompiler::range(const Schema& s, const Place& place) {
  NumberRange out;
  const auto bound = [&](const char* key) -> std::optional<double> {
    if (!s.contains(key) || s[key].is_null()) return {};
    if (!s[key].is_number() || !std::isfinite(s[key].get<double>())) {
      wrong(place, fmt::format("`{}` is a number", key));
      return {};
    }
    return s[key].get<double>();
  };
  out.low = bound("minimum");
  out.high = bound("maximum");
  const auto low = bound("exclusiveMinimum"), high = bound("exclusiveMaximum");
  if (low && (!out.low || *low >= *out.low)) out.low = low, out.low_excluded = true;
  if (high && (!out.high || *high <= *out.high)) out.high = high, out.high_excluded = true;
  return out;
}

ExprId SchemaCompiler::array(const Schema& s, const Place& place) {
  const int64_t min = count(s, "minItems", 0, place), max = count(s, "maxItems", kNoMaximum, place);
  if (s.contains("uniqueItems") && !is_vacuous("uniqueItems", s["uniqueItems"])) {
    if (s["uniqueItems"] != true) wrong(place, "`uniqueItems` is true or false");
    if (max == kNoMaximum || max > 1) return unique_list(s, min, max, place);
  }
  std::vector<ExprId> first;
  if (s.contains("prefixItems")) {
    if (!s["prefixItems"].is_array()) wrong(place, "`prefixItems` is a list of schemas");
    for (size_t i = 0; i < s["prefixItems"].size() && g_.status().ok(); ++i)
      first.push_back(schema(s["prefixItems"][i], place.at("prefixItems").at(std::to_string(i))));
  }
  if (s.contains("items") && s["items"].is_array()) refuse(place, "`items` as a list (write `prefixItems`)");
  if (!g_.status().ok()) return 0;
  const ExprId item = s.contains("items") ? schema(s["items"], place.at("items")) : t_.value();
  const auto fixed = static_cast<int64_t>(first.size());
  if (fixed == 0) return t_.list('[', item, min, max, ']');
  // From the last to the first: what may follow once so many items are written.
  const int64_t rest_max = max == kNoMaximum ? kNoMaximum : std::max<int64_t>(max - fixed, 0);
  ExprId tail = g_.repeat(g_.sequence({t_.comma(), item}), std::max<int64_t>(min - fixed, 0), rest_max);
  for (int64_t i = fixed - 1; i >= 0; --i) {
    const ExprId here = i == 0 ? g_.sequence({first[0], tail})
                               : g_.sequence({t_.comma(), first[static_cast<size_t>(i)], tail});
    tail = max != kNoMaximum && i >= max ? g_.empty() : i >= min ? g_.optional(here) : here;
  }
  return g_.sequence({g_.literal("["), t_.space(), tail, t_.space(), g_.literal("]")});
}

// Lists of values that are given one by one: what may follow depends on which of them are written.
ExprId SchemaCompiler::unique_list(const Schema& s, int64_t min, int64_t max, const Place& place) {
  constexpr size_t kMost = 8;
  const Schema items = s.contains("items") ? s["items"] : Schema::object();
  std::vector<Schema> distinct;
  for (const Schema& value : finite_values(items).value_or(std::vector<Schema>())) {
    if (std::find(distinct.begin(), distinct.end(), value) == distinct.end()) distinct.push_back(value);
  }
  if (distinct.empty() || distinct.size() > kMost || s.contains("prefixItems")) {
    refuse(place, fmt::format("`uniqueItems`, unless `items` is an `enum` of at most {} values", kMost));
    return 0;
  }
  std::vector<ExprId> texts;
  for (const Schema& value : distinct) {
    Schema only = items;
    only.erase("enum");
    only["const"] = value;
    texts.push_back(schema(only, place.at("items")));
  }
  const size_t sets = size_t{1} << texts.size();
  std::vector<ExprId> rest(sets);  // [written]: what may follow
  for (size_t written = sets; written-- > 0;) {
    const auto n = static_cast<int64_t>(std::popcount(written));
    std::vector<ExprId> ways;
    if (n >= min) ways.push_back(n == 0 ? g_.empty() : t_.space());
    for (size_t i = 0; i < texts.size() && (max == kNoMaximum || n < max); ++i) {
      if (const size_t bit = size_t{1} << i; (written & bit) == 0)
        ways.push_back(n == 0 ? g_.sequence({texts[i], rest[written | bit]})
                              : g_.sequence({t_.comma(), texts[i], rest[written | bit]}));
    }
    rest[written] = g_.call(g_.add_rule(g_.choice(std::move(ways))));
  }
  return g_.sequence({g_.literal("["), t_.space(), rest[0], g_.literal("]")});
}

// A member whose name the one pattern finds; other names are of nobody else.
ExprId SchemaCompiler::pattern_member(const Schema& s, const Place& place) {
  const Schema& patterns = s["patternProperties"];
  if (!patterns.is_object()) {
    wrong(place, "`patternProperties` is an object of schemas");
    return 0;
  }
  const bool named = s.contains("properties") && !s["properties"].empty();
  const bool required = s.contains("required") && !s["required"].empty();
  if (patterns.size() != 1 || named || required || s.value("additionalProperties", Schema()) != false) {
    refuse(place,
           "`patternProperties`, unless it is one pattern with `additionalProperties: false`, no "
           "`properties` and "
           "nothing required");
    return 0;
  }
  const auto one = patterns.begin();
  const Place at = place.at("patternProperties");
  const ExprId name = pattern(one.key(), 0, kNoMaximum, at);
  return t_.member(name, schema(one.value(), at.at(one.key())));
}

bool SchemaCompiler::read_members(const Schema& s, const Place& place, std::vector<Member>& out,
                                  ExprId& more) {
  const Schema none = Schema::object();
  const Schema& properties = s.contains("properties") ? s["properties"] : none;
  const Schema required = s.contains("required") ? s["required"] : Schema::array();
  const auto is_text = [](const Schema& v) { return v.is_string(); };
  if (!properties.is_object()) wrong(place, "`properties` is an object of schemas");
  if (!required.is_array() || !std::all_of(required.begin(), required.end(), is_text))
    wrong(place, "`required` is a list of names");
  if (!g_.status().ok()) return false;
  const bool open = s.contains("additionalProperties") || properties.empty();
  const Schema additional = !open ? Schema(false) : s.value("additionalProperties", Schema(true));
  std::vector<std::string> names;
  std::map<std::string, bool> is_required;
  for (const Schema& name : required) is_required[name.get<std::string>()] = true;
  const auto add = [&](const std::string& name, const Schema& value, bool needed, const Place& at) {
    names.push_back(name);
    if (value == false && !needed) return;
    out.push_back({t_.member(g_.literal(text_of(name)), schema(value, at)), needed});
  };
  for (const auto& [name, value] : properties.items()) {
    add(name, value, is_required.count(name) > 0, place.at("properties").at(name));
    is_required.erase(name);
  }
  for (const Schema& name : required) {
    if (is_required.erase(name.get<std::string>()) > 0)
      add(name.get<std::string>(), additional, true, place.at("additionalProperties"));
  }
  if (s.contains("patternProperties") && !is_vacuous("patternProperties", s["patternProperties"])) {
    more = pattern_member(s, place);
    return g_.status().ok();
  }
  more = additional == false ? g_.never()
                             : t_.member(names.empty() ? t_.string() : t_.key_other_than(names),
                                         schema(additional, place.at("additionalProperties")));
  return g_.status().ok();
}

// Commas between members of which some may be missing: up to the first one that is required a comma comes
// after each, from there on before each; where none is required, rules go on from whichever comes first.
ExprId SchemaCompiler::members(const std::vector<Member>& all, ExprId more) {
  const bool may_have_more = g_.expr(more).kind != Grammar::Kind::kNever;
  const auto before = [&](const Member& m) {
    const ExprId with_comma = g_.sequence({t_.comma(), m.text});
    return m.required ? with_comma : g_.optional(with_comma);
  };
  const ExprId last = may_have_more ? g_.repeat(g_.sequence({t_.comma(), more}), 0, kNoMaximum) : g_.empty();
  const auto first = std::find_if(all.begin(), all.end(), [](const Member& m) { return m.required; });
  if (first != all.end()) {
    std::vector<ExprId> parts;
    for (auto m = all.begin(); m != first; ++m)
      parts.push_back(g_.optional(g_.sequence({m->text, t_.comma()})));
    parts.push_back(first->text);
    for (auto m = first + 1; m != all.end(); ++m) parts.push_back(before(*m));
    parts.push_back(last);
    return g_.sequence({g_.sequence(std::move(parts)), t_.space()});
  }
  // [i]: what may follow once member i - 1 is written
  std::vector<ExprId> rest(all.size() + 1);
  rest[all.size()] = last;
  for (size_t i = all.size(); i-- > 0;)
    rest[i] = g_.call(g_.add_rule(g_.sequence({before(all[i]), rest[i + 1]})));
  std::vector<ExprId> ways = {g_.empty()};
  for (size_t i = 0; i < all.size(); ++i) ways.push_back(g_.sequence({all[i].text, rest[i + 1], t_.space()}));
  if (may_have_more) ways.push_back(g_.sequence({more, last, t_.space()}));
  return g_.choice(std::move(ways));
}

// The same where the number of members is bounded: what may follow depends on how many are written.
ExprId SchemaCompiler::counted_members(const std::vector<Member>& all, ExprId more, int64_t min,
                                       int64_t max) {
  const bool may_have_more = g_.expr(more).kind != Grammar::Kind::kNever;
  const auto within = [&](int64_t n) { return max == kNoMaximum || n <= max; };
  // [written]: what may follow the members so far; first after the last of them
  std::vector<ExprId> rest(all.size() + 1);
  for (int64_t n = 0; n <= std::ssize(all); ++n) {
    const ExprId end = n == 0 ? g_.empty() : t_.space();
    ExprId& here = rest[static_cast<size_t>(n)] = n >= min && within(n) ? end : g_.never();
    if (!may_have_more || !within(n + 1)) continue;
    const int64_t least = std::max<int64_t>(min - n, 1), most = max == kNoMaximum ? kNoMaximum : max - n;
    const ExprId next = g_.sequence({t_.comma(), more});
    const ExprId some =
        n > 0 ? g_.repeat(next, least, most)
              : g_.sequence({more, g_.repeat(next, least - 1, most == kNoMaximum ? kNoMaximum : most - 1)});
    here = g_.choice({here, g_.sequence({some, t_.space()})});
  }
  for (size_t i = all.size(); i-- > 0;) {
    for (size_t n = 0; n <= i; ++n) {  // upwards: n + 1 is still of the members after this one
      const ExprId text = n == 0 ? all[i].text : g_.sequence({t_.comma(), all[i].text});
      std::vector<ExprId> ways = {g_.sequence({text, rest[n + 1]})};
      if (!all[i].required) ways.push_back(rest[n]);
      rest[n] = g_.call(g_.add_rule(g_.choice(std::move(ways))));
    }
  }
  return rest[0];
}

ExprId SchemaCompiler::object(const Schema& s, const Place& place) {
  const int64_t min = count(s, "minProperties", 0, place), max = count(s, "maxProperties", kNoMaximum, place);
  std::vector<Member> all;
  ExprId more = 0;
  if (!read_members(s, place, all, more)) return 0;
  const auto required = std::count_if(all.begin(), all.end(), [](const Member& m) { return m.required; });
  if (min > required || max != kNoMaximum) {
    // Names that are not given one by one may come twice, and then count once.
    if (min > std::max<int64_t>(required, 1) && g_.expr(more).kind != Grammar::Kind::kNever) {
      refuse(place, "`minProperties`, unless `additionalProperties` is false or so many are required");
      return 0;
    }
    return g_.sequence({g_.literal("{"), t_.space(), counted_members(all, more, min, max), g_.literal("}")});
  }
  return g_.sequence({g_.literal("{"), t_.space(), members(all, more), g_.literal("}")});
}

Result<ExprId> add_json_schema(JsonText& text, const Schema& document, const Schema* part) {
  return SchemaCompiler(text, document).compile(part == nullptr ? document : *part);
}

}  // namespace moebius
