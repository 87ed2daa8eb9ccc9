#include "kernels/cpu/host.h"

namespace moebius {

std::span<const Candidate<AttentionArgs>> host_attention() {
  static constexpr Candidate<AttentionArgs> kCandidates[] = {
      reference_candidate<AttentionArgs, ref::attention>("attention_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
