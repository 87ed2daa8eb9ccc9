#undef _FORTIFY_SOURCE  // its longjmp refuses to go from stack to stack

#include "tests/cuda_emulator/fibers.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "kernels/status.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace moebius::cuda::emulator {

namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStackBytes = 1024 * 1024;
#else
constexpr size_t kStackBytes = 128 * 1024;
#endif

}  // namespace

struct Fibers::Fiber {
  jmp_buf where;
  ucontext_t start;  // until it has started
  bool started = false;
  int number = 0;
  void* memory = MAP_FAILED;  // a page that faults, then the stack
  const void* stack = nullptr;
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // the address sanitizer's
  Fibers* owner = nullptr;
};

namespace {

thread_local void* starting;  // the fiber that is switched to for the first time

}  // namespace

Fibers::Fibers(std::function<void(int)> body) : body_(std::move(body)) {
  fibers_.push_back(std::make_unique<Fiber>());
  at(kCaller).started = true;
}

Fibers::~Fibers() {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (const auto& fiber : fibers_)
    if (fiber->memory != MAP_FAILED) munmap(fiber->memory, kStackBytes + page);
}

void Fibers::grow(int count) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  while (static_cast<int>(fibers_.size()) <= count) {
    auto fiber = std::make_unique<Fiber>();
    fiber->memory = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MOEBIUS_CHECK(fiber->memory != MAP_FAILED && mprotect(fiber->memory, page, PROT_NONE) == 0,
                  "no memory for the stack of an emulated thread");
    fiber->number = static_cast<int>(fibers_.size()) - 1;
    fiber->owner = this;
    fiber->stack = static_cast<char*>(fiber->memory) + page;
    fiber->stack_bytes = kStackBytes;
    getcontext(&fiber->start);
    fiber->start.uc_stack.ss_sp = const_cast<void*>(fiber->stack);
    fiber->start.uc_stack.ss_size = kStackBytes;
    fiber->start.uc_link = nullptr;
    makecontext(&fiber->start, &Fibers::begin, 0);
    fibers_.push_back(std::move(fiber));
  }
}

void Fibers::begin() {
  Fiber& self = *static_cast<Fiber*>(starting);
#ifdef __SANITIZE_ADDRESS__
  Fiber& caller = self.owner->at(kCaller);
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (!caller.stack) caller.stack = bottom, caller.stack_bytes = bytes;  // the first comes from the caller
#endif
  self.owner->body_(self.number);
  MOEBIUS_CHECK(false, "the body of a fiber returned");
}

void Fibers::go(int from, int to) {
  if (from == to) return;
  Fiber& here = at(from);
  Fiber& there = at(to);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&here.fake_stack, there.stack, there.stack_bytes);
#endif
  if (_setjmp(here.where) == 0) {
    if (there.started) _longjmp(there.where, 1);
    there.started = true;
    starting = &there;
    setcontext(&there.start);
  }
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(at(from).fake_stack, nullptr, nullptr);
#endif
}

}  // namespace moebius::cuda::emulator
