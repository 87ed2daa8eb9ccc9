#include "models/jinja/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/core.h>

#include "models/jinja/call.h"
#include "models/jinja/text.h"

namespace moebius::jinja {
namespace {

void write_quoted(Builder& out, std::string_view text) {
  const bool double_quotes = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char quote = double_quotes ? '"' : '\'';
  std::string quoted(1, quote);
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_char(text, at);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      quoted += '\\';
      quoted += static_cast<char>(c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      quoted += c == '\n' ? "\\n" : (c == '\r' ? "\\r" : "\\t");
    } else if (is_printable(c)) {
      quoted += text.substr(begin, at - begin);
    } else {
      const auto code = static_cast<uint32_t>(c);
      quoted += c < 0x100     ? fmt::format("\\x{:02x}", code)
                : c < 0x10000 ? fmt::format("\\u{:04x}", code)
                              : fmt::format("\\U{:08x}", code);
    }
  }
  out.add(quoted);
  out.add({&quote, 1});
}

void write_items(Builder& out, Heap& heap, const Sequence& sequence, std::string_view open,
                 std::string_view close) {
  out.add(open);
  for (size_t i = 0; i < sequence.items.size(); ++i) {
    if (i > 0) out.add(", ");
    write_repr(out, heap, sequence.items[i]);
  }
  if (sequence.kind == ObjectKind::kTuple && sequence.items.size() == 1) out.add(",");
  out.add(close);
}

void write_dict(Builder& out, Heap& heap, const Dict& dict) {
  out.add("{");
  for (size_t i = 0; i < dict.entries.size(); ++i) {
    if (i > 0) out.add(", ");
    write_repr(out, heap, dict.entries[i].first);
    out.add(": ");
    write_repr(out, heap, dict.entries[i].second);
  }
  out.add("}");
}

void write_sequence(Builder& out, Heap& heap, const Sequence& s) {
  switch (s.kind) {
    case ObjectKind::kList:
      return write_items(out, heap, s, "[", "]");
    case ObjectKind::kTuple:
      return write_items(out, heap, s, "(", ")");
    case ObjectKind::kItems:
      return write_items(out, heap, s, "dict_items([", "])");
    case ObjectKind::kKeys:
      return write_items(out, heap, s, "dict_keys([", "])");
    case ObjectKind::kValues:
      return write_items(out, heap, s, "dict_values([", "])");
    case ObjectKind::kRange:
      out.add("range(" + int_text(s.start) + ", " + int_text(s.stop));
      return out.add(s.stride == 1 ? ")" : ", " + int_text(s.stride) + ")");
    default:
      return out.add("<generator object>");
  }
}

void write_object(Builder& out, Heap& heap, const Value& v) {
  const Nested nested(heap);
  if (const auto* sequence = v.as<Sequence>()) return write_sequence(out, heap, *sequence);
  if (const auto* dict = v.as<Dict>()) {
    const bool named = dict->kind == ObjectKind::kNamespace;
    if (named) out.add("<Namespace ");
    write_dict(out, heap, *dict);
    if (named) out.add(">");
    return;
  }
  if (const auto* callable = v.as<Callable>()) {
    return out.add(callable->macro != nullptr ? "<Macro '" + callable->name + "'>"
                                              : "<function " + callable->name + ">");
  }
  out.add("<" + type_name(v) + ">");
}

}  // namespace

std::string int_text(Int value) {
  if (value == 0) return "0";
  std::string digits;
  const bool negative = value < 0;
  while (value != 0) {
    const int digit = static_cast<int>(value % 10);
    digits.push_back(static_cast<char>('0' + (digit < 0 ? -digit : digit)));
    value /= 10;
  }
  if (negative) digits.push_back('-');
  std::reverse(digits.begin(), digits.end());
  return digits;
}

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  std::string_view text(buffer, static_cast<size_t>(end - buffer));
  std::string out;
  if (text.front() == '-') {
    out = "-";
    text.remove_prefix(1);
  }
  const size_t mark = text.find('e');
  const int exponent = std::atoi(std::string(text.substr(mark + 1)).c_str());
  std::string digits(text.substr(0, mark));
  std::erase(digits, '.');
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits.substr(0, 1);
    if (count > 1) out += "." + digits.substr(1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (exponent >= count - 1)
    return out + digits + std::string(static_cast<size_t>(exponent - count + 1), '0') + ".0";
  const auto whole = static_cast<size_t>(exponent + 1);
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

void write_str(Builder& out, Heap& heap, const Value& v) {
  if (v.is_string()) return out.add(v.text());
  if (v.is_undefined()) return;
  write_repr(out, heap, v);
}

void write_repr(Builder& out, Heap& heap, const Value& v) {
  heap.step();
  if (v.is_undefined()) return out.add("Undefined");
  if (v.is_none()) return out.add("None");
  if (v.is_bool()) return out.add(v.boolean() ? "True" : "False");
  if (v.is_int()) return out.add(int_text(v.integer()));
  if (v.is_float()) return out.add(float_text(v.real()));
  if (v.is_string()) return write_quoted(out, v.text());
  write_object(out, heap, v);
}

Value to_str(Heap& heap, const Value& v) {
  if (v.is_string()) return v;
  Builder out(heap);
  write_str(out, heap, v);
  return out.finish();
}

}  // namespace moebius::jinja
