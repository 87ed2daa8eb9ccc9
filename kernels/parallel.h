// ThreadPool and parallel_for: the one door to threads for compute.
//
// A pool of our own, not OpenMP: on a machine with other work, libgomp's threads spin for milliseconds at
// every barrier while the thread they wait for has no core (a 40-token answer of the tiny model took 27 s
// instead of 0.1 s beside a compiler run), and the thread sanitizer does not see its locks. Here idle threads
// spin for some microseconds, then sleep; a late thread finds its work done by others and is never waited
// for.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace moebius {

class ThreadPool {
 public:
  // threads: the caller's included, at least 1.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  using Body = void (*)(int64_t begin, int64_t end, void* context);
  // See parallel_for.
  void run(int64_t n, int64_t grain, Body body, void* context);

 private:
  // One of as many parts of the ranges as there are threads.
  struct alignas(64) Part {
    std::atomic<uint64_t> open{0};  // round << 32 | ranges not handed out yet, the last ones of the part
  };

  void work_loop(size_t who);
  void work(size_t who, uint32_t round);
  void work_on(size_t part, uint32_t round);
  int64_t part_end(size_t part) const;  // of its ranges

  // The current call. Written by the caller while no range is open; read by who holds an open range.
  int64_t n_ = 0, grain_ = 1, ranges_ = 0;
  Body body_ = nullptr;
  void* context_ = nullptr;

  std::vector<Part> parts_;
  alignas(64) std::atomic<int64_t> finished_{0};  // ranges done in this round
  alignas(64) std::atomic<uint32_t> round_{0};    // bumped for every call; what idle threads wait on
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

// Calls body(int64_t begin, int64_t end) over disjoint ranges that cover [0, n), each at most `grain` long
// and starting at a multiple of grain, on the pool's threads; returns when all are done. Ranges are handed
// out as threads become free, so the result must not depend on who runs which. One thread at a time may use a
// pool, and a body must not use the same pool.
template <class Body>
void parallel_for(ThreadPool& pool, int64_t n, int64_t grain, Body&& body) {
  pool.run(
      n, grain,
      [](int64_t begin, int64_t end, void* context) {
        (*static_cast<std::remove_reference_t<Body>*>(context))(begin, end);
      },
      &body);
}

}  // namespace moebius
