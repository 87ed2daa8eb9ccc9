#include <algorithm>
#include <set>

#include <fmt/core.h>

#include "models/jinja/format.h"
#include "models/jinja/interpreter.h"
#include "models/jinja/keys.h"
#include "models/jinja/numbers.h"
#include "models/jinja/text.h"

namespace moebius::jinja {
namespace {

using In = Interpreter;

Value length(In& in, const Value& self, const Arguments&) {
  const auto count = length_of(self);
  if (!count) fail(fmt::format("a value of type {} has no length", type_name(self)));
  if (self.is_string()) in.heap.touch(self.text().size());
  return make_int(*count);
}

Value first(In& in, const Value& self, const Arguments&) {
  if (is_kind(self, ObjectKind::kIterator)) {
    if (Value item; read_next(*self.as<Sequence>(), item)) return item;
  } else if (self.is_string() && !self.text().empty()) {
    return get_item(in.heap, self, make_int(0));
  } else if (const Sequence* items = items_of(in.heap, self); !items->items.empty()) {
    return items->items.front();
  }
  return undefined(in.heap, "'first' of an empty sequence is undefined");
}

Value last(In& in, const Value& self, const Arguments&) {
  if (is_kind(self, ObjectKind::kIterator)) fail("'last' needs a list; put |list before it");
  const Sequence* items = items_of(in.heap, self);
  if (items->items.empty()) return undefined(in.heap, "'last' of an empty sequence is undefined");
  return items->items.back();
}

Value join_filter(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "join", {"d", "attribute"});
  const Value separator = given[0] == nullptr ? in.heap.string("") : to_str(in.heap, *given[0]);
  const ItemKey key(in.heap, given.given(1) ? given[1] : nullptr, true);
  Builder out(in.heap);
  bool begun = false;
  for (const Value& item : items_of(in.heap, self)->items) {
    if (begun) out.add(separator.text());
    begun = true;
    write_str(out, in.heap, key(item));
  }
  return out.finish();
}

Value list(In& in, const Value& self, const Arguments&) {
  Sequence* copy = in.heap.sequence(ObjectKind::kList);
  for (const Value& item : items_of(in.heap, self)->items) in.heap.push(copy, item);
  return Value(copy);
}

Value items(In& in, const Value& self, const Arguments&) {
  return generate(in.heap, [&](Sequence* pairs) {
    if (self.is_undefined()) return;
    const Dict* dict = as_dict(self);
    if (dict == nullptr) fail(fmt::format("items needs a dict, not {}", type_name(self)));
    for (const auto& [key, value] : dict->entries) {
      Sequence* pair = in.heap.sequence(ObjectKind::kTuple);
      in.heap.push(pair, key);
      in.heap.push(pair, value);
      in.heap.push(pairs, Value(pair));
    }
  });
}

Value from_keyed(Heap& heap, const std::vector<std::pair<Value, Value>>& keyed) {
  Sequence* result = heap.sequence(ObjectKind::kList);
  for (const auto& [key, item] : keyed) heap.push(result, item);
  return Value(result);
}

Value dictsort(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "dictsort", {"case_sensitive", "by", "reverse"});
  if (self.is_undefined()) fail_undefined(self);
  const std::string by = given[1] == nullptr ? "key" : given.text(1);
  if (by != "key" && by != "value") fail("dictsort sorts by 'key' or 'value'");
  if (as_dict(self) == nullptr) fail(fmt::format("dictsort needs a dict, not {}", type_name(self)));
  const ItemKey key(in.heap, nullptr, given.flag(0, false));
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& pair : items_of(in.heap, items(in, self, {}))->items) {
    keyed.emplace_back(key(pair.as<Sequence>()->items[by == "key" ? 0 : 1]), pair);
  }
  sort_by_key(in.heap, keyed, given.flag(2, false));
  return from_keyed(in.heap, keyed);
}

// "a,b" sorts by a, then by b.
std::vector<ItemKey> sort_keys(Heap& heap, const Value* attribute, bool case_sensitive) {
  std::vector<ItemKey> keys;
  if (attribute == nullptr || !attribute->is_string()) {
    keys.emplace_back(heap, attribute, case_sensitive);
    return keys;
  }
  const std::string& names = attribute->text();
  for (size_t begin = 0; begin <= names.size();) {
    const size_t comma = std::min(names.find(',', begin), names.size());
    const Value name = heap.string(names.substr(begin, comma - begin));
    keys.emplace_back(heap, &name, case_sensitive);
    begin = comma + 1;
  }
  return keys;
}

