#include "server/responses/background.h"

#include <algorithm>

namespace moebius {

namespace {

constexpr std::chrono::milliseconds kAnswerPoll{10};  // between two looks at answers that had nothing new

}  // namespace

Background::Background() : thread_([this] { loop(); }) {}

Background::~Background() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Background::add(const std::string& id, std::shared_ptr<Running> running) {
  {
    const std::lock_guard lock(mutex_);
    entries_.push_back({id, std::move(running)});
  }
  changed_.notify_all();
}

void Background::cancel(const std::string& id) {
  std::unique_lock lock(mutex_);
  const auto find = [&] {
    return std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.id == id; });
  };
  const auto found = find();
  if (found == entries_.end()) return;
  found->running->cancel();
  changed_.wait(lock, [&] { return stopping_ || find() == entries_.end(); });
}

void Background::loop() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (entries_.empty()) {
      changed_.wait(lock);
      continue;
    }
    const std::list<Entry> now = entries_;
    lock.unlock();
    bool any = false;
    std::vector<std::string> ended;
    for (const Entry& entry : now) {
      const Running::Step step = entry.running->step(std::chrono::milliseconds(0));
      any |= step.taken;
      if (step.done || step.error) ended.push_back(entry.id);
    }
    lock.lock();
    for (const std::string& id : ended) entries_.remove_if([&](const Entry& e) { return e.id == id; });
    if (!ended.empty()) changed_.notify_all();
    if (!any) changed_.wait_for(lock, kAnswerPoll);
  }
  entries_.clear();
}

}  // namespace moebius
