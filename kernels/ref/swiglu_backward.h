// The derivative of silu(gate) * up at one element, for the references.
#pragma once

#include <cmath>

namespace moebius::ref {

struct SwigluSlope {
  double gate, up;  // of the product, with respect to each
};

inline SwigluSlope swiglu_slope(double gate, double up) {
  const double s = 1.0 / (1.0 + std::exp(-gate));
  return {up * s * (1.0 + gate * (1.0 - s)), gate * s};
}

}  // namespace moebius::ref
