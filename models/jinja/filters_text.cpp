#include <fmt/core.h>

#include "models/jinja/format.h"
#include "models/jinja/interpreter.h"
#include "models/jinja/text.h"
#include "models/jinja/text_edit.h"

namespace moebius::jinja {
namespace {

using In = Interpreter;

template <std::string (*kChange)(std::string_view)>
Value change_case(In& in, const Value& self, const Arguments& args) {
  const Parameters none_taken(args, "a case filter", {});
  const Value text = to_str(in.heap, self);
  in.heap.require(3 * text.text().size());
  return in.heap.string(kChange(text.text()));
}

// Unlike str.title, words begin only behind white space and opening brackets.
std::string title_after_breaks(std::string_view text) {
  std::string out;
  size_t begin = 0;
  const auto word = [&](size_t end) {
    if (begin == end) return;
    size_t first = begin;
    next_char(text, first);
    out += to_upper(text.substr(begin, first - begin)) + to_lower(text.substr(first, end - first));
  };
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const char32_t c = next_char(text, at);
    if (c != '-' && c != '(' && c != '{' && c != '[' && c != '<' && !is_space(c)) continue;
    word(end);
    out += text.substr(end, at - end);
    begin = at;
  }
  word(text.size());
  return out;
}

Value string_filter(In& in, const Value& self, const Arguments&) { return to_str(in.heap, self); }

Value trim(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "trim", {"chars"});
  const Value text = to_str(in.heap, self);
  if (!given.given(0)) return in.heap.string(std::string(strip(text.text(), Side::kBoth)));
  return in.heap.string(std::string(strip(text.text(), Side::kBoth, given.text(0))));
}

Value replace_filter(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "replace", {"old", "new", "count"}, 2);
  const Value text = to_str(in.heap, self);
  const Value old = to_str(in.heap, *given[0]);
  const Value fresh = to_str(in.heap, *given[1]);
  return replace_text(in.heap, text.text(), old.text(), fresh.text(),
                      given.given(2) ? given.integer(2, -1) : -1);
}

Value indent(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "indent", {"width", "first", "blank"});
  if (self.is_undefined()) fail_undefined(self);
  if (!self.is_string()) fail(fmt::format("indent needs a string, not {}", type_name(self)));
  Builder margin(in.heap);
  if (given[0] != nullptr && given[0]->is_string()) {
    margin.add(given.text(0));
  } else {
    margin.repeat(" ", given.integer(0, 4));
  }
  const bool blank = given.flag(2, false);
  const std::string text = self.text() + "\n";
  in.heap.require(text.size());
  const auto lines = split_lines(text, false);
  in.heap.require(lines.size() * sizeof(lines[0]));
  Builder out(in.heap);
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.add("\n");
    if (i == 0 ? given.flag(1, false) : blank || !lines[i].empty()) out.add(margin.text());
    out.add(lines[i]);
  }
  return out.finish();
}

Value escape(In& in, const Value& self, const Arguments&) {
  const Value text = to_str(in.heap, self);
  Builder out(in.heap);
  size_t begin = 0;
  const std::string& s = text.text();
  for (size_t i = 0; i < s.size(); ++i) {
    std::string_view entity;
    switch (s[i]) {
      case '&':
        entity = "&amp;";
        break;
      case '<':
        entity = "&lt;";
        break;
      case '>':
        entity = "&gt;";
        break;
      case '\'':
        entity = "&#39;";
        break;
      case '"':
        entity = "&#34;";
        break;
      default:
        continue;
    }
    out.add(std::string_view(s).substr(begin, i - begin));
    out.add(entity);
    begin = i + 1;
  }
  out.add(std::string_view(s).substr(begin));
  return out.finish();
}

Value center(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "center", {"width"});
  return pad_text(in.heap, to_str(in.heap, self).text(), given.integer(0, 80), ' ', true, true);
}

Value truncate(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "truncate", {"length", "killwords", "end", "leeway"});
  const int64_t length = given.integer(0, 255);
  const std::string end = given[2] == nullptr ? "..." : given.text(2);
  const int64_t leeway = given.given(3) ? given.integer(3, 5) : 5;
  const int64_t kept = length - count_chars(end);
  if (kept < 0 || leeway < 0)
    fail("truncate needs a length that has room for its end, and no negative leeway");
  const auto size = length_of(self);
  if (size && *size <= length + leeway) return self;
  if (!self.is_string()) fail(fmt::format("truncate needs a string, not {}", type_name(self)));
  std::string_view text = std::string_view(self.text()).substr(0, byte_offset(self.text(), kept));
  const size_t space = text.rfind(' ');
  if (!given.flag(1, false) && space != text.npos) text = text.substr(0, space);
  return in.heap.string(std::string(text) + end);
}

