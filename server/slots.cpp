#include "server/slots.h"

#include <algorithm>

#include "server/running.h"

namespace moebius {

void Slots::enter(const Running& running) {
  std::lock_guard lock(mutex_);
  all_.push_back(&running);
}

void Slots::leave(const Running& running) {
  std::lock_guard lock(mutex_);
  std::erase(all_, &running);
}

Json Slots::json(int64_t count) const {
  Json slots = Json::array();
  std::lock_guard lock(mutex_);
  for (const Running* running : all_) {
    if (Json slot = running->slot_json(); slot["is_processing"] == true) slots.push_back(std::move(slot));
  }
  while (std::ssize(slots) < count) slots.push_back({{"is_processing", false}});
  for (size_t i = 0; i < slots.size(); ++i) slots[i]["id"] = i;
  return slots;
}

}  // namespace moebius
