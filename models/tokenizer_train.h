// Training of a tokenizer, by sentencepiece's own trainer.
//
// Texts survive encode() and decode() to the byte: nothing is normalised, no space is put before a text, runs
// of spaces and newlines stay, and what the pieces lack is spelled in byte pieces. The one exception is
// U+2581, which sentencepiece takes for a space. Every digit is a piece of its own. A unigram model's pieces
// of equal scores, such as "-|--" and "--|-", may be cut differently by `tokenizers`; BPE is cut alike.
//
// Ids, ascending: unknown, bos, eos, pad, control symbols, visible symbols, 256 bytes, pieces.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/status.h"

namespace moebius {

enum class PieceModel { kBpe, kUnigram };
Result<PieceModel> parse_piece_model(std::string_view name);  // "bpe" or "unigram"

struct TokenizerTraining {
  PieceModel model = PieceModel::kBpe;
  int32_t vocab_size = 8192;      // symbols and bytes included; fewer where the texts do not give as many
  double character_coverage = 1;  // share of the texts' characters to be pieces; rarer ones become bytes
  int64_t max_lines = 2'000'000;  // of more, a random sample
  uint64_t seed = 0;              // of that sample
  std::string unknown = "<unk>";  // never made by encode()
  std::string bos = "[BOS]", eos = "[EOS]", pad = "[PAD]";
  std::vector<std::string> control;  // special: not part of a decoded answer, like <|im_end|>
  std::vector<std::string> visible;  // one id wherever they stand, but part of the text, like <tool_call>
  std::string chat_template;         // "" for none
  int64_t context = 0;               // tokens, for model_max_length; 0 if unknown
};

// The symbols of the pebble family's chat template; every <|im_...|> is a control symbol, markup of tool
// calls is visible. Everything else has its default.
TokenizerTraining pebble_tokenizer();

struct TrainedTokenizer {
  int32_t vocab_size = 0, unknown_id = 0, bos_id = 0, eos_id = 0, pad_id = 0;
  std::vector<int32_t> control_ids, visible_ids;  // in the order given
  int64_t lines = 0;                              // trained on
};

// Puts the next text into its argument, false when there is none; an error ends the training and is returned.
using TextSource = std::function<Result<bool>(std::string&)>;

// Trains on texts (UTF-8; symbols within are cut out) and writes into the folder dir, which must be there:
// tokenizer.model (sentencepiece, what Tokenizer::open() reads), tokenizer_config.json, tokenizer.json (the
// same tokenizer for `transformers` and `tokenizers`) and chat_template.jinja where one is given. Each file
// appears whole; equal texts, options and seed give equal bytes, whatever the number of processors.
//
// kInvalid: options out of range, a symbol twice or empty, no text, or a vocabulary too small for the symbols
// and the characters of the texts. Errors of the file system are kIo, kNotFound.
Result<TrainedTokenizer> train_tokenizer(const TokenizerTraining& options, const TextSource& texts,
                                         const std::string& dir);

}  // namespace moebius
