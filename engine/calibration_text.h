// What a calibration reads: conversations and examples of a JSONL file, or windows of one text.
#pragma once

#include <string>
#include <vector>

#include "engine/prompt.h"
#include "models/config.h"
#include "models/tokenizer.h"

namespace moebius {

struct CalibrationText {
  std::vector<std::vector<int32_t>> sequences;
  int64_t tokens = 0;   // of all of them
  int64_t of_file = 0;  // tokens that the file has
};

struct CalibrationTextOptions {
  int64_t tokens = 0;  // the most to take, evenly over the file
  int64_t window = 0;  // the longest sequence; what is longer is cut, a text into several
  int threads = 1;
};

// A file whose name ends in ".jsonl" is read as training data (engine/train/dataset.h), any other as one
// text. kInvalid, kNotFound and kIo name the file, and the line; a file without a token is refused.
Result<CalibrationText> read_calibration_text(const std::string& path, const ModelConfig& config,
                                              const Tokenizer& tokenizer, const PromptRenderer& prompts,
                                              const CalibrationTextOptions& options);

}  // namespace moebius
