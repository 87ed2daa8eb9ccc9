// Flags that a stream raises and waits for.
//
// One in pinned memory is written and polled by the device itself (stream memory operations of the driver, a
// few microseconds): who waits for it on the host must look at it again and again (poll), for nobody wakes
// him. Any other flag, and every flag where the driver lacks those operations, takes a function that the
// driver's thread runs on the host (tens of microseconds), which wakes who waits. A device that has failed
// runs neither: then settle() does it.
#pragma once

#include <cudaTypedefs.h>

#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/runtime/failure.h"
#include "kernels/staging.h"

namespace moebius::cuda {

// Returns when the flag has reached the value; the thread stays awake for about a millisecond, then gives its
// processor away between looks.
void poll(const Flag& flag, uint64_t value);

class StreamFlags {
 public:
  StreamFlags(Failure& failure, const Ranges& pinned) : failure_(failure), pinned_(pinned) {}

  void create();  // looks for the driver's operations

  void raise(Flag& flag, uint64_t value, cudaStream_t stream);
  void await(Flag& flag, uint64_t value, cudaStream_t stream);

  // After a sync that went well, and after one that did not: raises what the device did not, and waits for
  // all that it should have waited for, so that nobody works on for a step that is over.
  void forget() { raised_.clear(), awaited_.clear(); }
  void settle();

 private:
  bool pinned(const Flag& flag) const;

  Failure& failure_;
  const Ranges& pinned_;
  PFN_cuStreamWriteValue64_v11070 write_ = nullptr;
  PFN_cuStreamWaitValue64_v11070 wait_ = nullptr;
  std::vector<std::pair<Flag*, uint64_t>> raised_, awaited_;  // since the last sync
};

}  // namespace moebius::cuda
