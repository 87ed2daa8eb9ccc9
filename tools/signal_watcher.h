// SignalWatcher: receives signals on a thread of its own, so that no handler and no global is needed.
#pragma once

#include <csignal>

#include <atomic>
#include <functional>
#include <thread>

namespace moebius {

class SignalWatcher {
 public:
  // SIGINT, SIGTERM and SIGHUP are blocked in this thread and in those it starts from now on: so it is made
  // before others. on_stop: of the first two, with how many came so far. on_reload: of SIGHUP, which counts
  // as SIGTERM where it says that the terminal is gone.
  SignalWatcher(std::function<void(int count)> on_stop, std::function<void()> on_reload);
  ~SignalWatcher();

 private:
  void loop();

  const std::function<void(int)> on_stop_;
  const std::function<void()> on_reload_;
  const bool terminal_;  // the program was started in one
  sigset_t signals_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace moebius
