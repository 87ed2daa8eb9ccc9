// What an engine takes of the host's memory that no file gives back. The system hands out more of it than
// there is, and ends a program when the memory is touched, in the middle of an answer: so it is counted
// before the first.
#pragma once

#include <cstdint>

#include "kernels/status.h"

namespace moebius {

struct HostMemory {
  int64_t cache = 0;    // bytes; 0 where the device has it
  int64_t weights = 0;  // bytes read from the files to stay: --load eager
  int64_t others = 0;   // bytes: activations, what is pinned for a device, adapters
  int64_t cache_tokens = 0, context = 0, sessions = 0;  // that the cache is for

  int64_t all() const { return cache + weights + others; }
};

// kNoMemory: it is more than a machine with so many bytes has beside the system's share. The message says of
// which --ctx-size and --parallel, or of which --cache-tokens, the cache would fit.
Status check_host_memory(const HostMemory& needs, int64_t ram);

}  // namespace moebius
