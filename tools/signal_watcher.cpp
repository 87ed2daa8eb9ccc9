#include "tools/signal_watcher.h"

#include <termios.h>
#include <unistd.h>

#include <ctime>

namespace moebius {

SignalWatcher::SignalWatcher(std::function<void(int count)> on_stop, std::function<void()> on_reload)
    : on_stop_(std::move(on_stop)), on_reload_(std::move(on_reload)), terminal_(::isatty(STDIN_FILENO) != 0) {
  sigemptyset(&signals_);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals_, signal);
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  thread_ = std::thread([this] { loop(); });
}

SignalWatcher::~SignalWatcher() {
  stop_ = true;
  thread_.join();
}

void SignalWatcher::loop() {
  const timespec wait = {0, 50'000'000};
  for (int count = 0; !stop_;) {
    const int signal = sigtimedwait(&signals_, nullptr, &wait);
    termios attributes;
    const bool gone = terminal_ && tcgetattr(STDIN_FILENO, &attributes) != 0;
    if (signal == SIGHUP && !gone) on_reload_();
    if (signal == SIGINT || signal == SIGTERM || (signal == SIGHUP && gone)) on_stop_(++count);
  }
}

}  // namespace moebius
