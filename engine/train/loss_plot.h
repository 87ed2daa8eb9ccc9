// The loss of a training run, or its rate of zero experts, as a picture: SVG without scripts or fonts of its
// own, for a light or a dark page, below 100 kB however long the run was.
#pragma once

#include <span>
#include <string>

#include "engine/train/training_log.h"

namespace moebius {

// Train loss by step (light: all steps; dark: a moving mean), evaluation losses as points. The axis of losses
// is logarithmic where they fall far. Values that are not finite, or above 1e30, are left out. No rows give a
// picture that says so. title: any text.
std::string loss_plot(std::span<const TrainingRow> rows, const std::string& title);
// The same of the rate of zero experts, which has no evaluations.
std::string zero_rate_plot(std::span<const TrainingRow> rows, const std::string& title);

}  // namespace moebius
