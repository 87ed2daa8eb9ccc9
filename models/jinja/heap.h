// Heap: what one rendering may spend. It owns every container of the rendering until its end, counts the
// bytes of containers, strings and output against TemplateLimits::output_bytes, the work against ::steps and
// the nesting against ::depth. Strings give their bytes back when the last reference goes; containers do not,
// so that cycles (a list appended to itself) need no collector.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/chat_template.h"
#include "models/jinja/value.h"

namespace moebius::jinja {

class Heap {
 public:
  explicit Heap(const TemplateLimits& limits) : limits_(limits) {}
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  const TemplateLimits& limits() const { return limits_; }

  void step(int64_t count = 1);
  // One step, and one more for every 64 bytes of text that are read or written.
  void touch(size_t bytes) { step(1 + static_cast<int64_t>(bytes / 64)); }
  void charge(size_t bytes);         // fails when the budget is spent
  void require(size_t bytes) const;  // fails when charge(bytes) would
  void release(size_t bytes) noexcept { used_bytes_ -= static_cast<int64_t>(bytes); }

  Value string(std::string text);
  template <class T, class... Arguments>
  T* make(Arguments&&... arguments) {
    charge(sizeof(T) + sizeof(void*));
    return own<T>(std::forward<Arguments>(arguments)...);
  }
  template <class T, class... Arguments>
  T* own(Arguments&&... arguments) {  // not charged
    auto object = std::make_unique<T>(std::forward<Arguments>(arguments)...);
    T* raw = object.get();
    objects_.push_back(std::move(object));
    return raw;
  }
  Sequence* sequence(ObjectKind kind) { return make<Sequence>(kind); }
  void push(Sequence* sequence, Value value);

  int line = 1;  // of the statement or expression at work; errors carry it

 private:
  friend class Nested;
  const TemplateLimits& limits_;
  int64_t steps_ = 0;
  int64_t used_bytes_ = 0;
  int depth_ = 0;
  std::vector<std::unique_ptr<Object>> objects_;
};

// One level of recursion, for as long as it lives.
class Nested {
 public:
  explicit Nested(Heap& heap);
  ~Nested() { --heap_.depth_; }
  Nested(const Nested&) = delete;
  Nested& operator=(const Nested&) = delete;

 private:
  Heap& heap_;
};

// A string under construction, charged as it grows.
class Builder {
 public:
  explicit Builder(Heap& heap) : heap_(heap) {}
  ~Builder() { heap_.release(text_.size()); }
  Builder(const Builder&) = delete;
  Builder& operator=(const Builder&) = delete;

  void add(std::string_view text) {
    heap_.charge(text.size());
    heap_.touch(text.size());
    text_.append(text);
  }
  void repeat(std::string_view text, int64_t count);
  const std::string& text() const { return text_; }
  Value finish();

 private:
  Heap& heap_;
  std::string text_;
};

}  // namespace moebius::jinja
