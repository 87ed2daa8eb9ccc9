// Rows of silu(gate) * up: with AVX2, or plain. n >= 0 numbers, any alignment.
#pragma once

#include <cstdint>

namespace moebius {

// y = silu(gate) * up; y may be gate or up.
void swiglu_row(const float* gate, const float* up, int64_t n, float* y, bool avx2);

}  // namespace moebius
