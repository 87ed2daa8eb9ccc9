#include "kernels/cpu/host.h"

namespace moebius {

std::span<const Candidate<LinearArgs>> host_linear() {
  static constexpr Candidate<LinearArgs> kCandidates[] = {
      {"linear_ref", [](const LinearArgs&, const HostContext&) -> const char* { return nullptr; },
       [](const LinearArgs& args, HostContext& context) { ref::linear(args, context.exact_activations); }},
  };
  return kCandidates;
}

}  // namespace moebius
