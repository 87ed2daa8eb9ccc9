// The options of `moebius serve` for files and fine-tuning.
#pragma once

#include "server/fine_tuning.h"
#include "tools/command.h"

namespace moebius {

void add_files_options(CLI::App& app, FineTuningOptions& options);

}  // namespace moebius
