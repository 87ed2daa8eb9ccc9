// Tokenizer: text to ids and back, for the files published beside a checkpoint.
//
// Reads, in this order of preference: tokenizer.json (byte-level BPE, Hugging Face `tokenizers`),
// tiktoken.model (Kimi, Moonlight; specials from tokenizer_config.json), tokenizer.model (sentencepiece,
// through its library). A Tokenizer is immutable after open() and may be used from several threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/status.h"

namespace moebius {

struct EncodeOptions {
  bool add_special =
      false;  // add the ids the file asks for (beginning of sequence, ...), as its post-processor
  bool parse_special =
      true;  // "<|im_end|>" in the text is that one id; false: plain characters (untrusted text)
};

class Tokenizer {
 public:
  // dir: a folder with tokenizer files; other files of a checkpoint need not be there.
  static Result<std::unique_ptr<Tokenizer>> open(const std::string& dir);
  virtual ~Tokenizer() = default;

  // text: UTF-8; an invalid byte is treated as U+FFFD. Near-linear in the length of text, whatever it holds.
  virtual Result<std::vector<int32_t>> encode(std::string_view text, EncodeOptions options = {}) const = 0;

  // The bytes of a sequence of ids; one id may be part of a character. kInvalid names an id that is out of
  // range.
  virtual Result<std::string> decode(std::span<const int32_t> ids, bool skip_special = false) const = 0;

  virtual int32_t vocab_size() const = 0;  // one past the largest id, added tokens included
  virtual bool is_special(int32_t id) const = 0;
  virtual std::optional<int32_t> id_of(
      std::string_view token) const = 0;                 // of an added token or a vocabulary entry
  virtual std::string token_text(int32_t id) const = 0;  // as the file spells it; "" if out of range

  std::optional<int32_t> bos_id() const { return bos_id_; }  // from tokenizer_config.json or the model file
  std::optional<int32_t> eos_id() const { return eos_id_; }

 protected:
  std::optional<int32_t> bos_id_;
  std::optional<int32_t> eos_id_;
};

// Turns a stream of ids into text that can be shown at once: holds back the bytes of an incomplete character.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true);
  // The text that became complete with this id; "" while a character is incomplete or for a skipped special.
  std::string push(int32_t id);
  // What was held back, invalid bytes as U+FFFD.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::vector<int32_t> ids_;  // window since the last boundary that decodes on its own
  std::string shown_;         // what the window has already given out
};

}  // namespace moebius
