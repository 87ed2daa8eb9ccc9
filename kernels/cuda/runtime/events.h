// Events of one stream by number: "ticket t is done" means that all queued before record() gave t is.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "kernels/cuda/runtime/failure.h"

namespace moebius::cuda {

class StreamEvents {
 public:
  explicit StreamEvents(Failure& failure) : failure_(failure) {}
  ~StreamEvents();
  StreamEvents(const StreamEvents&) = delete;
  StreamEvents& operator=(const StreamEvents&) = delete;

  uint64_t record(cudaStream_t stream);
  bool done(uint64_t ticket);  // also when the device has failed: nothing more will be
  void wait(cudaStream_t waiting, uint64_t ticket);

 private:
  void collect();  // what is done

  Failure& failure_;
  uint64_t recorded_ = 0, done_ = 0;  // tickets
  std::deque<cudaEvent_t> open_;      // of tickets done_ + 1 .. recorded_
  std::vector<cudaEvent_t> free_;
};

}  // namespace moebius::cuda
