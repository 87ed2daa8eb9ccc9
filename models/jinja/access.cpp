// Attributes, items and slices.
#include <algorithm>

#include <fmt/core.h>

#include "models/jinja/call.h"
#include "models/jinja/format.h"
#include "models/jinja/heap.h"
#include "models/jinja/loop.h"
#include "models/jinja/text.h"

namespace moebius::jinja {
namespace {

// Messages stay one short line whatever the name holds.
std::string shown(std::string_view name) {
  std::string text(name.substr(0, byte_offset(name, 60)));
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  return text;
}

Value missing_attribute(Heap& heap, const Value& v, const std::string& name) {
  return undefined(heap, fmt::format("a value of type {} has no attribute '{}'", type_name(v), shown(name)));
}

bool find_attribute(Heap& heap, const Value& v, const std::string& name, Value& found) {
  if (const Native method = find_method(v, name)) {
    auto* bound = heap.make<Callable>();
    bound->name = name;
    bound->native = method;
    bound->self = v;
    found = Value(bound);
    return true;
  }
  if (is_kind(v, ObjectKind::kNamespace)) {
    const Value* value = v.as<Dict>()->find(name);
    if (value != nullptr) found = *value;
    return value != nullptr;
  }
  const auto* callable = v.as<Callable>();
  if (callable != nullptr && callable->macro != nullptr && name == "name") {
    found = heap.string(callable->name);
    return true;
  }
  if (auto* loop = v.as<Loop>()) return loop->attribute(name, found);
  const auto* tuple = v.as<Sequence>();
  if (tuple != nullptr && tuple->group && (name == "grouper" || name == "list")) {
    found = tuple->items[name == "list" ? 1 : 0];
    return true;
  }
  return false;
}

// The part of a slice that Python's slice.indices computes.
struct Steps {
  int64_t start, stop, step, count;
};

int64_t slice_part(const Value& v, int64_t fallback, int64_t length, int64_t step) {
  if (v.is_none()) return fallback;
  if (v.is_undefined()) fail_undefined(v);
  const auto given = as_int(v);
  if (!given) fail(fmt::format("a slice needs integers, not {}", type_name(v)));
  int64_t index = clamp_int(*given);
  if (index < 0) index += length;
  const int64_t least = step < 0 ? -1 : 0;
  return std::clamp(index, least, std::max(least, step < 0 ? length - 1 : length));
}

Steps slice_steps(const Value& start, const Value& stop, const Value& step, int64_t length) {
  Steps s{0, 0, 1, 0};
  if (!step.is_none()) {
    if (step.is_undefined()) fail_undefined(step);
    if (!as_int(step)) fail(fmt::format("a slice needs integers, not {}", type_name(step)));
    s.step = clamp_int(*as_int(step));
  }
  if (s.step == 0) fail("the step of a slice is zero");
  s.start = slice_part(start, s.step < 0 ? length - 1 : 0, length, s.step);
  s.stop = slice_part(stop, s.step < 0 ? -1 : length, length, s.step);
  if (s.step > 0 && s.start < s.stop) s.count = (s.stop - s.start - 1) / s.step + 1;
  if (s.step < 0 && s.start > s.stop) s.count = (s.start - s.stop - 1) / -s.step + 1;
  return s;
}

Value slice_string(Heap& heap, const std::string& text, const Value& start, const Value& stop,
                   const Value& step) {
  const Steps s = slice_steps(start, stop, step, count_chars(text));
  heap.touch(text.size());
  if (s.count == 0) return heap.string("");
  if (s.step == 1) {
    const size_t begin = byte_offset(text, s.start);
    const size_t bytes = byte_offset(std::string_view(text).substr(begin), s.count);
    return heap.string(text.substr(begin, bytes));
  }
  heap.require(text.size() * sizeof(size_t));
  std::vector<size_t> offsets;
  for (size_t at = 0; at < text.size(); next_char(text, at)) offsets.push_back(at);
  offsets.push_back(text.size());
  std::string picked;
  for (int64_t i = 0; i < s.count; ++i) {
    const auto at = static_cast<size_t>(s.start + i * s.step);
    picked.append(text, offsets[at], offsets[at + 1] - offsets[at]);
  }
  return heap.string(std::move(picked));
}

}  // namespace

Value undefined(Heap& heap, std::string why) {
  return Value(Undefined{heap.string(std::move(why)).string()});
}

Value get_attribute(Heap& heap, const Value& v, const std::string& name) {
  if (v.is_undefined()) fail_undefined(v);
  Value found;
  if (find_attribute(heap, v, name, found)) return found;
  if (Dict* dict = as_dict(v)) {
    if (const Value* value = dict->find(name)) return *value;
  }
  return missing_attribute(heap, v, name);
}

Value get_item(Heap& heap, const Value& v, const Value& key) {
  if (v.is_undefined()) fail_undefined(v);
  if (Dict* dict = as_dict(v)) {
    const bool unhashable = is_kind(key, ObjectKind::kList) || is_kind(key, ObjectKind::kDict);
    if (!unhashable) {
      check_hashable(key);
      if (const Value* value = dict->find(key)) return *value;
    }
  } else if (const auto index = as_int(key)) {
    const auto* sequence = v.as<Sequence>();
    const bool indexed = sequence != nullptr && sequence->kind <= ObjectKind::kRange;
    if (indexed || v.is_string()) {
      const int64_t length = *length_of(v);
      const int64_t given = clamp_int(*index);
      const int64_t at = given < 0 ? given + length : given;
      if (at >= 0 && at < length) {
        if (indexed) return sequence->items[static_cast<size_t>(at)];
        return get_slice(heap, v, make_int(at), make_int(at + 1), none());
      }
    }
    return undefined(heap,
                     fmt::format("a value of type {} has no element {}", type_name(v), int_text(*index)));
  }
  if (!key.is_string())
    return undefined(heap, fmt::format("a value of type {} has no such element", type_name(v)));
  Value found;
  if (find_attribute(heap, v, key.text(), found)) return found;
  return missing_attribute(heap, v, key.text());
}

Value get_slice(Heap& heap, const Value& v, const Value& start, const Value& stop, const Value& step) {
  if (v.is_undefined()) fail_undefined(v);
  if (v.is_string()) return slice_string(heap, v.text(), start, stop, step);
  const auto* sequence = v.as<Sequence>();
  if (sequence == nullptr || sequence->kind > ObjectKind::kRange) {
    fail(fmt::format("a value of type {} has no slices", type_name(v)));
  }
  const Steps s = slice_steps(start, stop, step, static_cast<int64_t>(sequence->items.size()));
  Sequence* result = heap.sequence(sequence->kind);
  result->start = sequence->start + s.start * sequence->stride;
  result->stop = sequence->start + s.stop * sequence->stride;
  result->stride = sequence->stride * s.step;
  for (int64_t i = 0; i < s.count; ++i) {
    heap.push(result, sequence->items[static_cast<size_t>(s.start + i * s.step)]);
  }
  return Value(result);
}

}  // namespace moebius::jinja
