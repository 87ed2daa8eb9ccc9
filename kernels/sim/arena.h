// SimArena: the memory of a simulated device. Its pages are mapped twice: device addresses, which fault at
// any access, and aliases, through which the device's own work reaches the same bytes.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "kernels/status.h"

namespace moebius {

class SimArena {
 public:
  static Result<std::unique_ptr<SimArena>> create(int64_t bytes);
  ~SimArena();
  SimArena(const SimArena&) = delete;
  SimArena& operator=(const SimArena&) = delete;

  // A device address, aligned to 256 bytes, of zeroed memory. kNoMemory: no gap is large enough.
  Result<void*> take(int64_t bytes);
  void give_back(void* at);

  // Whether [at, at + bytes) are device addresses of this arena.
  bool owns(const void* at, int64_t bytes) const;
  void* alias(const void* at) const { return alias_ + (static_cast<const char*>(at) - device_); }

 private:
  SimArena(int64_t bytes, char* device, char* alias);
  int64_t bytes_;
  char *device_, *alias_;
  int64_t used_ = 0;
  std::map<int64_t, int64_t> free_, taken_;  // offset -> bytes
};

}  // namespace moebius
