#include "kernels/cpu/host.h"

namespace moebius {

std::span<const Candidate<EmbedArgs>> host_embed() {
  static constexpr Candidate<EmbedArgs> kCandidates[] = {
      {"embed_ref", [](const EmbedArgs&, const HostContext&) -> const char* { return nullptr; },
       [](const EmbedArgs& args, HostContext& context) { ref::embed(args, context.exact_activations); }},
  };
  return kCandidates;
}

}  // namespace moebius
