// Loop: the variable `loop` of a for statement, and the iteration behind it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "models/jinja/call.h"
#include "models/jinja/value.h"

namespace moebius::jinja {

class Loop : public Object {
 public:
  // filter_scope is the scope around the loop, where its `if` condition is evaluated.
  Loop(Interpreter& in, const Stmt& stmt, const Value& items, int depth, ScopeRef scope);
  static bool matches(const Object& o) { return o.kind == ObjectKind::kLoop; }

  bool advance(Value& item);  // false at the end
  bool attribute(const std::string& name, Value& found);
  bool changed(const std::vector<Value>& values);

  const Stmt& stmt() const { return stmt_; }
  const ScopeRef& scope() const { return scope_; }
  int depth() const { return depth_; }
  int64_t index0() const { return index0_; }

 private:
  bool pull(Value& item);  // the next item that the condition lets pass, without looking at what was peeked
  bool peek();
  int64_t length();

  Interpreter& in_;
  const Stmt& stmt_;
  ScopeRef scope_;
  int depth_;
  Sequence* items_;
  size_t at_ = 0;
  int64_t index0_ = -1;
  bool drained_ = false;  // items_ has passed the condition already
  std::optional<int64_t> length_;
  std::optional<Value> after_;
  Value before_, current_;
  std::optional<std::vector<Value>> last_changed_;
};

}  // namespace moebius::jinja
