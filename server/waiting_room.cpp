#include "server/waiting_room.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>

namespace moebius {
namespace {

constexpr size_t kMost = 8192;

}  // namespace

WaitingRoom::WaitingRoom(Call call)
    : call_(std::move(call)), wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)), thread_([this] { work(); }) {}

WaitingRoom::~WaitingRoom() {
  stop();
  if (wake_ >= 0) ::close(wake_);
}

void WaitingRoom::wake() const {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_, &one, sizeof one);  // full: it is awake
}

void WaitingRoom::add(std::unique_ptr<Connection> connection) {
  {
    std::lock_guard lock(mutex_);
    if (stopped_) return;
    added_.push_back(std::move(connection));
  }
  wake();
}

void WaitingRoom::stop() {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  wake();
  if (thread_.joinable()) thread_.join();
}

void WaitingRoom::work() {
  Waiting waiting;
  std::vector<pollfd> polled;
  while (true) {
    {
      std::lock_guard lock(mutex_);
      if (stopped_) return;
      std::move(added_.begin(), added_.end(), std::back_inserter(waiting));
      added_.clear();
    }
    if (waiting.size() > kMost) waiting.erase(waiting.begin(), waiting.end() - kMost);
    polled.assign(1, {wake_, POLLIN, 0});
    auto until = Connection::Clock::now() + std::chrono::seconds(60);
    for (const auto& connection : waiting) {
      polled.push_back({connection->socket(), POLLIN, 0});
      until = std::min(until, connection->deadline());
    }
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Connection::Clock::now()).count();
    ::poll(polled.data(), polled.size(), static_cast<int>(std::clamp<int64_t>(left, 0, 60'000)));
    uint64_t ignored;
    [[maybe_unused]] const ssize_t got = ::read(wake_, &ignored, sizeof ignored);
    look(waiting, polled);
  }
}

void WaitingRoom::look(Waiting& waiting, const std::vector<pollfd>& polled) {
  for (size_t i = 0; i < waiting.size(); ++i) {
    std::unique_ptr<Connection>& connection = waiting[i];
    const Connection::Head head =
        polled[i + 1].revents != 0 ? connection->take_head() : Connection::Head::kMore;
    if (head != Connection::Head::kMore) {
      call_(std::move(connection), head);
    } else if (Connection::Clock::now() >= connection->deadline()) {
      connection->give_up();
      connection.reset();
    }
  }
  std::erase(waiting, nullptr);
}

}  // namespace moebius
