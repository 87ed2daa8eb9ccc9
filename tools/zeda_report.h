// moebius zeda report: what a model that skips experts does and costs.
#pragma once

#include "tools/command.h"

namespace moebius {

void add_zeda_report(CLI::App& zeda, Run& run);

}  // namespace moebius
