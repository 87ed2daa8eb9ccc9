#include "models/constraint/json_text.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "models/constraint/program.h"
#include "models/tokenizer_text.h"

namespace moebius {

namespace {

constexpr int64_t kIndent = 24;  // characters of indentation after a line break

struct ShortEscape {
  char32_t character;
  const char* text;
};
constexpr ShortEscape kShortEscapes[] = {{'"', "\\\""}, {'\\', "\\\\"}, {'\b', "\\b"}, {'\f', "\\f"},
                                         {'\n', "\\n"}, {'\r', "\\r"},  {'\t', "\\t"}};

const CharSet kHex{{'0', '9'}, {'A', 'F'}, {'a', 'f'}};

}  // namespace

ExprId json_characters(Grammar& grammar, const CharSet& set) {
  const CharSet plain = set.intersected(plain_characters());
  std::vector<std::string> escaped;
  for (const ShortEscape& e : kShortEscapes) {
    if (set.contains(e.character)) escaped.emplace_back(e.text);
  }
  for (char32_t c = 0; c < 0x20; ++c) {
    const bool is_short = std::any_of(std::begin(kShortEscapes), std::end(kShortEscapes),
                                      [&](const ShortEscape& e) { return e.character == c; });
    if (!is_short && set.contains(c)) escaped.push_back(fmt::format("\\u{:04x}", static_cast<uint32_t>(c)));
  }
  std::vector<ExprId> parts;
  if (!plain.empty()) parts.push_back(grammar.one_of(plain));
  if (!escaped.empty()) parts.push_back(grammar.any_of(std::move(escaped)));
  return grammar.choice(std::move(parts));
}

// The rule is added before its body is made, since the body may call it.
ExprId JsonText::call(RuleId& rule, ExprId (JsonText::*make)()) {
  if (rule < 0) {
    rule = g_.add_rule();
    g_.define(rule, (this->*make)());
  }
  return g_.call(rule);
}

ExprId JsonText::space() { return call(space_, &JsonText::make_space); }
ExprId JsonText::value() { return call(value_, &JsonText::make_value); }
ExprId JsonText::string() { return call(string_, &JsonText::make_string); }

ExprId JsonText::make_space() {
  const ExprId indent = g_.repeat(g_.one_of({{'\t', '\t'}, {' ', ' '}}), 0, kIndent);
  return g_.choice({g_.empty(), g_.literal(" "), g_.sequence({g_.literal("\n"), indent})});
}

ExprId JsonText::make_value() {
  return g_.choice({object(), array(), string(), number(), g_.any_of({"true", "false", "null"})});
}

ExprId JsonText::object() { return list('{', member(string(), value()), 0, kNoMaximum, '}'); }
ExprId JsonText::array() { return list('[', value(), 0, kNoMaximum, ']'); }

ExprId JsonText::any_character() {
  const ExprId hex = g_.one_of(kHex),
               hex_but_d = g_.one_of({{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}});
  const ExprId d = g_.one_of({{'D', 'D'}, {'d', 'd'}}), low = g_.one_of({{'0', '7'}});
  const ExprId high_half = g_.one_of({{'8', '9'}, {'A', 'B'}, {'a', 'b'}});
  const ExprId low_half = g_.one_of({{'C', 'F'}, {'c', 'f'}});
  const ExprId unit =
      g_.choice({g_.sequence({hex_but_d, hex, hex, hex}), g_.sequence({d, low, hex, hex}),
                 g_.sequence({d, high_half, hex, hex, g_.literal("\\u"), d, low_half, hex, hex})});
  return g_.choice({g_.one_of(plain_characters()),
                    g_.any_of({"\\\"", "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t"}),
                    g_.sequence({g_.literal("\\u"), unit})});
}

ExprId JsonText::make_character() { return any_character(); }
ExprId JsonText::make_string() { return quoted(g_.repeat(any_character(), 0, kNoMaximum)); }

ExprId JsonText::quoted(ExprId inside) { return g_.sequence({g_.literal("\""), inside, g_.literal("\"")}); }

ExprId JsonText::string(int64_t min, int64_t max) {
  if (min == 0 && max == kNoMaximum) return string();
  return quoted(g_.repeat(call(character_, &JsonText::make_character), min, max));
}

ExprId JsonText::comma() { return g_.sequence({g_.literal(","), space()}); }

ExprId JsonText::member(ExprId key, ExprId value) {
  return g_.sequence({key, g_.literal(":"), space(), value});
}

ExprId JsonText::list(char open, ExprId item, int64_t min, int64_t max, char close) {
  const ExprId begin = g_.sequence({g_.literal({&open, 1}), space()});
  const ExprId end = g_.literal({&close, 1});
  if (max == 0) return g_.sequence({begin, end});
  const ExprId more = g_.repeat(g_.sequence({comma(), item}), std::max<int64_t>(min - 1, 0),
                                max == kNoMaximum ? kNoMaximum : max - 1);
  const ExprId items = g_.sequence({item, more, space()});
  return g_.sequence({begin, min == 0 ? g_.optional(items) : items, end});
}

// A tree over the names' characters: at each point a character that no name goes on with, then anything.
ExprId JsonText::key_from(const std::vector<const std::u32string*>& names, size_t depth) {
  std::map<char32_t, std::vector<const std::u32string*>> by_next;
  bool is_name = false;
  for (const std::u32string* name : names) {
    if (name->size() == depth) is_name = true;
    if (name->size() > depth) by_next[(*name)[depth]].push_back(name);
  }
  CharSet others = plain_characters(), taken;
  std::vector<ExprId> ways;
  if (!is_name) ways.push_back(g_.empty());
  for (const auto& [next, longer] : by_next) {
    taken.add(next);
    ways.push_back(g_.sequence({g_.one_of({{next, next}}), key_from(longer, depth + 1)}));
  }
  others = others.intersected(taken.negated());
  ways.push_back(g_.sequence({g_.one_of(others), g_.repeat(g_.one_of(plain_characters()), 0, kNoMaximum)}));
  return g_.choice(std::move(ways));
}

ExprId JsonText::key_other_than(const std::vector<std::string>& names) {
  constexpr size_t kLongest = 400;  // of a name that the tree can hold
  std::vector<std::u32string> wide;
  for (const std::string& name : names) {
    std::u32string text;
    for (size_t at = 0; at < name.size();) text += utf8_next(name, at);
    const bool plain =
        std::all_of(text.begin(), text.end(), [](char32_t c) { return plain_characters().contains(c); });
    if (!plain) continue;  // it cannot be written without escapes
    if (text.size() > kLongest) {
      g_.fail(invalid(fmt::format("a property's name is longer than {} characters", kLongest)));
      return g_.never();
    }
    wide.push_back(std::move(text));
  }
  std::vector<const std::u32string*> all;
  for (const std::u32string& name : wide) all.push_back(&name);
  return quoted(key_from(all, 0));
}

}  // namespace moebius
