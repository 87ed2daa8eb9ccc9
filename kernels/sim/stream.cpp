#include "kernels/sim/stream.h"

#include <sys/prctl.h>

#include <chrono>
#include <random>
#include <utility>

namespace moebius {
namespace {

constexpr int kLongestDelayUs = 50;

}  // namespace

SimStream::SimStream(uint64_t seed) : seed_(seed), thread_([this] { run(); }) {}

SimStream::~SimStream() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void SimStream::push(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
    ++pushed_;
  }
  changed_.notify_all();
}

uint64_t SimStream::pushed() const {
  const std::lock_guard lock(mutex_);
  return pushed_;
}

uint64_t SimStream::done() const {
  const std::lock_guard lock(mutex_);
  return done_;
}

void SimStream::wait_for(uint64_t ticket) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return done_ >= ticket; });
}

void SimStream::run() {
  prctl(PR_SET_TIMERSLACK, 1000, 0, 0,
        0);  // of this thread, in ns: modelled times are often below the usual 50 us
  std::mt19937_64 random(seed_);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stop_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const std::function<void()> work = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    // Half of the pieces start at once, so that streams drift apart.
    if (seed_ != 0 && random() % 2 == 0)
      std::this_thread::sleep_for(std::chrono::microseconds(random() % kLongestDelayUs));
    work();
    lock.lock();
    ++done_;
    changed_.notify_all();
  }
}

}  // namespace moebius
