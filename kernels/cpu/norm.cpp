#include "kernels/cpu/host.h"

namespace moebius {

std::span<const Candidate<RmsNormArgs>> host_rms_norm() {
  static constexpr Candidate<RmsNormArgs> kCandidates[] = {
      reference_candidate<RmsNormArgs, ref::rms_norm>("rms_norm_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
