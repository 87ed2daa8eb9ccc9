#include "tests/cuda_emulator/machine.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include <fmt/format.h>

#include "kernels/status.h"

namespace moebius::cuda::emulator {
namespace {

constexpr unsigned char kUnwritten = 0xff;

}  // namespace

thread_local constinit Machine::Now Machine::now_;

Machine::Machine(const Options& options)
    : random_state_(options.seed),
      memory_(options.fit),
      fibers_([this](int thread) { run_thread(thread); }),
      threads_(kMostThreads),
      warps_(kMostThreads / kLanes),
      ready_(kMostThreads),
      shared_(new unsigned char[kMostStaticShared + kMostShared]),
      bytes_(kMostStaticShared + kMostShared) {}

uint64_t Machine::random() {  // splitmix64
  uint64_t z = random_state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

void Machine::fail(const std::string& what) const {
  MOEBIUS_CHECK(false,
                fmt::format("kernel launched at {}:{}, block ({}, {}, {}), thread {}: {}", launched_.file,
                            launched_.line, now_.block_x, now_.block_y, now_.block_z, now_.thread, what));
  std::abort();
}

void Machine::check_pointer(Place place, size_t parameter, const void* at) const {
  MOEBIUS_CHECK(!at || memory_.reachable(at),
                fmt::format("kernel launched at {}:{}: parameter {} points to memory that the device cannot "
                            "reach",
                            place.file, place.line, parameter));
}

void Machine::launch(Place place, Grid grid, int threads, size_t shared_bytes,
                     const std::function<void()>& body) {
  MOEBIUS_CHECK(!now_.machine, "a kernel cannot launch a kernel");
  launched_ = place, grid_ = grid;
  now_ = Now{this, 0, threads, 0, grid.x, 0, 0};
  if (threads < 1 || threads > kMostThreads) fail(fmt::format("{} threads in a block", threads));
  if (grid.x < 1 || grid.x > INT32_MAX || std::min(grid.y, grid.z) < 1 || std::max(grid.y, grid.z) > 65535)
    fail(fmt::format("a grid of {} x {} x {} blocks", grid.x, grid.y, grid.z));
  dynamic_bytes_ = static_cast<int64_t>(shared_bytes);
  if (dynamic_bytes_ > kMostShared) fail(fmt::format("{} bytes of dynamic shared memory", shared_bytes));
  fibers_.grow(threads);
  body_ = &body;

  const DeviceMemory::Open open(memory_);
  const uint64_t blocks =
      static_cast<uint64_t>(grid.x) * static_cast<uint64_t>(grid.y) * static_cast<uint64_t>(grid.z);
  const uint64_t first = random() % blocks;
  uint64_t step = 1 + random() % blocks;
  while (std::gcd(step, blocks) != 1) ++step;
  const uint64_t x = static_cast<uint64_t>(grid.x), y = static_cast<uint64_t>(grid.y);
  for (uint64_t i = 0, block = first; i < blocks; ++i, block = (block + step) % blocks) {
    now_.block_x = static_cast<int64_t>(block % x);
    now_.block_y = static_cast<int>(block / x % y), now_.block_z = static_cast<int>(block / x / y);
    run_block();
  }
  now_ = Now();
}

void Machine::run_block() {
  std::memset(shared_.get() + kMostStaticShared, kUnwritten, static_cast<size_t>(dynamic_bytes_));
  std::memset(shared_.get(), kUnwritten, static_cast<size_t>(static_bytes_));
  static_arrays_.clear();
  static_bytes_ = 0;
  ++epoch_;
  at_barrier_ = ended_ = 0;
  for (int t = 0; t < now_.threads; ++t) threads_[static_cast<size_t>(t)].wait = Wait::kNothing;
  for (Warp& warp : warps_) warp.arrived = 0;
  make_ready(0, now_.threads);
  const int first = ready_[ready_first_];
  ready_first_ = (ready_first_ + 1) % ready_.size(), --ready_count_;
  now_.thread = first;
  fibers_.go(Fibers::kCaller, first);
  if (ended_ < now_.threads) diagnose();
}

void Machine::run_thread(int thread) {
  while (true) {
    (*body_)();
    ++ended_;
    threads_[static_cast<size_t>(thread)].wait = Wait::kEnd;
    leave();
  }
}

void Machine::leave() {
  const int self = now_.thread;
  int next = Fibers::kCaller;
  if (ready_count_ > 0) {
    next = ready_[ready_first_];
    ready_first_ = (ready_first_ + 1) % ready_.size(), --ready_count_;
    now_.thread = next;
  }
  fibers_.go(self, next);  // whoever comes back has set now_.thread
}

void Machine::make_ready(int first, int count) {
  const int start = static_cast<int>(random() % static_cast<uint64_t>(count));
  int step = 1 + static_cast<int>(random() % static_cast<uint64_t>(count));
  while (std::gcd(step, count) != 1) ++step;
  for (int i = 0, t = start; i < count; ++i, t = (t + step) % count) {
    threads_[static_cast<size_t>(first + t)].wait = Wait::kNothing;
    ready_[(ready_first_ + ready_count_++) % ready_.size()] = first + t;
  }
}

void Machine::barrier(Place place) {
  const int self = now_.thread;
  Thread& thread = threads_[static_cast<size_t>(self)];
  thread.wait = Wait::kBarrier, thread.place = place;
  if (++at_barrier_ == now_.threads) {
    for (int t = 0; t < now_.threads; ++t) {
      const Place& other = threads_[static_cast<size_t>(t)].place;
      if (!(other == place))
        fail(fmt::format("waits at the barrier of {}:{}, but thread {} at that of {}:{}", place.file,
                         place.line, t, other.file, other.line));
    }
    at_barrier_ = 0;
    ++epoch_;
    make_ready(0, now_.threads);
  }
  leave();
}

void Machine::arrive_with_warp(Wait wait, Place place) {
  const int self = now_.thread, first = self / kLanes * kLanes;
  if (first + kLanes > now_.threads)
    fail(fmt::format("the last warp of a block of {} threads lacks lanes", now_.threads));
  Warp& warp = warps_[static_cast<size_t>(self / kLanes)];
  Thread& thread = threads_[static_cast<size_t>(self)];
  thread.wait = wait, thread.place = place;
  if (++warp.arrived < kLanes) return leave();
  for (int t = first; t < first + kLanes; ++t) {
    const Thread& other = threads_[static_cast<size_t>(t)];
    if (other.wait != wait || !(other.place == place))
      fail(fmt::format("is at {}:{}, but lane {} of its warp at {}:{}", place.file, place.line, t - first,
                       other.place.file, other.place.line));
  }
  warp.arrived = 0;
  if (wait == Wait::kWarpBarrier) ++warp.epoch;
  if (wait == Wait::kShuffle) ++warp.shuffles;
  make_ready(first, kLanes);
  leave();
}

void Machine::warp_barrier(Place place) { arrive_with_warp(Wait::kWarpBarrier, place); }

void Machine::shuffle(const void* value, size_t bytes, int from_lane, void* out, Place place) {
  if (from_lane < 0 || from_lane >= kLanes) fail(fmt::format("a shuffle from lane {}", from_lane));
  std::memcpy(out, exchange(value, bytes, place)[from_lane], bytes);
}

const Machine::LaneValues& Machine::exchange(const void* value, size_t bytes, Place place) {
  Warp& warp = warps_[static_cast<size_t>(now_.thread / kLanes)];
  LaneValues& values = warp.values[warp.shuffles % 2];
  std::memcpy(values[now_.thread % kLanes], value, bytes);
  arrive_with_warp(Wait::kShuffle, place);
  return values;
}

void* Machine::dynamic_shared(int64_t offset, int64_t bytes) {
  if (offset < 0 || bytes < 0 || offset > dynamic_bytes_ - bytes)
    fail(fmt::format("takes bytes [{}, {}) of {} of dynamic shared memory", offset, offset + bytes,
                     dynamic_bytes_));
  return shared_.get() + kMostStaticShared + offset;
}

void* Machine::static_shared(const void* tag, int64_t bytes) {
  for (const StaticArray& array : static_arrays_)
    if (array.tag == tag) return shared_.get() + array.offset;
  const int64_t offset = static_bytes_;
  static_bytes_ += (bytes + 15) / 16 * 16;
  if (static_bytes_ > kMostStaticShared || static_bytes_ + dynamic_bytes_ > kMostShared)
    fail(fmt::format("{} bytes of static and {} of dynamic shared memory", static_bytes_, dynamic_bytes_));
  static_arrays_.push_back({tag, offset});
  std::memset(shared_.get() + offset, kUnwritten, static_cast<size_t>(bytes));
  return shared_.get() + offset;
}

// Whether an earlier access needs no barrier before the running thread's: by itself, before the last barrier
// of the block, or before the last one of their warp.
bool Machine::ordered(const Access& access) const {
  if (access.epoch != epoch_ || access.warps) return access.epoch != epoch_;
  if (access.thread / kLanes != now_.thread / kLanes) return false;
  if (access.warp_epoch != warps_[static_cast<size_t>(now_.thread / kLanes)].epoch) return true;
  return access.thread == now_.thread && !access.lanes;
}

void Machine::note_read(Access& reader) const {
  const uint32_t warp_epoch = warps_[static_cast<size_t>(now_.thread / kLanes)].epoch;
  const Access mine{epoch_, warp_epoch, static_cast<int16_t>(now_.thread)};
  if (reader.epoch != epoch_)
    reader = mine;
  else if (reader.thread / kLanes != now_.thread / kLanes)
    reader.warps = true;
  else if (reader.warp_epoch != warp_epoch && !reader.warps)
    reader = mine;
  else if (reader.thread != now_.thread)
    reader.lanes = true;
}

void Machine::touch(const void* at, size_t bytes, bool write) {
  const int64_t offset = static_cast<const unsigned char*>(at) - shared_.get();
  const auto describe = [&](const char* did, const Access& other) {
    const bool dynamic = offset >= kMostStaticShared;
    fail(fmt::format("{} byte {} of {} shared memory, which thread {} {} since the last barrier",
                     write ? "writes" : "reads", dynamic ? offset - kMostStaticShared : offset,
                     dynamic ? "dynamic" : "static", other.thread, did));
  };
  for (Byte* byte = &bytes_[static_cast<size_t>(offset)]; bytes > 0; --bytes, ++byte) {
    if (!ordered(byte->writer)) describe("wrote", byte->writer);
    if (write) {
      if (!ordered(byte->reader)) describe("(or another) read", byte->reader);
      byte->writer = {epoch_, warps_[static_cast<size_t>(now_.thread / kLanes)].epoch,
                      static_cast<int16_t>(now_.thread)};
    } else {
      note_read(byte->reader);
    }
  }
}

std::string Machine::waiting(Wait wait) const {
  std::string list;
  int count = 0;
  for (int t = 0; t < now_.threads; ++t) {
    const Thread& thread = threads_[static_cast<size_t>(t)];
    if (thread.wait != wait) continue;
    if (++count > 1) continue;
    list = fmt::format("thread {}", t);
    if (wait != Wait::kEnd) list += fmt::format(" at {}:{}", thread.place.file, thread.place.line);
  }
  return count == 0 ? "none" : count == 1 ? list : fmt::format("{} and {} others", list, count - 1);
}

void Machine::diagnose() const {
  fail(fmt::format("nobody can go on; at a barrier: {}; at a warp barrier: {}; at a shuffle: {}; ended: {}",
                   waiting(Wait::kBarrier), waiting(Wait::kWarpBarrier), waiting(Wait::kShuffle),
                   waiting(Wait::kEnd)));
}

}  // namespace moebius::cuda::emulator
