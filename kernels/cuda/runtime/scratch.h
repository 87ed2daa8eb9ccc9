// Device memory for the length of one operation, and copies of small host arrays for its kernels.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/cuda/runtime/failure.h"

namespace moebius::cuda {

// One block, taken at the start, which operations make do with; what does not fit, for one token or one
// matrix alone, gets a block of its own until merge(). All that is taken is used on one stream, in order:
// what an operation took may be taken again as soon as its kernels are queued.
class DeviceScratch {
 public:
  explicit DeviceScratch(Failure& failure) : failure_(failure) {}
  ~DeviceScratch();
  DeviceScratch(const DeviceScratch&) = delete;
  DeviceScratch& operator=(const DeviceScratch&) = delete;

  Status create(int64_t bytes);
  void* take(int64_t bytes);  // aligned to 256; null, and a failure, when the device has no memory left
  void reset();               // all of it is free again
  // While the stream is idle: one block, as large as the most that was in use at once, replaces several.
  // Freeing waits for the device, so that it must not be done while a stream waits for the host.
  void merge();

 private:
  struct Block {
    char* at;
    int64_t bytes, used;
  };
  bool add_block(int64_t bytes);

  Failure& failure_;
  std::vector<Block> blocks_;
  int64_t used_ = 0, most_used_ = 0;
};

// Pinned memory that copies start from, so that they need not wait: four parts, each free again when the
// copies out of it are done.
class UploadRing {
 public:
  explicit UploadRing(Failure& failure) : failure_(failure) {}
  ~UploadRing();
  UploadRing(const UploadRing&) = delete;
  UploadRing& operator=(const UploadRing&) = delete;

  Status create();
  // `from` may change at once; `to` is written on the stream.
  void copy(const void* from, void* to, int64_t bytes, cudaStream_t stream);

 private:
  static constexpr int64_t kPartBytes = int64_t{1} << 20;
  static constexpr size_t kParts = 4;
  Failure& failure_;
  char* memory_ = nullptr;
  std::array<cudaEvent_t, kParts> copied_{};
  size_t part_ = 0;
  int64_t used_ = 0;
};

}  // namespace moebius::cuda
