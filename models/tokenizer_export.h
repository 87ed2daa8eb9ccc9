// The files beside a trained tokenizer.model: tokenizer.json and tokenizer_config.json, with which
// `transformers` and `tokenizers` give the same ids.
#pragma once

#include <string>
#include <string_view>

#include "models/tokenizer_train.h"

namespace moebius {

struct TokenizerFiles {
  std::string json, config;
};

// model: what sentencepiece's trainer made with these options, see tokenizer_train.h for the order of ids.
Result<TokenizerFiles> export_tokenizer(const TokenizerTraining& options, std::string_view model);

}  // namespace moebius
