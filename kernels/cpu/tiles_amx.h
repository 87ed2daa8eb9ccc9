// AMX: matrices of up to 16 rows of 64 bytes in eight registers, and their products. Only *_amx.cpp files
// include this; all of it has internal linkage, for the reason that rows_avx2.h gives.
//
// Written with asm because g++'s intrinsics do not tell the compiler that a tile is loaded from memory, which
// may then hold back what was to be stored there.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace moebius {
namespace {

constexpr int64_t kAmxRows = 16, kAmxBytes = 64;  // of a whole tile; bytes of a row

// The shapes of the eight tiles, for the thread that makes it, until it ends.
class TileShapes {
 public:
  struct Shape {
    int64_t rows = 0, bytes = 0;  // bytes of a row; 0, 0: not used
  };
  explicit TileShapes(const Shape (&shapes)[8]) {
    Memory memory = {};
    memory.palette = 1;
    for (int i = 0; i < 8; ++i) {
      memory.rows[i] = static_cast<uint8_t>(shapes[i].rows);
      memory.bytes[i] = static_cast<uint16_t>(shapes[i].bytes);
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(memory));
  }
  ~TileShapes() { __asm__ volatile("tilerelease"); }
  TileShapes(const TileShapes&) = delete;
  TileShapes& operator=(const TileShapes&) = delete;

 private:
  struct alignas(64) Memory {  // as ldtilecfg reads it
    uint8_t palette, start, unused[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  };
};

template <int kTile>
static inline void zero_tile() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
}

// Rows `stride` bytes apart.
template <int kTile>
static inline void load_tile(const void* at, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(at), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
static inline void store_tile(void* at, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(at), "r"(stride), "i"(kTile) : "memory");
}

// c[i][j] += the sum over k of a[i][k] b[k / 4][j][k % 4], int8 into int32.
template <int kC, int kA, int kB>
static inline void add_int8_product() {
  __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
}

// c[i][j] += the sum over k of a[i][k] b[k / 2][j][k % 2], BF16 into float32: subnormal numbers count as 0.
template <int kC, int kA, int kB>
static inline void add_bf16_product() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
}

}  // namespace
}  // namespace moebius
