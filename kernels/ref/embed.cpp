#include "kernels/ops.h"
#include "kernels/ref/rounded.h"

namespace moebius {

void ref::embed(const EmbedArgs& args, bool) {
  const FormatKernels& kernels = reference_kernels(args.table.format);
  for (int64_t i = 0; i < args.ids.shape[0]; ++i) {
    const int64_t id = args.ids.i32()[i * args.ids.stride[0]];
    kernels.dequantize_rows(args.table, id, id + 1, args.out.f32() + i * args.out.stride[0], args.table.cols);
  }
}

}  // namespace moebius
