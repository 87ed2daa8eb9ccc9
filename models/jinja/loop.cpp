#include "models/jinja/loop.h"

#include "models/jinja/interpreter.h"

namespace moebius::jinja {
namespace {

Value loop_cycle(Interpreter&, const Value& self, const Arguments& args) {
  if (args.positional.empty()) fail("loop.cycle needs at least one value");
  const auto index = static_cast<size_t>(self.as<Loop>()->index0());
  return args.positional[index % args.positional.size()];
}

Value loop_changed(Interpreter&, const Value& self, const Arguments& args) {
  return Value(self.as<Loop>()->changed(args.positional));
}

}  // namespace

Loop::Loop(Interpreter& in, const Stmt& stmt, const Value& items, int depth, ScopeRef scope)
    : Object(ObjectKind::kLoop), in_(in), stmt_(stmt), scope_(std::move(scope)), depth_(depth) {
  items_ = is_kind(items, ObjectKind::kIterator) ? items.as<Sequence>() : items_of(in.heap, items);
  if (stmt.filter == nullptr && items_->kind == ObjectKind::kRange) {
    length_ = static_cast<int64_t>(items_->items.size());
  }
}

// Lists are read live: a template may append to the list that it walks.
bool Loop::pull(Value& item) {
  while (true) {
    in_.heap.step();
    if (items_->kind == ObjectKind::kIterator) {
      if (!read_next(*items_, item)) return false;
    } else {
      if (at_ >= items_->items.size()) return false;
      item = items_->items[at_++];
    }
    if (stmt_.filter == nullptr || drained_ || in_.loop_condition(*this, item)) return true;
  }
}

bool Loop::advance(Value& item) {
  if (after_) {
    item = std::move(*after_);
    after_.reset();
  } else if (!pull(item)) {
    return false;
  }
  ++index0_;
  before_ = std::move(current_);
  current_ = item;
  return true;
}

bool Loop::peek() {
  Value item;
  if (!after_ && pull(item)) after_ = std::move(item);
  return after_.has_value();
}

int64_t Loop::length() {
  if (length_) return *length_;
  if (stmt_.filter == nullptr && items_->kind != ObjectKind::kIterator) {
    length_ = static_cast<int64_t>(items_->items.size());
    return *length_;
  }
  Sequence* rest = in_.heap.sequence(ObjectKind::kList);
  Value item;
  while (pull(item)) in_.heap.push(rest, std::move(item));
  length_ = static_cast<int64_t>(rest->items.size()) + index0_ + 1 + (after_ ? 1 : 0);
  // What was drained has passed the condition; from here on it is read as an iterator of its own.
  drained_ = true;
  items_ = rest;
  at_ = 0;
  return *length_;
}

bool Loop::changed(const std::vector<Value>& values) {
  bool same = last_changed_ && last_changed_->size() == values.size();
  for (size_t i = 0; same && i < values.size(); ++i) same = equal(in_.heap, (*last_changed_)[i], values[i]);
  if (same) return false;
  last_changed_ = values;
  return true;
}

bool Loop::attribute(const std::string& name, Value& found) {
  if (name == "index")
    found = make_int(index0_ + 1);
  else if (name == "index0")
    found = make_int(index0_);
  else if (name == "first")
    found = Value(index0_ == 0);
  else if (name == "last")
    found = Value(!peek());
  else if (name == "length")
    found = make_int(length());
  else if (name == "revindex")
    found = make_int(length() - index0_);
  else if (name == "revindex0")
    found = make_int(length() - index0_ - 1);
  else if (name == "depth")
    found = make_int(depth_ + 1);
  else if (name == "depth0")
    found = make_int(depth_);
  else if (name == "previtem")
    found = index0_ == 0 ? undefined(in_.heap, "there is no previous item") : before_;
  else if (name == "nextitem")
    found = peek() ? *after_ : undefined(in_.heap, "there is no next item");
  else if (name == "cycle" || name == "changed") {
    auto* method = in_.heap.make<Callable>();
    method->name = name;
    method->native = name == "cycle" ? loop_cycle : loop_changed;
    method->self = Value(static_cast<Object*>(this));
    found = Value(method);
  } else {
    return false;
  }
  return true;
}

}  // namespace moebius::jinja
