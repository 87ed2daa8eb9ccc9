// Pace: how often answers end, to tell who finds no place when it is worth asking again. From any thread.
#pragma once

#include <chrono>
#include <deque>
#include <mutex>

namespace moebius {

class Pace {
 public:
  using Clock = std::chrono::steady_clock;

  void ended(Clock::time_point now = Clock::now());  // an answer, or what was given up: its place is free
  // Seconds until the next is likely to end, from 1 to 120: the mean distance of those of the last minute, or
  // the silence since, where there were none.
  int seconds_to_next(Clock::time_point now = Clock::now()) const;

 private:
  mutable std::mutex mutex_;
  std::deque<Clock::time_point> ends_;  // the newest last
};

}  // namespace moebius
