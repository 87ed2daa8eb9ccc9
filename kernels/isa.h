// Instruction sets that kernels are written for, each with all that stands before it.
#pragma once

#include <cstdint>

namespace moebius {

enum class Isa : uint8_t {
  kScalar,  // what the compiler makes of plain C++
  kAvx2,    // AVX2, FMA, F16C
  kAvx512,  // AVX-512 F, BW, DQ, VL and VNNI
  kAmx,     // AVX-512 BF16 and VBMI; AMX with INT8 and BF16, which the system lets this process use
};

const char* isa_name(Isa isa);  // "scalar", "AVX2", "AVX-512", "AMX"

}  // namespace moebius
