// Whether a file is one that this server's model can learn from.
#pragma once

#include <string>

#include "engine/engine.h"
#include "engine/train/dataset.h"

namespace moebius {

// Reads all of it with the parsers of `moebius finetune`, on `threads` threads. An error names the first bad
// line, and the file by `name`.
Result<DatasetCounts> check_training_file(const Engine& engine, const std::string& path,
                                          const std::string& name, int threads);

}  // namespace moebius
