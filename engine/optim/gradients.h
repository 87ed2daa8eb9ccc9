// What happens to gradients before an optimizer sees them.
#pragma once

#include <span>
#include <string>

#include "engine/optim/matrix.h"

namespace moebius::optim {

struct NamedGradient {
  std::string name;
  MatrixView values;
};

// kInvalid names the first gradient with a NaN or an infinity, and where in it.
Status check_gradients(std::span<const NamedGradient> gradients, const Team& team);

// Multiplies all by min(1, max_norm / (norm + 1e-6)), norm that of all of them together, which is returned.
// max_norm infinite: only measures. Errors as check_gradients, and kInvalid for max_norm <= 0; nothing is
// changed then. Bit-equal for any number of threads.
Result<double> clip_gradients(std::span<const NamedGradient> gradients, double max_norm, const Team& team);

}  // namespace moebius::optim
