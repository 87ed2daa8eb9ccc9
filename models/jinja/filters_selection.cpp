#include <fmt/core.h>

#include "models/jinja/interpreter.h"
#include "models/jinja/keys.h"

namespace moebius::jinja {
namespace {

using In = Interpreter;

Arguments without_first(const Arguments& args, size_t count) {
  Arguments rest = args;
  rest.positional.erase(rest.positional.begin(), rest.positional.begin() + static_cast<ptrdiff_t>(count));
  return rest;
}

void map_attribute(In& in, const Value& self, const Arguments& args, Sequence* result) {
  const Parameters given(args, "map", {"attribute", "default"});
  const ItemKey key(in.heap, given.given(0) ? given[0] : nullptr, true, given.given(1) ? given[1] : nullptr);
  for (const Value& item : items_of(in.heap, self)->items) in.heap.push(result, key(item));
}

Value map(In& in, const Value& self, const Arguments& args) {
  return generate(in.heap, [&](Sequence* result) {
    if (!truthy(self)) return;
    if (args.positional.empty()) {
      if (args.named.empty()) fail("map needs a filter or attribute=");
      return map_attribute(in, self, args, result);
    }
    if (!args.positional[0].is_string()) fail("map needs the name of a filter");
    const std::string name = args.positional[0].text();
    const Arguments rest = without_first(args, 1);
    for (const Value& item : items_of(in.heap, self)->items) {
      in.heap.push(result, in.apply_filter(name, item, rest));
    }
  });
}

// The items for which the test (or, without one, the truth) of the item or its attribute is `wanted`.
template <bool kAttribute, bool kWanted>
Value pick(In& in, const Value& self, const Arguments& args) {
  constexpr size_t kSkipped = kAttribute ? 1 : 0;
  return generate(in.heap, [&](Sequence* result) {
    if (!truthy(self)) return;
    if (args.positional.size() < kSkipped) fail("selectattr and rejectattr need the name of an attribute");
    const ItemKey key(in.heap, kAttribute ? &args.positional[0] : nullptr, true);
    const bool tested = args.positional.size() > kSkipped;
    if (tested && !args.positional[kSkipped].is_string()) fail("a selection needs the name of a test");
    const Arguments rest = tested ? without_first(args, kSkipped + 1) : Arguments{};
    for (const Value& item : items_of(in.heap, self)->items) {
      const Value value = key(item);
      const bool passes =
          tested ? in.apply_test(args.positional[kSkipped].text(), value, rest) : truthy(value);
      if (passes == kWanted) in.heap.push(result, item);
    }
  });
}

constexpr NativeEntry kSelectionFilters[] = {
    {"map", map},
    {"reject", pick<false, false>},
    {"rejectattr", pick<true, false>},
    {"select", pick<false, true>},
    {"selectattr", pick<true, true>},
};

}  // namespace

std::span<const NativeEntry> selection_filters() { return kSelectionFilters; }

}  // namespace moebius::jinja
