#include "kernels/cpu/host.h"

namespace moebius {

std::span<const Candidate<RotaryArgs>> host_rotary() {
  static constexpr Candidate<RotaryArgs> kCandidates[] = {
      reference_candidate<RotaryArgs, ref::rotary>("rotary_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
