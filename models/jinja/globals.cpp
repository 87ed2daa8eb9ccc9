// The functions that every template can call.
#include <ctime>

#include <fmt/core.h>

#include "models/jinja/format.h"
#include "models/jinja/interpreter.h"

namespace moebius::jinja {
namespace {

using In = Interpreter;

constexpr int64_t kMaxRange = 100'000;

Value range(In& in, const Value&, const Arguments& args) {
  const Parameters given(args, "range", {"start", "stop", "step"}, 1);
  const bool single = given[1] == nullptr;
  const int64_t start = single ? 0 : given.integer(0, 0);
  const int64_t stop = given.integer(single ? 0 : 1, 0);
  const int64_t step = given.integer(2, 1);
  if (step == 0) fail("the step of a range is zero");
  const int64_t span = step > 0 ? stop - start : start - stop;
  const int64_t stride = step > 0 ? step : -step;
  const int64_t count = span <= 0 ? 0 : (span - 1) / stride + 1;
  if (count > kMaxRange) fail(fmt::format("a range has more than {} numbers", kMaxRange));
  Sequence* result = in.heap.sequence(ObjectKind::kRange);
  result->start = start;
  result->stop = stop;
  result->stride = step;
  for (int64_t i = 0; i < count; ++i) in.heap.push(result, make_int(start + i * step));
  return Value(result);
}

void fill_dict(In& in, Dict& dict, const Arguments& args) {
  if (args.positional.size() > 1) fail("dict takes no more than one positional argument");
  if (!args.positional.empty()) {
    const Value& source = args.positional[0];
    if (const Dict* other = as_dict(source)) {
      for (const auto& [key, value] : other->entries) dict.set(in.heap, key, value);
    } else {
      for (const Value& item : items_of(in.heap, source)->items) {
        const Sequence* pair = items_of(in.heap, item);
        if (pair->items.size() != 2) fail("dict needs pairs of key and value");
        check_hashable(pair->items[0]);
        dict.set(in.heap, pair->items[0], pair->items[1]);
      }
    }
  }
  for (const auto& [name, value] : args.named) dict.set(in.heap, in.heap.string(name), value);
}

Value make_dict(In& in, const Value&, const Arguments& args) {
  auto* dict = in.heap.make<Dict>();
  fill_dict(in, *dict, args);
  return Value(dict);
}

Value make_namespace(In& in, const Value&, const Arguments& args) {
  auto* dict = in.heap.make<Dict>(ObjectKind::kNamespace);
  fill_dict(in, *dict, args);
  for (const auto& [key, value] : dict->entries) {
    if (key.is_string() && key.text().starts_with('_')) {
      fail("attributes of a namespace cannot begin with an underscore");
    }
  }
  return Value(dict);
}

Value raise_exception(In& in, const Value&, const Arguments& args) {
  const Parameters given(args, "raise_exception", {"message"}, 1);
  fail(to_str(in.heap, *given[0]).text());
}

std::tm local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  return local;
}

Value strftime_now(In& in, const Value&, const Arguments& args) {
  const Parameters given(args, "strftime_now", {"format"}, 1);
  const std::string& pattern = given.text(0);
  if (pattern.size() > 256) fail("the format of strftime_now is longer than 256 bytes");
  const auto& clock = in.heap.limits().clock;
  const std::tm now = clock ? clock() : local_time();
  // Ends in a character of its own, since an empty result and a full buffer look alike.
  char buffer[4096];
  const size_t size = std::strftime(buffer, sizeof(buffer), (pattern + ".").c_str(), &now);
  if (size == 0) fail("the result of strftime_now is longer than 4096 bytes");
  return in.heap.string(std::string(buffer, size - 1));
}

Value joiner_call(In& in, const Value& self, const Arguments&) {
  Sequence* state = self.as<Sequence>();
  const bool used = truthy(state->items[1]);
  state->items[1] = Value(true);
  return used ? state->items[0] : in.heap.string("");
}

Value joiner(In& in, const Value&, const Arguments& args) {
  const Parameters given(args, "joiner", {"sep"});
  Sequence* state = in.heap.sequence(ObjectKind::kList);
  in.heap.push(state, given[0] == nullptr ? in.heap.string(", ") : *given[0]);
  in.heap.push(state, Value(false));
  auto* result = in.heap.make<Callable>();
  result->name = "joiner";
  result->native = joiner_call;
  result->self = Value(state);
  return Value(result);
}

constexpr NativeEntry kGlobals[] = {
    {"dict", make_dict},
    {"joiner", joiner},
    {"namespace", make_namespace},
    {"raise_exception", raise_exception},
    {"range", range},
    {"strftime_now", strftime_now},
};

}  // namespace

Value call_dict(Interpreter& in, const Arguments& args) { return make_dict(in, {}, args); }

Native find_global(std::string_view name) {
  if (name == "cycler" || name == "lipsum") fail_unsupported(fmt::format("'{}' is not supported", name));
  return find_native(kGlobals, name);
}

}  // namespace moebius::jinja
