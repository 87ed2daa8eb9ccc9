// Value: what a template's expressions compute with, after Python's types.
//
// Undefined, none, bool, int, float and str are held by value (strings are shared and never change); lists,
// tuples, dicts and everything else are Objects with reference semantics, owned by the rendering's Heap.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "kernels/status.h"

namespace moebius::jinja {

class Heap;
class Value;
struct Object;

// Python's integers have no bound; these end at 128 bits with an error.
__extension__ typedef __int128 Int;

// Thrown inside models/jinja only; ChatTemplate turns it into a Status. line 0: wherever the heap's line
// stands.
struct Error {
  Code code;
  int line;
  std::string message;
};
[[noreturn]] void fail(std::string message);
[[noreturn]] void fail_unsupported(std::string message);

struct Str {
  Str(std::string t, Heap* h) : text(std::move(t)), heap(h) {}
  ~Str();
  Str(const Str&) = delete;
  Str& operator=(const Str&) = delete;
  std::string text;  // UTF-8
  Heap* heap;        // gets the bytes back; null for the constants of a template
};
using StrRef = std::shared_ptr<const Str>;

struct Undefined {
  StrRef why;  // the error that its use raises; null: a plain one
};
struct None {};

class Value {
 public:
  Value() = default;  // undefined
  explicit Value(Undefined undefined) : v_(std::move(undefined)) {}
  explicit Value(None none) : v_(none) {}
  explicit Value(bool boolean) : v_(boolean) {}
  explicit Value(Int integer) : v_(integer) {}
  explicit Value(double real) : v_(real) {}
  explicit Value(StrRef text) : v_(std::move(text)) {}
  explicit Value(Object* object) : v_(object) {}

  bool is_undefined() const { return std::holds_alternative<Undefined>(v_); }
  bool is_none() const { return std::holds_alternative<None>(v_); }
  bool is_bool() const { return std::holds_alternative<bool>(v_); }
  bool is_int() const { return std::holds_alternative<Int>(v_); }
  bool is_float() const { return std::holds_alternative<double>(v_); }
  bool is_string() const { return std::holds_alternative<StrRef>(v_); }
  bool is_object() const { return std::holds_alternative<Object*>(v_); }

  bool boolean() const { return std::get<bool>(v_); }
  Int integer() const { return std::get<Int>(v_); }
  double real() const { return std::get<double>(v_); }
  const std::string& text() const { return std::get<StrRef>(v_)->text; }
  const StrRef& string() const { return std::get<StrRef>(v_); }
  Object* object() const { return std::get<Object*>(v_); }
  const Undefined& undefined() const { return std::get<Undefined>(v_); }

  // The object, if it is one of that kind.
  template <class T>
  T* as() const;

 private:
  std::variant<Undefined, None, bool, Int, double, StrRef, Object*> v_;
};

inline Value make_int(int64_t integer) { return Value(static_cast<Int>(integer)); }
inline Value none() { return Value(None{}); }

enum class ObjectKind {
  kList,
  kTuple,
  kRange,
  kItems,  // dict.items(), .keys(), .values(): snapshots
  kKeys,
  kValues,
  kIterator,  // what map, select and their like return: truthy, without length, consumed by its reader
  kDict,
  kNamespace,
  kCallable,
  kLoop,
};

struct Object {
  explicit Object(ObjectKind k) : kind(k) {}
  virtual ~Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  ObjectKind kind;
};

// kList to kIterator.
struct Sequence : Object {
  explicit Sequence(ObjectKind k) : Object(k) {}
  static bool matches(const Object& o) { return o.kind <= ObjectKind::kIterator; }
  std::vector<Value> items;
  size_t next = 0;                       // kIterator: the first item that was not read yet
  std::shared_ptr<const Error> failure;  // kIterator: what reading past the last item raises
  Int start = 0, stop = 0, stride = 1;   // kRange
  bool group = false;                    // a tuple of groupby: also .grouper and .list
};

struct KeyLess {
  bool operator()(const Value& a, const Value& b) const;
};

// Ordered by insertion, as Python's. kDict and kNamespace.
struct Dict : Object {
  explicit Dict(ObjectKind k = ObjectKind::kDict) : Object(k) {}
  static bool matches(const Object& o) {
    return o.kind == ObjectKind::kDict || o.kind == ObjectKind::kNamespace;
  }
  Value* find(const Value& key);  // key must be hashable
  Value* find(std::string_view key);
  void set(Heap& heap, const Value& key, Value value);
  void insert(const Value& key, Value value);  // set() without charge
  bool erase(const Value& key);
  void clear() {
    entries.clear();
    index_.clear();
  }
  std::vector<std::pair<Value, Value>> entries;

 private:
  std::map<Value, size_t, KeyLess> index_;  // in use from kIndexed entries on
};

template <class T>
T* Value::as() const {
  const auto* object = std::get_if<Object*>(&v_);
  return object != nullptr && T::matches(**object) ? static_cast<T*>(*object) : nullptr;
}

inline bool is_kind(const Value& v, ObjectKind kind) { return v.is_object() && v.object()->kind == kind; }
inline Dict* as_dict(const Value& v) { return is_kind(v, ObjectKind::kDict) ? v.as<Dict>() : nullptr; }
inline Sequence* as_list(const Value& v) {
  return is_kind(v, ObjectKind::kList) ? v.as<Sequence>() : nullptr;
}

std::string type_name(const Value& v);             // as Python names it
[[noreturn]] void fail_undefined(const Value& v);  // v is undefined and was used
bool truthy(const Value& v);
std::optional<Int> as_int(const Value& v);       // of int and bool
std::optional<double> as_float(const Value& v);  // of int, bool and float
void check_hashable(const Value& v);             // fails for lists and dicts

bool equal(Heap& heap, const Value& a, const Value& b);
bool less(Heap& heap, const Value& a, const Value& b);  // a < b; fails where Python raises TypeError
int compare_numbers(const Value& a, const Value& b);    // -1, 0, 1; 2 when unordered (NaN)

// Takes the next item of an iterator; false at its end, where a failure of its making comes to light.
bool read_next(Sequence& iterator, Value& item);

// What `for x in v` runs over. A list or tuple is returned itself (it may change while it is read), an
// iterator is emptied; fails for what cannot be iterated.
Sequence* items_of(Heap& heap, const Value& v);
// len(v), or nothing where Python raises TypeError.
std::optional<int64_t> length_of(const Value& v);

}  // namespace moebius::jinja
