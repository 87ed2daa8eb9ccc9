// SimStream: a thread that does pieces of work in the order they were given.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace moebius {

class SimStream {
 public:
  // seed: of random delays before each piece; 0: none.
  explicit SimStream(uint64_t seed);
  ~SimStream();  // after all work is done
  SimStream(const SimStream&) = delete;
  SimStream& operator=(const SimStream&) = delete;

  void push(std::function<void()> work);
  uint64_t pushed() const;  // pieces so far
  uint64_t done() const;
  // Returns when `ticket` pieces, counted from the first, are done. From any thread but the stream's own.
  void wait_for(uint64_t ticket);

 private:
  void run();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  uint64_t pushed_ = 0, done_ = 0;
  bool stop_ = false;
  uint64_t seed_;
  std::thread thread_;
};

}  // namespace moebius
