// The matrix units of a device: a warp multiplies two small matrices that lie in its registers.
//
// Both multiply a [16, K] by b [8, K] transposed and add to c [16, 8]. With g = lane / 4 and t = lane % 4:
//   c[0], c[1]  row g, columns 2t and 2t + 1      c[2], c[3]  row g + 8, the same columns
//   a[0], a[2]  the first and the second half of what row g holds for t      a[1], a[3]  of row g + 8
//   b[0], b[1]  the first and the second half of what column g holds for t
// Which numbers of K a half holds is free, as long as a and b agree: K is summed over.
#pragma once

#include "kernels/cuda/device.h"
#ifdef MOEBIUS_EMULATE_CUDA
#include <bit>
#endif

namespace moebius::cuda {

#ifdef MOEBIUS_EMULATE_CUDA
struct MatrixWords {
  uint32_t a[4], b[2];
};

// The same by hand. product(a, b, c): c plus the products of the numbers in two words.
template <class Sum, class Product>
void multiply_by_lanes(Sum (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Product& product) {
  const int row = lane() / 4 * 4, column = lane() % 4 * 8;
  const Lanes<MatrixWords> lanes = exchange(MatrixWords{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  for (int t = 0; t < 4; ++t) {
    const MatrixWords x = lanes[row + t], y0 = lanes[column + t], y1 = lanes[column + 4 + t];
    for (int half = 0; half < 2; ++half) {
      c[0] = product(x.a[2 * half], y0.b[half], c[0]);
      c[1] = product(x.a[2 * half], y1.b[half], c[1]);
      c[2] = product(x.a[2 * half + 1], y0.b[half], c[2]);
      c[3] = product(x.a[2 * half + 1], y1.b[half], c[3]);
    }
  }
}
#endif

// Signed bytes, K = 32, exact.
__device__ inline void multiply_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef MOEBIUS_EMULATE_CUDA
  multiply_by_lanes(c, a, b, dot4);
#else
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// BF16, K = 16, products exact, sums in float32 in any order.
__device__ inline void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef MOEBIUS_EMULATE_CUDA
  multiply_by_lanes(c, a, b, [](uint32_t x, uint32_t y, float sum) {
    sum = fmaf(std::bit_cast<float>(x << 16), std::bit_cast<float>(y << 16), sum);
    return fmaf(std::bit_cast<float>(x & 0xffff0000u), std::bit_cast<float>(y & 0xffff0000u), sum);
  });
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

}  // namespace moebius::cuda
