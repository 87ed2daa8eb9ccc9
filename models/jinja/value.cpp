#include "models/jinja/value.h"

#include <algorithm>
#include <cmath>

#include <fmt/core.h>

#include "models/jinja/heap.h"
#include "models/jinja/text.h"

namespace moebius::jinja {
namespace {

constexpr size_t kIndexed = 12;

// Orders values of different types, so that keys have a total order.
int key_rank(const Value& v) {
  if (v.is_undefined()) return 0;
  if (v.is_none()) return 1;
  if (as_float(v)) return 2;
  if (v.is_string()) return 3;
  return is_kind(v, ObjectKind::kTuple) ? 4 : 5;
}

bool sequence_less(Heap& heap, const Sequence& a, const Sequence& b) {
  for (size_t i = 0; i < a.items.size() && i < b.items.size(); ++i) {
    if (!equal(heap, a.items[i], b.items[i])) return less(heap, a.items[i], b.items[i]);
  }
  return a.items.size() < b.items.size();
}

bool sequence_equal(Heap& heap, const Sequence& a, const Sequence& b) {
  if (a.items.size() != b.items.size()) return false;
  for (size_t i = 0; i < a.items.size() && i < b.items.size(); ++i) {
    if (!equal(heap, a.items[i], b.items[i])) return false;
  }
  return true;
}

bool dict_equal(Heap& heap, Dict& a, Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (auto& [key, value] : a.entries) {
    const Value* other = b.find(key);
    if (other == nullptr || !equal(heap, value, *other)) return false;
  }
  return true;
}

// Equality as sets, of dict.keys() and dict.items().
bool view_equal(Heap& heap, const Sequence& a, const Sequence& b) {
  if (a.items.size() != b.items.size()) return false;
  for (const Value& item : a.items) {
    bool found = false;
    for (const Value& other : b.items) found = found || equal(heap, item, other);
    if (!found) return false;
  }
  return true;
}

bool object_equal(Heap& heap, Object* a, Object* b) {
  if (a == b) return true;
  if (a->kind != b->kind) return false;
  switch (a->kind) {
    case ObjectKind::kList:
    case ObjectKind::kTuple:
    case ObjectKind::kRange:
      return sequence_equal(heap, static_cast<Sequence&>(*a), static_cast<Sequence&>(*b));
    case ObjectKind::kItems:
    case ObjectKind::kKeys:
      return view_equal(heap, static_cast<Sequence&>(*a), static_cast<Sequence&>(*b));
    case ObjectKind::kDict:
      return dict_equal(heap, static_cast<Dict&>(*a), static_cast<Dict&>(*b));
    default:
      return false;
  }
}

}  // namespace

void fail(std::string message) { throw Error{Code::kInvalid, 0, std::move(message)}; }
void fail_unsupported(std::string message) { throw Error{Code::kUnsupported, 0, std::move(message)}; }

void fail_undefined(const Value& v) {
  const StrRef& why = v.undefined().why;
  fail(why == nullptr ? "a value is undefined" : why->text);
}

std::string type_name(const Value& v) {
  if (v.is_undefined()) return "Undefined";
  if (v.is_none()) return "NoneType";
  if (v.is_bool()) return "bool";
  if (v.is_int()) return "int";
  if (v.is_float()) return "float";
  if (v.is_string()) return "str";
  switch (v.object()->kind) {
    case ObjectKind::kList:
      return "list";
    case ObjectKind::kTuple:
      return "tuple";
    case ObjectKind::kRange:
      return "range";
    case ObjectKind::kItems:
      return "dict_items";
    case ObjectKind::kKeys:
      return "dict_keys";
    case ObjectKind::kValues:
      return "dict_values";
    case ObjectKind::kIterator:
      return "generator";
    case ObjectKind::kDict:
      return "dict";
    case ObjectKind::kNamespace:
      return "Namespace";
    case ObjectKind::kCallable:
      return "function";
    case ObjectKind::kLoop:
      return "LoopContext";
  }
  return "object";
}

bool truthy(const Value& v) {
  if (v.is_undefined() || v.is_none()) return false;
  if (v.is_bool()) return v.boolean();
  if (v.is_int()) return v.integer() != 0;
  if (v.is_float()) return v.real() != 0.0;
  if (v.is_string()) return !v.text().empty();
  if (const Dict* dict = as_dict(v)) return !dict->entries.empty();
  if (const auto* sequence = v.as<Sequence>()) {
    return sequence->kind == ObjectKind::kIterator || !sequence->items.empty();
  }
  return true;
}

std::optional<Int> as_int(const Value& v) {
  if (v.is_int()) return v.integer();
  if (v.is_bool()) return static_cast<Int>(v.boolean());
  return std::nullopt;
}

std::optional<double> as_float(const Value& v) {
  if (v.is_float()) return v.real();
  if (const auto integer = as_int(v)) return static_cast<double>(*integer);
  return std::nullopt;
}

int compare_numbers(const Value& a, const Value& b) {
  const auto x = as_int(a);
  const auto y = as_int(b);
  if (x && y) return *x < *y ? -1 : (*x > *y ? 1 : 0);
  const long double p = x ? static_cast<long double>(*x) : static_cast<long double>(*as_float(a));
  const long double q = y ? static_cast<long double>(*y) : static_cast<long double>(*as_float(b));
  if (std::isnan(p) || std::isnan(q)) return 2;
  return p < q ? -1 : (p > q ? 1 : 0);
}

void check_hashable(const Value& v) {
  if (!v.is_object()) return;
  const ObjectKind kind = v.object()->kind;
  if (kind == ObjectKind::kList || kind == ObjectKind::kDict) {
    fail(fmt::format("a {} cannot be a key", type_name(v)));
  }
  if (kind != ObjectKind::kTuple) return;
  for (const Value& item : v.as<Sequence>()->items) {
    if (is_kind(item, ObjectKind::kTuple)) fail_unsupported("nested tuples as keys are not supported");
    check_hashable(item);
  }
}

bool KeyLess::operator()(const Value& a, const Value& b) const {
  const int rank_a = key_rank(a);
  const int rank_b = key_rank(b);
  if (rank_a != rank_b) return rank_a < rank_b;
  if (rank_a == 2) return compare_numbers(a, b) == -1;
  if (rank_a == 3) return a.text() < b.text();
  if (rank_a < 4) return false;
  if (rank_a == 5) return std::less<const Object*>()(a.object(), b.object());
  const auto& x = a.as<Sequence>()->items;
  const auto& y = b.as<Sequence>()->items;
  return std::lexicographical_compare(x.begin(), x.end(), y.begin(), y.end(), KeyLess());
}

Value* Dict::find(const Value& key) {
  if (entries.size() >= kIndexed) {
    const auto found = index_.find(key);
    return found == index_.end() ? nullptr : &entries[found->second].second;
  }
  const KeyLess before;
  for (auto& entry : entries) {
    if (!before(entry.first, key) && !before(key, entry.first)) return &entry.second;
  }
  return nullptr;
}

Value* Dict::find(std::string_view key) {
  if (entries.size() >= kIndexed) return find(Value(std::make_shared<const Str>(std::string(key), nullptr)));
  for (auto& entry : entries) {
    if (entry.first.is_string() && entry.first.text() == key) return &entry.second;
  }
  return nullptr;
}

void Dict::set(Heap& heap, const Value& key, Value value) {
  heap.step();
  if (find(key) == nullptr) heap.charge(sizeof(entries[0]) + sizeof(Value) + 48);
  insert(key, std::move(value));
}

void Dict::insert(const Value& key, Value value) {
  if (Value* old = find(key)) {
    *old = std::move(value);
    return;
  }
  entries.emplace_back(key, std::move(value));
  if (entries.size() < kIndexed) return;
  if (entries.size() > kIndexed) {
    index_.emplace(key, entries.size() - 1);
    return;
  }
  index_.clear();
  for (size_t i = 0; i < entries.size(); ++i) index_.emplace(entries[i].first, i);
}

bool Dict::erase(const Value& key) {
  Value* found = find(key);
  if (found == nullptr) return false;
  const auto position =
      std::find_if(entries.begin(), entries.end(), [&](auto& e) { return &e.second == found; });
  entries.erase(position);
  index_.clear();
  if (entries.size() >= kIndexed) {
    for (size_t i = 0; i < entries.size(); ++i) index_.emplace(entries[i].first, i);
  }
  return true;
}

bool equal(Heap& heap, const Value& a, const Value& b) {
  heap.step();
  if (as_float(a) && as_float(b)) return compare_numbers(a, b) == 0;
  if (a.is_string() && b.is_string()) {
    if (a.text().size() != b.text().size()) return false;
    heap.touch(a.text().size());
    return a.text() == b.text();
  }
  if (a.is_object() && b.is_object()) {
    const Nested nested(heap);
    return object_equal(heap, a.object(), b.object());
  }
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

bool less(Heap& heap, const Value& a, const Value& b) {
  heap.step();
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  if (as_float(a) && as_float(b)) return compare_numbers(a, b) == -1;
  if (a.is_string() && b.is_string()) {
    heap.touch(std::min(a.text().size(), b.text().size()));
    return a.text() < b.text();
  }
  const auto* x = a.as<Sequence>();
  const auto* y = b.as<Sequence>();
  if (x != nullptr && y != nullptr && x->kind == y->kind && x->kind <= ObjectKind::kTuple) {
    const Nested nested(heap);
    return sequence_less(heap, *x, *y);
  }
  fail(fmt::format("{} and {} have no order", type_name(a), type_name(b)));
}

bool read_next(Sequence& iterator, Value& item) {
  if (iterator.next < iterator.items.size()) {
    item = iterator.items[iterator.next++];
    return true;
  }
  if (iterator.failure != nullptr) throw Error(*iterator.failure);
  return false;
}

Sequence* items_of(Heap& heap, const Value& v) {
  if (auto* sequence = v.as<Sequence>()) {
    if (sequence->kind != ObjectKind::kIterator) return sequence;
    Sequence* rest = heap.sequence(ObjectKind::kList);
    for (Value item; read_next(*sequence, item);) heap.push(rest, std::move(item));
    return rest;
  }
  Sequence* list = heap.sequence(ObjectKind::kList);
  if (v.is_undefined()) return list;
  if (Dict* dict = as_dict(v)) {
    for (const auto& entry : dict->entries) heap.push(list, entry.first);
    return list;
  }
  if (!v.is_string()) fail(fmt::format("a value of type {} cannot be iterated", type_name(v)));
  const std::string& text = v.text();
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    next_char(text, at);
    heap.push(list, heap.string(text.substr(begin, at - begin)));
  }
  return list;
}

std::optional<int64_t> length_of(const Value& v) {
  if (v.is_undefined()) return 0;
  if (v.is_string()) return count_chars(v.text());
  if (const Dict* dict = as_dict(v)) return static_cast<int64_t>(dict->entries.size());
  const auto* sequence = v.as<Sequence>();
  if (sequence == nullptr || sequence->kind == ObjectKind::kIterator) return std::nullopt;
  return static_cast<int64_t>(sequence->items.size());
}

}  // namespace moebius::jinja
