#include "kernels/cpu/host.h"

namespace moebius {

std::span<const Candidate<SwigluArgs>> host_swiglu() {
  static constexpr Candidate<SwigluArgs> kCandidates[] = {
      reference_candidate<SwigluArgs, ref::swiglu>("swiglu_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
