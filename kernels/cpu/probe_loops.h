// The inner loops of the probes, for AVX2. Each returns a number that depends on all its work, so that none
// of it can be left out.
#pragma once

#include <cstdint>

namespace moebius {

uint64_t probe_load_avx2(const uint8_t* data, int64_t bytes);  // bytes: a multiple of 256; data aligned to 32

inline constexpr int64_t kProbeChains = 12;
float probe_fma_avx2(int64_t rounds);  // kProbeChains * 8 multiply-adds a round
inline constexpr int64_t kProbeInt8Chains = 8;
uint64_t probe_int8_avx2(int64_t rounds);  // kProbeInt8Chains * 32 products a round

}  // namespace moebius
