#include "tools/chat_interrupt.h"

#include <cerrno>
#include <csignal>

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace moebius {

Interrupts::Interrupts(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  fd_ = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

Interrupts::~Interrupts() {
  if (fd_ >= 0) ::close(fd_);
}

bool Interrupts::take() {
  signalfd_siginfo info;
  bool taken = false;
  while (fd_ >= 0 && ::read(fd_, &info, sizeof info) == sizeof info) taken = true;
  return taken;
}

ExitOnInterrupt::ExitOnInterrupt(const Interrupts& interrupts) : stop_(eventfd(0, EFD_CLOEXEC)) {
  if (stop_ < 0) return;
  watcher_ = std::thread([signals = interrupts.descriptor(), stop = stop_] {
    pollfd wanted[] = {{signals, POLLIN, 0}, {stop, POLLIN, 0}};
    while (true) {
      if (::poll(wanted, 2, -1) < 0 && errno != EINTR) return;
      if (wanted[1].revents != 0) return;
      if (wanted[0].revents != 0) ::_exit(130);
    }
  });
}

ExitOnInterrupt::~ExitOnInterrupt() {
  if (stop_ < 0) return;
  const uint64_t one = 1;
  const bool told = ::write(stop_, &one, sizeof one) == sizeof one;
  if (told) watcher_.join();
  if (!told) watcher_.detach();
  ::close(stop_);
}

}  // namespace moebius
