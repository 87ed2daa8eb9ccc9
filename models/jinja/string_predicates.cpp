#include "models/jinja/interpreter.h"
#include "models/jinja/text.h"

namespace moebius::jinja {
namespace {

// Whether the text has a character and all of them satisfy the condition.
template <bool (*kCondition)(char32_t)>
Value all_of(Interpreter& in, const Value& self, const Arguments& args) {
  const Parameters none_taken(args, "a predicate of str", {});
  in.heap.touch(self.text().size());
  bool all = !self.text().empty();
  for (size_t at = 0; all && at < self.text().size();) all = kCondition(next_char(self.text(), at));
  return Value(all);
}

template <bool (*kWanted)(char32_t), bool (*kOther)(char32_t)>
Value cased(Interpreter& in, const Value& self, const Arguments&) {
  in.heap.touch(self.text().size());
  bool found = false;
  for (size_t at = 0; at < self.text().size();) {
    const char32_t c = next_char(self.text(), at);
    if (kOther(c)) return Value(false);
    found |= kWanted(c);
  }
  return Value(found);
}

Value is_ascii(Interpreter& in, const Value& self, const Arguments&) {
  in.heap.touch(self.text().size());
  for (const char c : self.text()) {
    if ((c & 0x80) != 0) return Value(false);
  }
  return Value(true);
}

Value is_identifier(Interpreter& in, const Value& self, const Arguments&) {
  in.heap.touch(self.text().size());
  bool valid = !self.text().empty();
  for (size_t at = 0; valid && at < self.text().size();) {
    const bool leading = at == 0;
    const char32_t c = next_char(self.text(), at);
    valid = c == '_' || (leading ? is_alpha(c) : is_alnum(c));
  }
  return Value(valid);
}

Value is_title(Interpreter& in, const Value& self, const Arguments&) {
  in.heap.touch(self.text().size());
  bool inside = false;
  bool found = false;
  for (size_t at = 0; at < self.text().size();) {
    const char32_t c = next_char(self.text(), at);
    if (inside ? is_upper(c) : is_lower(c)) return Value(false);
    inside = is_upper(c) || is_lower(c);
    found |= inside;
  }
  return Value(found);
}

Value is_printable_text(Interpreter& in, const Value& self, const Arguments& args) {
  if (self.text().empty()) return Value(true);
  return all_of<is_printable>(in, self, args);
}

constexpr NativeEntry kPredicates[] = {
    {"isalnum", all_of<is_alnum>},
    {"isalpha", all_of<is_alpha>},
    {"isascii", bare<is_ascii>},
    {"isdecimal", all_of<is_decimal>},
    {"isdigit", all_of<is_decimal>},
    {"isidentifier", bare<is_identifier>},
    {"islower", bare<cased<is_lower, is_upper>>},
    {"isnumeric", all_of<is_decimal>},
    {"isprintable", is_printable_text},
    {"isspace", all_of<is_space>},
    {"istitle", bare<is_title>},
    {"isupper", bare<cased<is_upper, is_lower>>},
};

}  // namespace

std::span<const NativeEntry> string_predicates() { return kPredicates; }

}  // namespace moebius::jinja
