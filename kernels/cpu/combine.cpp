#include "kernels/cpu/host.h"

namespace moebius {

std::span<const Candidate<CombineArgs>> host_combine() {
  static constexpr Candidate<CombineArgs> kCandidates[] = {
      reference_candidate<CombineArgs, ref::combine>("combine_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