Value format_filter(In& in, const Value& self, const Arguments& args) {
  const Value pattern = to_str(in.heap, self);
  if (args.named.empty()) {
    Sequence* tuple = in.heap.sequence(ObjectKind::kTuple);
    for (const Value& value : args.positional) in.heap.push(tuple, value);
    return percent_format(in.heap, pattern.text(), Value(tuple));
  }
  if (!args.positional.empty()) fail("format takes either positional or named arguments");
  auto* dict = in.heap.make<Dict>();
  for (const auto& [name, value] : args.named) dict->set(in.heap, in.heap.string(name), value);
  return percent_format(in.heap, pattern.text(), Value(dict));
}

Value wordcount(In& in, const Value& self, const Arguments&) {
  const Value text = to_str(in.heap, self);
  int64_t words = 0;
  bool inside = false;
  for (size_t at = 0; at < text.text().size();) {
    const char32_t c = next_char(text.text(), at);
    const bool letter = c == '_' || is_alnum(c);
    words += letter && !inside;
    inside = letter;
  }
  return make_int(words);
}

void add_quoted(Builder& out, std::string_view text, bool query) {
  for (const char c : text) {
    const bool plain = (c & 0x80) == 0 && (is_alnum(static_cast<char32_t>(c)) || c == '_' || c == '.' ||
                                           c == '-' || c == '~' || (c == '/' && !query));
    if (plain) {
      out.add({&c, 1});
    } else {
      out.add(c == ' ' && query ? "+" : fmt::format("%{:02X}", static_cast<unsigned char>(c)));
    }
  }
}

Value urlencode(In& in, const Value& self, const Arguments&) {
  Builder out(in.heap);
  const bool pairs = self.is_undefined() || as_dict(self) != nullptr || self.as<Sequence>() != nullptr;
  if (!pairs) {
    add_quoted(out, to_str(in.heap, self).text(), false);
    return out.finish();
  }
  const auto add_pair = [&](const Value& key, const Value& value) {
    if (!out.text().empty()) out.add("&");
    add_quoted(out, to_str(in.heap, key).text(), true);
    out.add("=");
    add_quoted(out, to_str(in.heap, value).text(), true);
  };
  if (const Dict* dict = as_dict(self)) {
    for (const auto& [key, value] : dict->entries) add_pair(key, value);
    return out.finish();
  }
  for (const Value& pair : items_of(in.heap, self)->items) {
    const Sequence* parts = items_of(in.heap, pair);
    if (parts->items.size() != 2) fail("urlencode needs pairs");
    add_pair(parts->items[0], parts->items[1]);
  }
  return out.finish();
}

void read_separators(JsonStyle& style, const Value& value) {
  const auto* pair = value.as<Sequence>();
  if (pair == nullptr || pair->items.size() != 2 || !pair->items[0].is_string() ||
      !pair->items[1].is_string()) {
    fail("tojson needs two strings as separators");
  }
  style.item_separator = pair->items[0].text();
  style.key_separator = pair->items[1].text();
}

Value tojson(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = given.flag(0, false);
  style.sort_keys = given.flag(3, false);
  if (given.given(1)) {
    style.pretty = true;
    style.item_separator = ",";
    Builder margin(in.heap);
    if (given[1]->is_string()) {
      margin.add(given.text(1));
    } else {
      margin.repeat(" ", given.integer(1, 0));
    }
    style.indent = margin.text();
  }
  if (given.given(2)) read_separators(style, *given[2]);
  Builder out(in.heap);
  write_json(out, in.heap, self, style);
  return out.finish();
}

constexpr NativeEntry kTextFilters[] = {
    {"capitalize", change_case<capitalize>},
    {"center", center},
    {"e", bare<escape>},
    {"escape", bare<escape>},
    {"forceescape", bare<escape>},
    {"format", format_filter},
    {"indent", indent},
    {"lower", change_case<to_lower>},
    {"replace", replace_filter},
    {"safe", bare<string_filter>},
    {"string", bare<string_filter>},
    {"title", change_case<title_after_breaks>},
    {"tojson", tojson},
    {"trim", trim},
    {"truncate", truncate},
    {"upper", change_case<to_upper>},
    {"urlencode", bare<urlencode>},
    {"wordcount", bare<wordcount>},
};

}  // namespace

std::span<const NativeEntry> text_filters() { return kTextFilters; }

}  // namespace moebius::jinja
