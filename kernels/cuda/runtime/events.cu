#include "kernels/cuda/runtime/events.h"

namespace moebius::cuda {

StreamEvents::~StreamEvents() {
  for (cudaEvent_t event : open_) cudaEventDestroy(event);
  for (cudaEvent_t event : free_) cudaEventDestroy(event);
}

void StreamEvents::collect() {
  while (!open_.empty()) {
    const cudaError_t state = cudaEventQuery(open_.front());
    if (state == cudaErrorNotReady) {
      (void)cudaGetLastError();  // it counts as one
      return;
    }
    failure_.ok(state, "an event");
    free_.push_back(open_.front());
    open_.pop_front();
    ++done_;
  }
}

uint64_t StreamEvents::record(cudaStream_t stream) {
  collect();
  cudaEvent_t event = nullptr;
  if (!free_.empty()) {
    event = free_.back();
    free_.pop_back();
  } else if (!failure_.ok(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event")) {
    return recorded_;
  }
  failure_.ok(cudaEventRecord(event, stream), "recording an event");
  open_.push_back(event);
  return ++recorded_;
}

bool StreamEvents::done(uint64_t ticket) {
  if (ticket > done_) collect();
  return ticket <= done_;
}

void StreamEvents::wait(cudaStream_t waiting, uint64_t ticket) {
  if (done(ticket)) return;
  failure_.ok(cudaStreamWaitEvent(waiting, open_[static_cast<size_t>(ticket - done_ - 1)], 0), "a wait");
}

}  // namespace moebius::cuda
