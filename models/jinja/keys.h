// The `attribute=` and `case_sensitive=` parameters of filters: how an item is looked at.
#pragma once

#include <vector>

#include "models/jinja/heap.h"
#include "models/jinja/value.h"

namespace moebius::jinja {

// attribute: a dotted path ("function.name", "0.id"), an integer, or null for the item itself.
class ItemKey {
 public:
  ItemKey(Heap& heap, const Value* attribute, bool case_sensitive, const Value* fallback = nullptr);
  Value operator()(const Value& item) const;

 private:
  Heap& heap_;
  std::vector<Value> path_;
  bool case_sensitive_;
  Value fallback_;
};

// Stable; compares with `<` as Python's sorted does. Each pair is (key, item).
void sort_by_key(Heap& heap, std::vector<std::pair<Value, Value>>& items, bool reverse);

}  // namespace moebius::jinja
