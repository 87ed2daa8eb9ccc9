#include "kernels/cpu/host.h"

namespace moebius {

std::span<const Candidate<MlaPrefillArgs>> host_mla_prefill() {
  static constexpr Candidate<MlaPrefillArgs> kCandidates[] = {
      reference_candidate<MlaPrefillArgs, ref::mla_prefill>("mla_prefill_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
