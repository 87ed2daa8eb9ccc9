// Methods of list, tuple and dict. Lists and dicts change in place, as in Python.
#include <algorithm>

#include <fmt/core.h>

#include "models/jinja/interpreter.h"
#include "models/jinja/keys.h"

namespace moebius::jinja {
namespace {

using In = Interpreter;

void touch_items(In& in, const Sequence* list) {
  in.heap.step(static_cast<int64_t>(list->items.size() / 64));
}

Value append(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "append", {"object"}, 1);
  in.heap.push(self.as<Sequence>(), *given[0]);
  return none();
}

Value extend(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "extend", {"iterable"}, 1);
  const Sequence* source = items_of(in.heap, *given[0]);
  const size_t count = source->items.size();
  for (size_t i = 0; i < count; ++i) in.heap.push(self.as<Sequence>(), Value(source->items[i]));
  return none();
}

Value insert(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "insert", {"index", "object"}, 2);
  Sequence* list = self.as<Sequence>();
  const auto size = static_cast<int64_t>(list->items.size());
  const int64_t index = given.integer(0, 0);
  const int64_t at = std::clamp<int64_t>(index < 0 ? index + size : index, 0, size);
  touch_items(in, list);
  in.heap.charge(sizeof(Value));
  list->items.insert(list->items.begin() + at, *given[1]);
  return none();
}

Value pop(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "pop", {"index"});
  Sequence* list = self.as<Sequence>();
  const auto size = static_cast<int64_t>(list->items.size());
  const int64_t index = given.integer(0, -1);
  const int64_t at = index < 0 ? index + size : index;
  if (at < 0 || at >= size) fail("pop from a list finds no such element");
  touch_items(in, list);
  Value taken = list->items[static_cast<size_t>(at)];
  list->items.erase(list->items.begin() + at);
  return taken;
}

size_t place_of(In& in, const Sequence* list, const Value& wanted) {
  for (size_t i = 0; i < list->items.size(); ++i) {
    if (equal(in.heap, list->items[i], wanted)) return i;
  }
  fail("the value is not in the list");
}

Value remove(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "remove", {"value"}, 1);
  Sequence* list = self.as<Sequence>();
  list->items.erase(list->items.begin() + static_cast<ptrdiff_t>(place_of(in, list, *given[0])));
  return none();
}

Value index(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "index", {"value"}, 1);
  return make_int(static_cast<int64_t>(place_of(in, self.as<Sequence>(), *given[0])));
}

Value count_items(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "count", {"value"}, 1);
  int64_t found = 0;
  for (const Value& item : self.as<Sequence>()->items) found += equal(in.heap, item, *given[0]);
  return make_int(found);
}

Value reverse(In& in, const Value& self, const Arguments&) {
  touch_items(in, self.as<Sequence>());
  std::reverse(self.as<Sequence>()->items.begin(), self.as<Sequence>()->items.end());
  return none();
}

Value sort(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "sort", {"reverse"});
  Sequence* list = self.as<Sequence>();
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : list->items) keyed.emplace_back(item, item);
  sort_by_key(in.heap, keyed, given.flag(0, false));
  for (size_t i = 0; i < keyed.size(); ++i) list->items[i] = keyed[i].second;
  return none();
}

Value clear_list(In&, const Value& self, const Arguments&) {
  self.as<Sequence>()->items.clear();
  return none();
}

Value copy_list(In& in, const Value& self, const Arguments&) {
  Sequence* copy = in.heap.sequence(ObjectKind::kList);
  for (const Value& item : self.as<Sequence>()->items) in.heap.push(copy, item);
  return Value(copy);
}

Value get(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "get", {"key", "default"}, 1);
  check_hashable(*given[0]);
  in.heap.step();
  const Value* found = self.as<Dict>()->find(*given[0]);
  if (found != nullptr) return *found;
  return given[1] == nullptr ? none() : *given[1];
}

template <ObjectKind kKind>
Value view(In& in, const Value& self, const Arguments& args) {
  const Parameters none_taken(args, "a view of a dict", {});
  Sequence* result = in.heap.sequence(kKind);
  for (const auto& [key, value] : self.as<Dict>()->entries) {
    if (kKind != ObjectKind::kItems) {
      in.heap.push(result, kKind == ObjectKind::kKeys ? key : value);
      continue;
    }
    Sequence* pair = in.heap.sequence(ObjectKind::kTuple);
    in.heap.push(pair, key);
    in.heap.push(pair, value);
    in.heap.push(result, Value(pair));
  }
  return Value(result);
}

Value pop_key(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "pop", {"key", "default"}, 1);
  check_hashable(*given[0]);
  Dict* dict = self.as<Dict>();
  in.heap.step(1 + static_cast<int64_t>(dict->entries.size()));
  const Value* found = dict->find(*given[0]);
  if (found == nullptr && given[1] == nullptr) fail("pop from a dict finds no such key");
  if (found == nullptr) return *given[1];
  Value taken = *found;
  dict->erase(*given[0]);
  return taken;
}

Value set_default(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "setdefault", {"key", "default"}, 1);
  check_hashable(*given[0]);
  Dict* dict = self.as<Dict>();
  if (const Value* found = dict->find(*given[0])) return *found;
  Value fresh = given[1] == nullptr ? none() : *given[1];
  dict->set(in.heap, *given[0], fresh);
  return fresh;
}

Value update(In& in, const Value& self, const Arguments& args) {
  Dict* dict = self.as<Dict>();
  const Value source = call_dict(in, args);
  for (const auto& [key, value] : source.as<Dict>()->entries) dict->set(in.heap, key, value);
  return none();
}

Value clear_dict(In& in, const Value& self, const Arguments&) {
  Dict* dict = self.as<Dict>();
  in.heap.step(static_cast<int64_t>(dict->entries.size()));
  dict->clear();
  return none();
}

Value copy_dict(In& in, const Value& self, const Arguments&) {
  auto* copy = in.heap.make<Dict>();
  for (const auto& [key, value] : self.as<Dict>()->entries) copy->set(in.heap, key, value);
  return Value(copy);
}

constexpr NativeEntry kListMethods[] = {
    {"append", append},
    {"clear", bare<clear_list>},
    {"copy", bare<copy_list>},
    {"count", count_items},
    {"extend", extend},
    {"index", index},
    {"insert", insert},
    {"pop", pop},
    {"remove", remove},
    {"reverse", bare<reverse>},
    {"sort", sort},
};

constexpr NativeEntry kTupleMethods[] = {{"count", count_items}, {"index", index}};

constexpr NativeEntry kDictMethods[] = {
    {"clear", bare<clear_dict>},
    {"copy", bare<copy_dict>},
    {"get", get},
    {"items", view<ObjectKind::kItems>},
    {"keys", view<ObjectKind::kKeys>},
    {"pop", pop_key},
    {"setdefault", set_default},
    {"update", update},
    {"values", view<ObjectKind::kValues>},
};

}  // namespace

std::span<const NativeEntry> list_methods() { return kListMethods; }
std::span<const NativeEntry> tuple_methods() { return kTupleMethods; }
std::span<const NativeEntry> dict_methods() { return kDictMethods; }

}  // namespace moebius::jinja
