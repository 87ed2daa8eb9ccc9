// Background: answers that nobody waits for. One thread takes their events until they end.
#pragma once

#include <condition_variable>
#include <list>
#include <mutex>
#include <string>
#include <thread>

#include "server/running.h"

namespace moebius {

class Background {
 public:
  Background();
  ~Background();  // gives up what is running

  void add(const std::string& id, std::shared_ptr<Running> running);
  // Cancels this answer if it is running, and returns once it has ended.
  void cancel(const std::string& id);

 private:
  struct Entry {
    std::string id;
    std::shared_ptr<Running> running;
  };
  void loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Entry> entries_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace moebius
