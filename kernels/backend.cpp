#include "kernels/backend.h"

#include <cstring>

namespace moebius {

void Backend::copy_bytes(Stream, const void* from, void* to, size_t bytes) { std::memcpy(to, from, bytes); }

// Nothing runs beside the caller of a backend without streams, so that nobody else could raise the flag.
void Backend::await(Flag& flag, uint64_t value) {
  MOEBIUS_CHECK(flag.load(std::memory_order_acquire) >= value, "waiting for a flag that nobody will raise");
}

void Backend::wait_on_host(const Flag& flag, uint64_t value) {
  for (uint64_t now; (now = flag.load(std::memory_order_acquire)) < value;) flag.wait(now);
}

}  // namespace moebius
