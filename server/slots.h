// Slots: the answers that are on their way, for who runs the server. From any thread.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "server/errors.h"

namespace moebius {

class Running;

class Slots {
 public:
  // Between the two, Running::slot_json() is called by others.
  void enter(const Running& running);
  void leave(const Running& running);
  // As llama.cpp's GET /slots: one for each request that is computed, and idle ones up to `count`. Tells
  // nothing of prompts and answers but how long they are.
  Json json(int64_t count) const;

 private:
  mutable std::mutex mutex_;
  std::vector<const Running*> all_;
};

}  // namespace moebius
