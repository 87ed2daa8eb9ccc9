#include <algorithm>
#include <cmath>

#include <fmt/core.h>

#include "models/jinja/format.h"
#include "models/jinja/text.h"

namespace moebius::jinja {
namespace {

class JsonWriter {
 public:
  JsonWriter(Builder& out, Heap& heap, const JsonStyle& style) : out_(out), heap_(heap), style_(style) {}

  void write(const Value& v, int level) {
    heap_.step();
    if (v.is_string()) return text(v.text());
    if (!v.is_object()) return scalar(v);
    const Nested nested(heap_);
    const auto* sequence = v.as<Sequence>();
    if (sequence != nullptr && sequence->kind <= ObjectKind::kTuple) return list(*sequence, level);
    const Dict* found = as_dict(v);
    if (found == nullptr) refuse(v);
    dict(*found, level);
  }

 private:
  [[noreturn]] static void refuse(const Value& v) {
    if (v.is_undefined() && v.undefined().why != nullptr) {
      fail("tojson cannot write an undefined value: " + v.undefined().why->text);
    }
    fail(fmt::format("tojson cannot write a value of type {}", type_name(v)));
  }

  static std::string scalar_text(const Value& v) {
    if (v.is_none()) return "null";
    if (v.is_bool()) return v.boolean() ? "true" : "false";
    if (v.is_int()) return int_text(v.integer());
    if (!v.is_float()) refuse(v);
    if (std::isnan(v.real())) return "NaN";
    if (std::isinf(v.real())) return v.real() < 0 ? "-Infinity" : "Infinity";
    return float_text(v.real());
  }

  void scalar(const Value& v) { out_.add(scalar_text(v)); }

  void new_line(int level) {
    if (!style_.pretty) return;
    out_.add("\n");
    out_.repeat(style_.indent, level);
  }

  void list(const Sequence& sequence, int level) {
    if (sequence.items.empty()) return out_.add("[]");
    out_.add("[");
    for (size_t i = 0; i < sequence.items.size(); ++i) {
      if (i > 0) out_.add(style_.item_separator);
      new_line(level + 1);
      write(sequence.items[i], level + 1);
    }
    new_line(level);
    out_.add("]");
  }

  void dict(const Dict& dict, int level) {
    if (dict.entries.empty()) return out_.add("{}");
    std::vector<const std::pair<Value, Value>*> order;
    for (const auto& entry : dict.entries) order.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(order.begin(), order.end(),
                       [&](const auto* a, const auto* b) { return less(heap_, a->first, b->first); });
    }
    out_.add("{");
    for (size_t i = 0; i < order.size(); ++i) {
      if (i > 0) out_.add(style_.item_separator);
      new_line(level + 1);
      const Value& key = order[i]->first;
      text(key.is_string() ? key.text() : scalar_text(key));
      out_.add(style_.key_separator);
      write(order[i]->second, level + 1);
    }
    new_line(level);
    out_.add("}");
  }

  void text(std::string_view s) {
    std::string quoted = "\"";
    for (size_t at = 0; at < s.size();) {
      const size_t begin = at;
      const char32_t c = next_char(s, at);
      if (c >= 0x20 && c != '"' && c != '\\' && (c < 0x7f || !style_.ensure_ascii)) {
        quoted += s.substr(begin, at - begin);
      } else {
        escape(quoted, c);
      }
    }
    quoted += '"';
    out_.add(quoted);
  }

  static void escape(std::string& quoted, char32_t c) {
    switch (c) {
      case '"':
        quoted += "\\\"";
        return;
      case '\\':
        quoted += "\\\\";
        return;
      case '\n':
        quoted += "\\n";
        return;
      case '\r':
        quoted += "\\r";
        return;
      case '\t':
        quoted += "\\t";
        return;
      case '\b':
        quoted += "\\b";
        return;
      case '\f':
        quoted += "\\f";
        return;
      default:
        break;
    }
    auto code = static_cast<uint32_t>(c);
    if (code >= 0x10000) {
      code -= 0x10000;
      quoted += fmt::format("\\u{:04x}", 0xd800 + (code >> 10));
      code = 0xdc00 + (code & 0x3ff);
    }
    quoted += fmt::format("\\u{:04x}", code);
  }

  Builder& out_;
  Heap& heap_;
  const JsonStyle& style_;
};

Value checked_string(const std::string& text) {
  if (!valid_utf8(text)) fail("a variable of the template holds text that is not UTF-8");
  return Value(StrRef(std::make_shared<Str>(text, nullptr)));
}

}  // namespace

void write_json(Builder& out, Heap& heap, const Value& v, const JsonStyle& style) {
  JsonWriter(out, heap, style).write(v, 0);
}

Value from_json(Heap& heap, const nlohmann::ordered_json& json) {
  using Type = nlohmann::ordered_json::value_t;
  switch (json.type()) {
    case Type::string:
      return checked_string(json.get_ref<const std::string&>());
    case Type::boolean:
      return Value(json.get<bool>());
    case Type::number_integer:
      return Value(static_cast<Int>(json.get<int64_t>()));
    case Type::number_unsigned:
      return Value(static_cast<Int>(json.get<uint64_t>()));
    case Type::number_float:
      return Value(json.get<double>());
    case Type::array: {
      const Nested nested(heap);
      auto* list = heap.own<Sequence>(ObjectKind::kList);
      for (const auto& item : json) list->items.push_back(from_json(heap, item));
      return Value(list);
    }
    case Type::object: {
      const Nested nested(heap);
      auto* dict = heap.own<Dict>();
      for (const auto& item : json.items())
        dict->insert(checked_string(item.key()), from_json(heap, item.value()));
      return Value(dict);
    }
    default:
      return none();
  }
}

}  // namespace moebius::jinja
