#include "kernels/parallel.h"

#include <algorithm>

#include "kernels/status.h"

namespace moebius {
namespace {

// About twenty microseconds: longer than the gaps between the operations of a decode step.
constexpr int kSpins = 1000;
constexpr int64_t kMaxRanges = UINT32_MAX;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Returns when value is no longer `old`.
template <class T>
void wait_while(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) : parts_(static_cast<size_t>(std::max(threads, 1))) {
  for (size_t i = 1; i < parts_.size(); ++i) workers_.emplace_back([this, i] { work_loop(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::work_loop(size_t who) {
  for (uint32_t seen = 0;;) {
    wait_while(round_, seen);
    seen = round_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    work(who, seen);
  }
}

int64_t ThreadPool::part_end(size_t part) const {
  const auto parts = static_cast<int64_t>(parts_.size()), i = static_cast<int64_t>(part) + 1;
  return ranges_ / parts * i + ranges_ % parts * i / parts;
}

void ThreadPool::work(size_t who, uint32_t round) {
  for (size_t i = 0; i < parts_.size(); ++i) work_on((who + i) % parts_.size(), round);
}

// Takes open ranges of this part and round, last ones last. Whoever comes late finds none, or another round,
// and touches nothing.
void ThreadPool::work_on(size_t part, uint32_t round) {
  std::atomic<uint64_t>& of_part = parts_[part].open;
  uint64_t open = of_part.load(std::memory_order_acquire);
  while (open >> 32 == round && static_cast<uint32_t>(open) != 0) {
    if (!of_part.compare_exchange_weak(open, open - 1, std::memory_order_acq_rel)) continue;
    const int64_t ranges = ranges_, range = part_end(part) - static_cast<uint32_t>(open);
    body_(range * grain_, std::min(n_, (range + 1) * grain_), context_);
    if (finished_.fetch_add(1, std::memory_order_acq_rel) + 1 == ranges) finished_.notify_one();
    open = of_part.load(std::memory_order_acquire);
  }
}

void ThreadPool::run(int64_t n, int64_t grain, Body body, void* context) {
  MOEBIUS_CHECK(grain > 0);
  if (n <= 0) return;
  const int64_t ranges = (n - 1) / grain + 1;
  MOEBIUS_CHECK(ranges <= kMaxRanges);
  if (workers_.empty() || ranges == 1) {
    for (int64_t r = 0; r < ranges; ++r) body(r * grain, std::min(n, (r + 1) * grain), context);
    return;
  }
  n_ = n, grain_ = grain, ranges_ = ranges, body_ = body, context_ = context;
  finished_.store(0, std::memory_order_relaxed);
  const uint32_t round = round_.load(std::memory_order_relaxed) + 1;
  int64_t begin = 0;
  for (size_t part = 0; part < parts_.size(); ++part) {
    const int64_t end = part_end(part);
    parts_[part].open.store(static_cast<uint64_t>(round) << 32 | static_cast<uint64_t>(end - begin),
                            std::memory_order_release);
    begin = end;
  }
  round_.store(round, std::memory_order_release);
  round_.notify_all();
  work(0, round);
  for (int64_t done; (done = finished_.load(std::memory_order_acquire)) != ranges;)
    wait_while(finished_, done);
}

}  // namespace moebius
