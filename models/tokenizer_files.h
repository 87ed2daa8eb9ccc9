// The tokenizer files, each from its bytes; Tokenizer::open() finds and reads them.
//
// Limits: 4M ids, tokens of 1 MB, added tokens of 1 KiB, JSON of 64 levels.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/tokenizer.h"
#include "models/tokenizer_added.h"

namespace moebius {

// What tokenizer_config.json says about ids; other keys are not looked at.
struct TokenizerConfig {
  std::string bos_token, eos_token;  // "" if absent
  std::optional<bool> add_bos_token, add_eos_token;
  bool legacy = false;            // sentencepiece: a space is put before each text after a special token too
  std::vector<AddedToken> added;  // added_tokens_decoder, by ascending id
};
Result<TokenizerConfig> parse_tokenizer_config(std::string_view json);

Result<std::unique_ptr<Tokenizer>> tokenizer_from_json(std::string_view json, const TokenizerConfig& config);
Result<std::unique_ptr<Tokenizer>> tokenizer_from_tiktoken(std::string_view file,
                                                           const TokenizerConfig& config);
Result<std::unique_ptr<Tokenizer>> tokenizer_from_sentencepiece(std::string_view file,
                                                                const TokenizerConfig& config);

// A tokenizer.json, its two large tables beside the rest.
struct TokenizerJson {
  nlohmann::json rest;  // the object without model.vocab and model.merges
  std::vector<std::pair<std::string, int64_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;  // in order of rank
};
// Any JSON within the limits; kInvalid says where it breaks.
Result<TokenizerJson> parse_tokenizer_json(std::string_view json);

// A field of an object of these files; "" or none where it is absent or of another type.
std::string text_in(const nlohmann::json& node, const char* key);
std::optional<bool> flag_in(const nlohmann::json& node, const char* key);

// The flags and text of an added token as both files spell them; its id is left 0.
Result<AddedToken> parse_added_token(const nlohmann::json& node);

}  // namespace moebius
