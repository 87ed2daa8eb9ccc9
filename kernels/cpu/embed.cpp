#include "kernels/cpu/host.h"

namespace moebius {
namespace {

void embed_rows(const EmbedArgs& args, HostContext& context) {
  const Matrix& table = args.table;
  const FormatKernels& kernels = context.kernels(table.format);
  constexpr int64_t kGrain = 16;
  parallel_for(context.threads, args.ids.shape[0], kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t id = args.ids.i32()[i * args.ids.stride[0]];
      kernels.dequantize_rows(table, id, id + 1, args.out.f32() + i * args.out.stride[0], table.cols);
    }
  });
}

}  // namespace

std::span<const Candidate<EmbedArgs>> host_embed() {
  static constexpr Candidate<EmbedArgs> kCandidates[] = {
      {"embed_rows", [](const EmbedArgs&, const HostContext&) -> const char* { return nullptr; }, embed_rows},
      {"embed_ref", [](const EmbedArgs&, const HostContext&) -> const char* { return nullptr; },
       [](const EmbedArgs& args, HostContext& context) { ref::embed(args, context.exact_activations); }},
  };
  return kCandidates;
}

}  // namespace moebius
