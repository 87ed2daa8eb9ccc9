// The emulated device: runs the blocks of a kernel one after another and the threads of a block as fibers.
//
// Threads run until they wait: at a barrier, for the other lanes of their warp, or at the end. Who goes on
// next, and the order of the blocks, follow from the seed. Whatever a device would leave undefined ends the
// program with the place of the kernel's launch: threads of a block at different barriers or gone before one,
// lanes missing at a shuffle, and elements of shared memory that one thread writes and another touches with
// no barrier between. Shared memory and the scratch of operations hold 0xff bytes (NaN) until written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda_emulator/fibers.h"
#include "tests/cuda_emulator/memory.h"

namespace moebius::cuda {

struct Grid {
  int64_t x = 1;
  int y = 1, z = 1;
};

namespace emulator {

inline constexpr int kLanes = 32;
inline constexpr int kMostThreads = 1024;
inline constexpr int64_t kMostShared = 227 * 1024, kMostStaticShared = 48 * 1024;
inline constexpr size_t kMostShuffled = 32;

struct Place {
  const char* file = "";
  int line = 0;
  bool operator==(const Place& other) const = default;  // one string per file in a program
};

struct Options {
  uint64_t seed = 1;
  Fit fit = Fit::kStart;
};

class Machine {
 public:
  explicit Machine(const Options& options);

  DeviceMemory& memory() { return memory_; }

  // Runs body once for every thread of every block.
  void launch(Place place, Grid grid, int threads, size_t shared_bytes, const std::function<void()>& body);
  void check_pointer(Place place, size_t parameter, const void* at) const;

  // From a running thread:
  struct Now {
    Machine* machine = nullptr;
    int thread = 0, threads = 0;
    int64_t block_x = 0, blocks_x = 0;
    int block_y = 0, block_z = 0;
  };
  static Now& now() {
    Now* now = &now_;
    asm("" : "+r"(now));  // else g++ 12's sanitizer takes a thread's variable for null where much is inlined
    return *now;
  }
  void barrier(Place place);
  void warp_barrier(Place place);
  // out: what from_lane gave as value.
  void shuffle(const void* value, size_t bytes, int from_lane, void* out, Place place);
  // What every lane of the warp gave as value, until the lane's next exchange or shuffle.
  using LaneValues = unsigned char[kLanes][kMostShuffled];
  const LaneValues& exchange(const void* value, size_t bytes, Place place);
  void* dynamic_shared(int64_t offset, int64_t bytes);
  // The same memory for every thread of the block; tag: one per declaration.
  void* static_shared(const void* tag, int64_t bytes);
  void touch(const void* at, size_t bytes, bool write);
  [[noreturn]] void fail(const std::string& what) const;

 private:
  enum class Wait : uint8_t { kNothing, kBarrier, kWarpBarrier, kShuffle, kEnd };
  struct Thread {
    Wait wait = Wait::kNothing;
    Place place;
  };
  struct Warp {
    int arrived = 0;
    uint32_t epoch = 0;  // counts warp barriers
    uint32_t shuffles = 0;
    LaneValues values[2];  // a lane may be one shuffle ahead of another
  };
  // Who touched a byte of shared memory since the last barrier of the block.
  struct Access {
    uint64_t epoch = 0;
    uint32_t warp_epoch = 0;
    int16_t thread = 0;
    bool lanes = false, warps = false;  // and other lanes of its warp, and other warps
  };
  struct Byte {
    Access writer, reader;
  };
  struct StaticArray {
    const void* tag;
    int64_t offset;
  };

  void run_block();
  void run_thread(int thread);
  void leave();  // the running thread waits; returns when it goes on
  void arrive_with_warp(Wait wait, Place place);
  void make_ready(int first, int count);  // in an order of its own
  void diagnose() const;
  bool ordered(const Access& access) const;
  void note_read(Access& reader) const;
  uint64_t random();
  std::string waiting(Wait wait) const;

  static thread_local constinit Now now_;

  uint64_t random_state_;
  DeviceMemory memory_;
  Fibers fibers_;
  const std::function<void()>* body_ = nullptr;
  Place launched_;
  Grid grid_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<int> ready_;  // a ring
  size_t ready_first_ = 0, ready_count_ = 0;
  int at_barrier_ = 0, ended_ = 0;
  uint64_t epoch_ = 0;  // counts barriers of blocks, and blocks
  int64_t dynamic_bytes_ = 0, static_bytes_ = 0;
  std::vector<StaticArray> static_arrays_;
  std::unique_ptr<unsigned char[]> shared_;  // static arrays, then dynamic memory
  std::vector<Byte> bytes_;
};

}  // namespace emulator
}  // namespace moebius::cuda
