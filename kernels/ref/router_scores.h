// The scores of a router's logits in double, for the references of its backward operations.
#pragma once

#include <vector>

#include "kernels/ops.h"

namespace moebius::ref {

std::vector<double> router_scores(const float* logits, int64_t rows, Scoring scoring);

}  // namespace moebius::ref
