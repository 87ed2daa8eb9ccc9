// Fibers: threads of a block, each with a stack of its own, on one thread of the host.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

namespace moebius::cuda::emulator {

class Fibers {
 public:
  // Every fiber runs body(its number) once, the first time it is switched to; body never returns.
  explicit Fibers(std::function<void(int)> body);
  ~Fibers();
  Fibers(const Fibers&) = delete;
  Fibers& operator=(const Fibers&) = delete;

  void grow(int count);  // fibers 0 .. count - 1 exist
  // Goes on where `to` stopped; returns when somebody switches back to the caller. kCaller: who is none of
  // the fibers. A fiber may switch to itself, which does nothing.
  static constexpr int kCaller = -1;
  void go(int from, int to);

 private:
  struct Fiber;
  static void begin();
  Fiber& at(int i) { return *fibers_[static_cast<size_t>(i + 1)]; }

  const std::function<void(int)> body_;
  std::vector<std::unique_ptr<Fiber>> fibers_;  // the caller, then 0, 1, ...
};

}  // namespace moebius::cuda::emulator
