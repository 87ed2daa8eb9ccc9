#include <algorithm>

#include "kernels/cpu/host_grad.h"

namespace moebius {

void transpose(const float* in, int64_t rows, int64_t cols, int64_t ld, float* out, int64_t ld_out) {
  constexpr int64_t kBlock = 16;  // a cache line of numbers each way
  for (int64_t r0 = 0; r0 < rows; r0 += kBlock) {
    const int64_t r1 = std::min(r0 + kBlock, rows);
    for (int64_t c0 = 0; c0 < cols; c0 += kBlock) {
      const int64_t c1 = std::min(c0 + kBlock, cols);
      for (int64_t c = c0; c < c1; ++c)
        for (int64_t r = r0; r < r1; ++r) out[c * ld_out + r] = in[r * ld + c];
    }
  }
}

}  // namespace moebius
