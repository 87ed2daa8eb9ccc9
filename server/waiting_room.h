// WaitingRoom: connections that wait for their request's head, or for their peer to take the answer, wait
// together, in one thread, so that those that ask nothing, are slow to ask or slow to leave take no thread
// from others. What a wait costs does not depend on how many there are (epoll).
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "server/connection.h"

namespace moebius {

class WaitingRoom {
 public:
  // call: gets a connection whose head is there, in the room's thread, and must not wait; it comes back by
  // add() when it has hung up. most: connections that are open at once, those that were called included.
  using Call = std::function<void(std::unique_ptr<Connection>)>;
  WaitingRoom(int64_t most, Call call);
  ~WaitingRoom();  // stop()

  void add(std::unique_ptr<Connection> connection);  // where too many are open, who waits longest is closed
  void stop();                                       // closes all, and whoever is added from then on

 private:
  // Those of a list have the same time to wait, so that whose time is up first stands first.
  using Waiting = std::list<std::unique_ptr<Connection>>;
  struct Place {
    Waiting* list;
    Waiting::iterator at;
    short polled;  // events that epoll looks for
  };
  using Places = std::unordered_map<socket_t, Place>;

  void work();
  void seat(std::unique_ptr<Connection> connection);
  void look(Places::iterator place);
  void leave(Places::iterator place);
  void watch(socket_t socket, int operation, short events) const;
  void close_late(Waiting& list);
  int wait_ms() const;
  void wake() const;

  const int64_t most_;
  const Call call_;
  int epoll_ = -1, wake_ = -1;  // wake_: an eventfd
  // Of the thread:
  Waiting asking_, leaving_;
  Places places_;
  int64_t called_ = 0;  // connections that are elsewhere

  std::mutex mutex_;
  std::vector<std::unique_ptr<Connection>> added_;
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace moebius
