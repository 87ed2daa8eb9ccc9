#include "kernels/cpu/host.h"

namespace moebius {

std::span<const Candidate<ExpertFfnArgs>> host_expert_ffn() {
  static constexpr Candidate<ExpertFfnArgs> kCandidates[] = {
      {"expert_ffn_ref", [](const ExpertFfnArgs&, const HostContext&) -> const char* { return nullptr; },
       [](const ExpertFfnArgs& args, HostContext& context) {
         ref::expert_ffn(args, context.exact_activations);
       }},
  };
  return kCandidates;
}

}  // namespace moebius
