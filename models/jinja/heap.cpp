#include "models/jinja/heap.h"

#include <fmt/core.h>

namespace moebius::jinja {

void Heap::step(int64_t count) {
  steps_ += count;
  if (steps_ > limits_.steps) fail(fmt::format("the template does not end within {} steps", limits_.steps));
}

void Heap::require(size_t bytes) const {
  if (bytes > static_cast<size_t>(limits_.output_bytes) ||
      used_bytes_ > limits_.output_bytes - static_cast<int64_t>(bytes)) {
    fail(fmt::format("the template needs more than {} bytes for its values and its output",
                     limits_.output_bytes));
  }
}

void Heap::charge(size_t bytes) {
  require(bytes);
  used_bytes_ += static_cast<int64_t>(bytes);
}

Value Heap::string(std::string text) {
  touch(text.size());
  const size_t bytes = sizeof(Str) + text.size();
  charge(bytes);
  try {
    return Value(StrRef(std::make_shared<Str>(std::move(text), this)));
  } catch (...) {
    release(bytes);
    throw;
  }
}

Str::~Str() {
  if (heap != nullptr) heap->release(sizeof(Str) + text.size());
}

void Heap::push(Sequence* sequence, Value value) {
  charge(sizeof(Value));
  step();
  sequence->items.push_back(std::move(value));
}

Nested::Nested(Heap& heap) : heap_(heap) {
  if (heap.depth_ >= heap.limits_.depth) {
    fail(fmt::format("nesting is deeper than {} levels", heap.limits_.depth));
  }
  ++heap.depth_;
}

void Builder::repeat(std::string_view text, int64_t count) {
  if (count <= 0 || text.empty()) return;
  heap_.require(text.size() > SIZE_MAX / static_cast<size_t>(count)
                    ? SIZE_MAX
                    : text.size() * static_cast<size_t>(count));
  const size_t bytes = text.size() * static_cast<size_t>(count);
  heap_.charge(bytes);
  heap_.touch(bytes);
  text_.reserve(text_.size() + bytes);
  for (int64_t i = 0; i < count; ++i) text_.append(text);
}

Value Builder::finish() {
  heap_.release(text_.size());
  Value value = heap_.string(std::move(text_));
  text_.clear();
  return value;
}

}  // namespace moebius::jinja
