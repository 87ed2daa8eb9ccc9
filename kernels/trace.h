// Tracer: what ran when on which row, such as a device's stream: for people to look at.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <vector>

namespace moebius {

class Tracer {
 public:
  using Clock = std::chrono::steady_clock;

  enum class Row : uint8_t { kCompute, kLoad, kHostExperts };
  struct Span {
    Row row;
    const char* name;    // lives as long as the program
    int64_t layer = -1;  // -1: of none
    Clock::time_point begin, end;
  };
  static constexpr size_t kMostSpans = size_t{1} << 20;  // later ones are left out

  // From any thread.
  void add(const Span& span) {
    const std::lock_guard lock(mutex_);
    if (spans_.size() < kMostSpans) spans_.push_back(span);
  }
  std::vector<Span> spans() const {
    const std::lock_guard lock(mutex_);
    return spans_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<Span> spans_;
};

}  // namespace moebius