Value sort_filter(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "sort", {"reverse", "case_sensitive", "attribute"});
  const auto keys = sort_keys(in.heap, given.given(2) ? given[2] : nullptr, given.flag(1, false));
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items_of(in.heap, self)->items) {
    Sequence* key = in.heap.sequence(ObjectKind::kList);
    for (const ItemKey& part : keys) in.heap.push(key, part(item));
    keyed.emplace_back(Value(key), item);
  }
  sort_by_key(in.heap, keyed, given.flag(0, false));
  return from_keyed(in.heap, keyed);
}

Value unique(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "unique", {"case_sensitive", "attribute"});
  return generate(in.heap, [&](Sequence* result) {
    const ItemKey key(in.heap, given.given(1) ? given[1] : nullptr, given.flag(0, false));
    std::set<Value, KeyLess> seen;
    for (const Value& item : items_of(in.heap, self)->items) {
      const Value k = key(item);
      check_hashable(k);
      if (seen.insert(k).second) in.heap.push(result, item);
    }
  });
}

Value reverse_filter(In& in, const Value& self, const Arguments&) {
  if (self.is_string()) return get_slice(in.heap, self, none(), none(), make_int(-1));
  const bool generator = is_kind(self, ObjectKind::kIterator);
  Sequence* result = in.heap.sequence(generator ? ObjectKind::kList : ObjectKind::kIterator);
  const Sequence* source = items_of(in.heap, self);
  for (size_t i = source->items.size(); i-- > 0;) in.heap.push(result, source->items[i]);
  return Value(result);
}

Value sum(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "sum", {"attribute", "start"});
  const ItemKey key(in.heap, given.given(0) ? given[0] : nullptr, true);
  Value total = given[1] == nullptr ? make_int(0) : *given[1];
  if (total.is_string()) fail("sum adds no strings; use |join");
  for (const Value& item : items_of(in.heap, self)->items)
    total = binary(in.heap, Op::kAdd, total, key(item));
  return total;
}

template <bool kLargest>
Value extreme(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, kLargest ? "max" : "min", {"case_sensitive", "attribute"});
  const ItemKey key(in.heap, given.given(1) ? given[1] : nullptr, given.flag(0, false));
  const Sequence* items = items_of(in.heap, self);
  if (items->items.empty()) return undefined(in.heap, "min and max of an empty sequence are undefined");
  Value best = items->items.front();
  Value best_key = key(best);
  for (size_t i = 1; i < items->items.size(); ++i) {
    const Value k = key(items->items[i]);
    if (!(kLargest ? less(in.heap, best_key, k) : less(in.heap, k, best_key))) continue;
    best = items->items[i];
    best_key = k;
  }
  return best;
}

Value batch(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "batch", {"linecount", "fill_with"}, 1);
  return generate(in.heap, [&](Sequence* result) {
    const int64_t size = given.integer(0, 1);
    Sequence* row = in.heap.sequence(ObjectKind::kList);
    for (const Value& item : items_of(in.heap, self)->items) {
      if (static_cast<int64_t>(row->items.size()) == size) {
        in.heap.push(result, Value(row));
        row = in.heap.sequence(ObjectKind::kList);
      }
      in.heap.push(row, item);
    }
    if (row->items.empty()) return;
    while (given.given(1) && static_cast<int64_t>(row->items.size()) < size) in.heap.push(row, *given[1]);
    in.heap.push(result, Value(row));
  });
}

Value slice(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "slice", {"slices", "fill_with"}, 1);
  return generate(in.heap, [&](Sequence* result) {
    const Sequence* source = items_of(in.heap, self);
    const int64_t count = given.integer(0, 1);
    if (count == 0) fail("slice needs at least one slice");
    const auto total = static_cast<int64_t>(source->items.size());
    const int64_t longer = count > 0 ? total % count : 0;
    size_t at = 0;
    for (int64_t s = 0; s < count; ++s) {
      Sequence* part = in.heap.sequence(ObjectKind::kList);
      const int64_t size = total / count + (s < longer ? 1 : 0);
      for (int64_t i = 0; i < size; ++i) in.heap.push(part, source->items[at++]);
      if (given.given(1) && s >= longer) in.heap.push(part, *given[1]);
      in.heap.push(result, Value(part));
    }
  });
}

