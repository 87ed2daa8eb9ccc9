#include "server/pace.h"

#include <algorithm>
#include <cmath>

namespace moebius {

namespace {

constexpr size_t kKeptEnds = 256;
constexpr std::chrono::seconds kWindow{60};
constexpr int kUnknown_s = 5, kMost_s = 120;

}  // namespace

void Pace::ended(Clock::time_point now) {
  std::lock_guard lock(mutex_);
  ends_.push_back(now);
  if (ends_.size() > kKeptEnds) ends_.pop_front();
}

int Pace::seconds_to_next(Clock::time_point now) const {
  std::lock_guard lock(mutex_);
  if (ends_.empty()) return kUnknown_s;
  const auto first = std::ranges::lower_bound(ends_, now - kWindow);
  const auto since = first == ends_.end() ? ends_.back() : *first;
  const auto n = std::max<std::ptrdiff_t>(ends_.end() - first, 1);
  const double mean = std::chrono::duration<double>(now - since).count() / static_cast<double>(n);
  return std::clamp(static_cast<int>(std::ceil(mean)), 1, kMost_s);
}

}  // namespace moebius
