#include "kernels/cpu/host.h"

namespace moebius {
namespace {

void embed_rows(const EmbedArgs& args, HostContext& context) {
  const Matrix& table = args.table;
  const FormatKernels& kernels = context.kernels(table.format);
  constexpr int64_t kGrain = 16;
  parallel_for(context.pool, args.ids.shape[0], kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t id = args.ids.i32()[i * args.ids.stride[0]];
      kernels.dequantize_rows(table, id, id + 1, args.out.f32() + i * args.out.stride[0], table.cols);
    }
  });
}

}  // namespace

std::span<const Candidate<EmbedArgs>> host_embed() {
  static constexpr Candidate<EmbedArgs> kCandidates[] = {
      {"embed_rows", declines_nothing<EmbedArgs>, embed_rows},
      reference_candidate<EmbedArgs, ref::embed>("embed_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