Value groupby(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "groupby", {"attribute", "default", "case_sensitive"}, 1);
  const Value* fallback = given.given(1) ? given[1] : nullptr;
  const ItemKey key(in.heap, given[0], given.flag(2, false), fallback);
  const ItemKey shown(in.heap, given[0], true, fallback);
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items_of(in.heap, self)->items) keyed.emplace_back(key(item), item);
  sort_by_key(in.heap, keyed, false);
  Sequence* result = in.heap.sequence(ObjectKind::kList);
  Sequence* members = nullptr;
  for (size_t i = 0; i < keyed.size(); ++i) {
    if (i == 0 || !equal(in.heap, keyed[i].first, keyed[i - 1].first)) {
      Sequence* pair = in.heap.sequence(ObjectKind::kTuple);
      members = in.heap.sequence(ObjectKind::kList);
      pair->group = true;
      in.heap.push(pair, shown(keyed[i].second));
      in.heap.push(pair, Value(members));
      in.heap.push(result, Value(pair));
    }
    in.heap.push(members, keyed[i].second);
  }
  return Value(result);
}

Value default_filter(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "default", {"default_value", "boolean"});
  if (!self.is_undefined() && !(given.flag(1, false) && !truthy(self))) return self;
  return given[0] == nullptr ? in.heap.string("") : *given[0];
}

Value attr(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "attr", {"name"}, 1);
  const std::string& name = given.text(0);
  if (as_dict(self) != nullptr && find_method(self, name) == nullptr) {
    return undefined(in.heap, fmt::format("a dict has no attribute '{}'", name));
  }
  return get_attribute(in.heap, self, name);
}

constexpr NativeEntry kSequenceFilters[] = {
    {"attr", attr},
    {"batch", batch},
    {"count", bare<length>},
    {"d", default_filter},
    {"default", default_filter},
    {"dictsort", dictsort},
    {"first", bare<first>},
    {"groupby", groupby},
    {"items", bare<items>},
    {"join", join_filter},
    {"last", bare<last>},
    {"length", bare<length>},
    {"list", bare<list>},
    {"max", extreme<true>},
    {"min", extreme<false>},
    {"reverse", bare<reverse_filter>},
    {"slice", slice},
    {"sort", sort_filter},
    {"sum", sum},
    {"unique", unique},
};

}  // namespace

ItemKey::ItemKey(Heap& heap, const Value* attribute, bool case_sensitive, const Value* fallback)
    : heap_(heap), case_sensitive_(case_sensitive) {
  if (fallback != nullptr) fallback_ = *fallback;
  if (attribute == nullptr) return;
  if (!attribute->is_string()) {
    path_.push_back(*attribute);
    return;
  }
  const std::string& dotted = attribute->text();
  for (size_t begin = 0; begin <= dotted.size();) {
    const size_t dot = std::min(dotted.find('.', begin), dotted.size());
    const std::string part = dotted.substr(begin, dot - begin);
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == part.npos;
    path_.push_back(number ? Value(*parse_int(part, 10)) : heap.string(part));
    begin = dot + 1;
  }
}

Value ItemKey::operator()(const Value& item) const {
  Value at = item;
  for (const Value& part : path_) {
    at = get_item(heap_, at, part);
    if (at.is_undefined() && !fallback_.is_undefined()) at = fallback_;
  }
  if (case_sensitive_ || !at.is_string()) return at;
  return heap_.string(to_lower(at.text()));
}

void sort_by_key(Heap& heap, std::vector<std::pair<Value, Value>>& items, bool reverse) {
  heap.require(items.size() * 2 * sizeof(Value));
  std::stable_sort(items.begin(), items.end(), [&](const auto& a, const auto& b) {
    return reverse ? less(heap, b.first, a.first) : less(heap, a.first, b.first);
  });
}

std::span<const NativeEntry> sequence_filters() { return kSequenceFilters; }

}  // namespace moebius::jinja
