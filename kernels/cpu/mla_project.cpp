#include "kernels/cpu/host.h"

namespace moebius {

std::span<const Candidate<MlaAbsorbArgs>> host_mla_absorb() {
  static constexpr Candidate<MlaAbsorbArgs> kCandidates[] = {
      {"mla_absorb_ref", [](const MlaAbsorbArgs&, const HostContext&) -> const char* { return nullptr; },
       [](const MlaAbsorbArgs& args, HostContext& context) {
         ref::mla_absorb(args, context.exact_activations);
       }},
  };
  return kCandidates;
}

std::span<const Candidate<MlaValueArgs>> host_mla_value() {
  static constexpr Candidate<MlaValueArgs> kCandidates[] = {
      {"mla_value_ref", [](const MlaValueArgs&, const HostContext&) -> const char* { return nullptr; },
       [](const MlaValueArgs& args, HostContext& context) {
         ref::mla_value(args, context.exact_activations);
       }},
  };
  return kCandidates;
}

}  // namespace moebius
