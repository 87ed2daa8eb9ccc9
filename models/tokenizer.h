// Tokenizer: text to ids and back, for the files published beside a checkpoint.
//
// Reads, in this order of preference: tokenizer.json (byte-level BPE, Hugging Face `tokenizers`),
// tiktoken.model (Kimi, Moonlight; specials from tokenizer_config.json), tokenizer.model (sentencepiece,
// through its library); a file of a kind that is not supported is passed over when a later one is there.
// A Tokenizer is immutable after open() and may be used from several threads.
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
  // Add the ids the file asks for (beginning of sequence, ...), as its post-processor or configuration says.
  bool add_special = false;
  // "<|im_end|>" in the text is that one id. false, for untrusted text: special tokens, and added tokens
  // spelled like markup (<..., ｜... or [...]), are plain characters; other added tokens are words like any
  // other.
  bool parse_special = true;
};

class Tokenizer {
 public:
  // dir: a folder with tokenizer files; other files of a checkpoint need not be there.
  static Result<std::unique_ptr<Tokenizer>> open(const std::string& dir);
  virtual ~Tokenizer() = default;

  // text: UTF-8, up to 1 GiB; an invalid sequence is treated as U+FFFD. Near-linear in the length of text,
  // whatever it holds. kInvalid when a pattern of the file gives up on the text.
  virtual Result<std::vector<int32_t>> encode(std::string_view text, EncodeOptions options = {}) const = 0;

  // The bytes of a sequence of ids; one id may be part of a character, so that the result need not be valid
  // UTF-8. An added token gives its text. kInvalid names an id that is out of range.
  Result<std::string> decode(std::span<const int32_t> ids, bool skip_special = false) const;

  virtual int32_t vocab_size() const = 0;  // one past the largest id, added tokens included
  virtual bool is_special(int32_t id) const = 0;
  // Of an added token or a vocabulary entry, spelled as token_text() spells it.
  virtual std::optional<int32_t> id_of(std::string_view token) const = 0;
  // As the file spells it (tokenizer.json: one character a byte); tiktoken: its bytes. "" if out of range.
  virtual std::string token_text(int32_t id) const = 0;
  // What the id adds to a decoded text, "" if out of range or unused; lives as long as the tokenizer.
  virtual std::string_view token_bytes(int32_t id) const = 0;
  // Whether the space of this id is dropped where it begins a decoded text (sentencepiece's dummy prefix).
  virtual bool drops_first_space(int32_t /*id*/) const { return false; }

  std::optional<int32_t> bos_id() const { return bos_id_; }  // from tokenizer_config.json or the model file
  std::optional<int32_t> eos_id() const { return eos_id_; }

 protected:
  std::optional<int32_t> bos_id_;
  std::optional<int32_t> eos_id_;
};

// Turns a stream of ids into text that can be shown at once: holds back the bytes of an incomplete character.
// The texts given out, joined, are decode() of all the ids with invalid bytes as U+FFFD.
class StreamDecoder {
 public:
  // The tokenizer must outlive this object.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}
  // The text that became complete with this id; "" while a character is incomplete, for a skipped special and
  // for an id that is out of range.
  std::string push(int32_t id);
  // What was held back, invalid bytes as U+FFFD; the stream goes on with the next character.
  std::string flush();
  std::string finish();  // the same, ready for a new stream

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  bool started_ = false;  // some id has given bytes
  std::string held_;      // the beginning of a character, up to 3 bytes
};

}  // namespace moebius
