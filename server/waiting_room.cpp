#include "server/waiting_room.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "kernels/status.h"

namespace moebius {

WaitingRoom::WaitingRoom(int64_t most, Call call)
    : most_(most),
      call_(std::move(call)),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  MOEBIUS_CHECK(epoll_ >= 0 && wake_ >= 0);
  watch(wake_, EPOLL_CTL_ADD, EPOLLIN);
  thread_ = std::thread([this] { work(); });
}

WaitingRoom::~WaitingRoom() {
  stop();
  ::close(wake_);
  ::close(epoll_);
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
    added_.clear();
  }
  wake();
  if (thread_.joinable()) thread_.join();
}

void WaitingRoom::work() {
  std::vector<std::unique_ptr<Connection>> added;
  std::array<epoll_event, 256> events;
  while (true) {
    const int n = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), wait_ms());
    // A socket that is closed below has no place any more, and a new one of its number none yet.
    for (int i = 0; i < n; ++i) {
      if (const auto place = places_.find(events[i].data.fd); place != places_.end()) look(place);
    }
    uint64_t ignored;
    [[maybe_unused]] const ssize_t got = ::read(wake_, &ignored, sizeof ignored);
    {
      std::lock_guard lock(mutex_);
      if (stopped_) break;
      added.swap(added_);
    }
    for (auto& connection : added) seat(std::move(connection));
    added.clear();
    close_late(asking_);
    close_late(leaving_);
  }
  places_.clear();
  asking_.clear();
  leaving_.clear();
}

void WaitingRoom::watch(socket_t socket, int operation, short events) const {
  epoll_event event = {};
  event.events = static_cast<uint32_t>(events);  // EPOLLIN is POLLIN, EPOLLOUT is POLLOUT
  event.data.fd = socket;
  // It fails where the kernel has no memory for it: then that connection is closed when its time is up.
  static_cast<void>(::epoll_ctl(epoll_, operation, socket, &event));
}

// Takes in a connection that is new, or that was called and comes back.
void WaitingRoom::seat(std::unique_ptr<Connection> connection) {
  if (connection->hung_up()) --called_;
  Waiting& list = connection->hung_up() ? leaving_ : asking_;
  const socket_t socket = connection->socket();
  const short events = connection->wants();
  list.push_back(std::move(connection));
  const auto place = places_.emplace(socket, Place{&list, std::prev(list.end()), events}).first;
  watch(socket, EPOLL_CTL_ADD, events);
  look(place);  // much has come already
  for (Waiting* waiting : {&leaving_, &asking_}) {
    while (std::ssize(places_) + called_ > most_ && !waiting->empty())
      leave(places_.find(waiting->front()->socket()));
  }
}

void WaitingRoom::look(Places::iterator place) {
  Connection& connection = **place->second.at;
  const socket_t socket = place->first;
  switch (connection.advance()) {
    case Connection::Progress::kOver:
      return leave(place);
    case Connection::Progress::kHead: {
      watch(socket, EPOLL_CTL_DEL, 0);
      std::unique_ptr<Connection> called = std::move(*place->second.at);
      place->second.list->erase(place->second.at);
      places_.erase(place);
      ++called_;
      return call_(std::move(called));
    }
    case Connection::Progress::kMore:
      break;
  }
  Place& here = place->second;
  if (connection.hung_up() && here.list == &asking_) {  // it was refused
    leaving_.splice(leaving_.end(), asking_, here.at);
    here.list = &leaving_;
  }
  if (const short wants = connection.wants(); wants != here.polled) {
    here.polled = wants;
    watch(socket, EPOLL_CTL_MOD, wants);
  }
}

// Closing a socket takes it out of the epoll, too.
void WaitingRoom::leave(Places::iterator place) {
  place->second.list->erase(place->second.at);
  places_.erase(place);
}

void WaitingRoom::close_late(Waiting& list) {
  while (!list.empty() && Connection::Clock::now() >= list.front()->deadline()) {
    list.front()->give_up();
    leave(places_.find(list.front()->socket()));
  }
}

// Until the first deadline.
int WaitingRoom::wait_ms() const {
  auto until = Connection::Clock::now() + std::chrono::seconds(60);
  for (const Waiting* list : {&asking_, &leaving_})
    if (!list->empty()) until = std::min(until, list->front()->deadline());
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Connection::Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
}

}  // namespace moebius
