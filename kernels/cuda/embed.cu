#include "kernels/cuda/dequantize.h"

namespace moebius::cuda {

// Reads the rows that are asked for and writes 4 bytes a number.
void embed(Context& context, const EmbedArgs& args) {
  dequantize_rows(context, args.table, args.ids.i32(), args.ids.stride[0], args.ids.shape[0], args.out.f32(),
                  args.out.stride[0]);
}

}  // namespace moebius::cuda
