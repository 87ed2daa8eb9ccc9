#include "kernels/cpu/host.h"

namespace moebius {

std::span<const Candidate<CacheWriteArgs>> host_cache_write() {
  static constexpr Candidate<CacheWriteArgs> kCandidates[] = {
      reference_candidate<CacheWriteArgs, ref::cache_write>("cache_write_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
