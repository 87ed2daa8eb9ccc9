#include "kernels/cpu/host.h"

namespace moebius {

std::span<const Candidate<RouterArgs>> host_router() {
  static constexpr Candidate<RouterArgs> kCandidates[] = {
      reference_candidate<RouterArgs, ref::router>("router_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
