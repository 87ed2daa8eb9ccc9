// WaitingRoom: connections whose request's head is not there yet wait together, in one thread, so that those
// that ask nothing or are slow to ask take no thread from others.
#pragma once

#include <poll.h>

#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "server/connection.h"

namespace moebius {

class WaitingRoom {
 public:
  // call: gets a connection whose head was received or refused (Connection::take_head()), in the room's
  // thread, and must not wait. Those that have sent nothing when their time is up are closed, others told so.
  using Call = std::function<void(std::unique_ptr<Connection>, Connection::Head)>;
  explicit WaitingRoom(Call call);
  ~WaitingRoom();  // stop()

  void add(std::unique_ptr<Connection> connection);  // where too many wait, who has waited longest is closed
  void stop();                                       // closes all, and whoever is added from then on

 private:
  using Waiting = std::vector<std::unique_ptr<Connection>>;
  void work();
  void look(Waiting& waiting, const std::vector<pollfd>& polled);
  void wake() const;

  const Call call_;
  int wake_ = -1;  // an eventfd
  std::mutex mutex_;
  Waiting added_;
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace moebius
