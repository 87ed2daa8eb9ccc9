// Interrupts: Ctrl-C as something to ask about, not a death. Linux's signalfd, so that no handler and no
// global flag is needed.
#pragma once

#include <csignal>
#include <initializer_list>

#include <thread>

namespace moebius {

class Interrupts {
 public:
  // From here on these signals, Ctrl-C's by default, do not end the process. Before any other thread exists:
  // threads inherit the mask.
  explicit Interrupts(std::initializer_list<int> signals = {SIGINT});
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  bool take();                            // whether one came since the last call
  int descriptor() const { return fd_; }  // readable while an interrupt waits

 private:
  int fd_ = -1;
};

// While it lives, Ctrl-C ends the process with exit code 130: for work that cannot be asked to stop.
class ExitOnInterrupt {
 public:
  explicit ExitOnInterrupt(const Interrupts& interrupts);
  ~ExitOnInterrupt();
  ExitOnInterrupt(const ExitOnInterrupt&) = delete;
  ExitOnInterrupt& operator=(const ExitOnInterrupt&) = delete;

 private:
  int stop_ = -1;
  std::thread watcher_;
};

}  // namespace moebius
