// The memory of the emulated device: host memory that the host may not touch.
//
// Each piece lies in pages of its own between pages that fault. Outside of kernels and copies all of it
// faults, so that a launcher that looks into device memory stops there and then. What lies in a piece's pages
// beside it is filled with a pattern, which give_back() looks at.
#pragma once

#include <cstdint>
#include <map>

namespace moebius::cuda::emulator {

enum class Fit : uint8_t {
  kStart,  // at the start of a page: aligned to 4096 bytes
  kEnd,    // up to the end of a page, so that one byte more faults; aligned as its size is, up to 256 bytes
};

class DeviceMemory {
 public:
  explicit DeviceMemory(Fit fit) : fit_(fit) {}
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // fill: every byte of it at first. align: at least (kEnd).
  void* take(int64_t bytes, uint8_t fill, int64_t align = 1);
  void give_back(void* at);
  // Host memory that the device may reach too.
  void pin(void* at, int64_t bytes) { pinned_[at] = bytes; }
  void unpin(void* at) { pinned_.erase(at); }

  // Whether a kernel may be given this address: into a piece or pinned memory, or one past its end.
  bool reachable(const void* at) const;
  bool owns(const void* at) const;

  // While one lives, device memory may be touched.
  class Open {
   public:
    explicit Open(DeviceMemory& memory) : memory_(memory) { memory_.open(1); }
    ~Open() { memory_.open(-1); }
    Open(const Open&) = delete;
    Open& operator=(const Open&) = delete;

   private:
    DeviceMemory& memory_;
  };

 private:
  struct Piece {
    int64_t bytes;
    char* pages;  // from the first that may be touched
    int64_t page_bytes;
    char* map;
    int64_t map_bytes;
  };
  void open(int change);
  void protect(const Piece& piece) const;

  const Fit fit_;
  int opened_ = 0;
  std::map<const void*, Piece> pieces_;
  std::map<const void*, int64_t> pinned_;
};

}  // namespace moebius::cuda::emulator
