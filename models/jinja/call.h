// What can be called: macros of the template, and native functions (filters, tests, methods, globals) with
// the tables that name them.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/jinja/ast.h"
#include "models/jinja/heap.h"
#include "models/jinja/value.h"

namespace moebius::jinja {

class Interpreter;

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// self: the value left of a filter or test, the owner of a method, undefined for a global function.
using Native = Value (*)(Interpreter& in, const Value& self, const Arguments& args);

// The function, for those without parameters: refuses arguments.
template <Native kFunction>
Value bare(Interpreter& in, const Value& self, const Arguments& args) {
  if (!args.positional.empty() || !args.named.empty()) fail("a filter, test or method takes no arguments");
  return kFunction(in, self, args);
}

struct NativeEntry {
  std::string_view name;
  Native function;
};

struct Scope {
  explicit Scope(std::shared_ptr<Scope> p) : parent(std::move(p)) {}
  std::map<std::string, Value, std::less<>> names;
  std::shared_ptr<Scope> parent;
};
using ScopeRef = std::shared_ptr<Scope>;

struct Callable : Object {
  Callable() : Object(ObjectKind::kCallable) {}
  static bool matches(const Object& o) { return o.kind == ObjectKind::kCallable; }
  std::string name;
  Native native = nullptr;
  Value self;
  const Stmt* macro = nullptr;  // or this
  ScopeRef scope;               // where the macro was defined
};

// The arguments of a native function by parameter; fails for unknown, doubled or missing ones.
class Parameters {
 public:
  Parameters(const Arguments& args, std::string_view function, std::initializer_list<std::string_view> names,
             size_t required = 0);
  const Value* operator[](size_t i) const { return values_[i]; }  // null: not given
  bool flag(size_t i, bool fallback) const { return values_[i] == nullptr ? fallback : truthy(*values_[i]); }
  int64_t integer(size_t i, int64_t fallback) const;  // clamped; fails unless int or bool
  const std::string& text(size_t i) const;            // fails unless given and str
  bool given(size_t i) const { return values_[i] != nullptr && !values_[i]->is_none(); }

 private:
  std::string_view function_;
  std::vector<const Value*> values_;
};

// An iterator with the items that make() pushes. As Python's generators, it fails only when it is read that
// far.
template <class Make>
Value generate(Heap& heap, Make make) {
  Sequence* result = heap.sequence(ObjectKind::kIterator);
  try {
    make(result);
  } catch (const Error& error) {
    result->failure = std::make_shared<const Error>(error);
  }
  return Value(result);
}

Value call_dict(Interpreter& in, const Arguments& args);  // dict(...)

int64_t clamp_int(Int value);

Native find_native(std::span<const NativeEntry> table, std::string_view name);
Native find_filter(std::string_view name);
Native find_test(std::string_view name);
Native find_global(std::string_view name);
Native find_method(const Value& self, std::string_view name);

// The tables, one a file.
std::span<const NativeEntry> text_filters();
std::span<const NativeEntry> number_filters();
std::span<const NativeEntry> sequence_filters();
std::span<const NativeEntry> selection_filters();
std::span<const NativeEntry> string_methods();
std::span<const NativeEntry> string_predicates();
std::span<const NativeEntry> list_methods();
std::span<const NativeEntry> tuple_methods();
std::span<const NativeEntry> dict_methods();

Value get_attribute(Heap& heap, const Value& v, const std::string& name);  // v.name
Value get_item(Heap& heap, const Value& v, const Value& key);              // v[key]
// start, stop and step may be none; fails where Python raises.
Value get_slice(Heap& heap, const Value& v, const Value& start, const Value& stop, const Value& step);
Value binary(Heap& heap, Op op, const Value& a, const Value& b);  // arithmetic
bool contains(Heap& heap, const Value& container, const Value& item);
bool compare(Heap& heap, Op op, const Value& a, const Value& b);  // ==, <, in, ...
Value undefined(Heap& heap, std::string why);

}  // namespace moebius::jinja
