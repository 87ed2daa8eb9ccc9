// Values as text: str(), repr(), tojson and the two ways of formatting, digit for digit as Python does them.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "models/jinja/heap.h"
#include "models/jinja/value.h"

namespace moebius::jinja {

struct Arguments;

std::string int_text(Int value);
std::string float_text(double value);  // repr(float): the shortest digits that read back

void write_str(Builder& out, Heap& heap, const Value& v);
void write_repr(Builder& out, Heap& heap, const Value& v);
Value to_str(Heap& heap, const Value& v);  // a string; v itself if it is one

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool pretty = false;  // one item a line, behind `indent` for each level
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
void write_json(Builder& out, Heap& heap, const Value& v, const JsonStyle& style);

// The variables of a rendering. Fails where the nesting is deeper than the limit or text is not UTF-8. Not
// charged to the byte budget: the caller holds this data already.
Value from_json(Heap& heap, const nlohmann::ordered_json& json);

Value percent_format(Heap& heap, const std::string& pattern, const Value& arguments);  // pattern % arguments
Value brace_format(Heap& heap, const std::string& pattern,
                   const Arguments& arguments);  // pattern.format(...)

}  // namespace moebius::jinja
