// Byte-level BPE: vocabulary, merges and added tokens, as tokenizer.json and tiktoken.model give them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/pretokenizer.h"
#include "models/tokenizer.h"
#include "models/tokenizer_added.h"
#include "models/tokenizer_text.h"

namespace moebius {

inline constexpr int64_t kMaxVocab = 4'000'000;
inline constexpr size_t kMaxTokenBytes = 1'000'000;
inline constexpr size_t kMaxTextBytes = size_t{1} << 30;  // of what encode() takes

// Bytes by id, and the id of some bytes.
class TokenTable {
 public:
  // kInvalid: an id outside [0, kMaxVocab), an id or a byte sequence given twice, or more bytes than
  // kMaxTokenBytes. listed: find() finds it.
  Status add(std::string_view bytes, int64_t id, bool listed = true);
  std::optional<int32_t> find(std::string_view bytes) const;
  std::string_view bytes(int32_t id) const;  // "" if there is none
  bool has(int32_t id) const { return id >= 0 && id < size() && entries_[static_cast<size_t>(id)].used; }
  int32_t size() const { return static_cast<int32_t>(entries_.size()); }  // one past the largest id
  size_t longest() const { return longest_; }

 private:
  struct Entry {
    uint64_t begin = 0;
    uint32_t length = 0;
    bool used = false;
  };
  void grow();
  size_t slot_of(std::string_view bytes) const;

  std::string arena_;
  std::vector<Entry> entries_;
  std::vector<int32_t> slots_;  // ids by hash of their bytes, -1 free; a power of two, at most half full
  size_t listed_ = 0;
  size_t longest_ = 0;
};

// The rank and the result of merging two ids.
class MergeTable {
 public:
  struct Merge {
    int32_t rank;
    int32_t id;
  };
  explicit MergeTable(size_t count);                                    // room for count merges
  void set(int32_t left, int32_t right, int32_t rank, int32_t result);  // the last of equal pairs stays
  std::optional<Merge> find(int32_t left, int32_t right) const;

 private:
  struct Slot {
    uint64_t key;
    Merge merge;
  };
  size_t slot_of(uint64_t key) const;
  std::vector<Slot> slots_;
};

struct BpeParts {
  TokenTable tokens;
  std::optional<MergeTable>
      merges;                      // none: any two pieces whose joined bytes are a token merge, rank = its id
  bool whole_piece_first = false;  // a piece that is a token needs no merges (ignore_merges, tiktoken)
  bool byte_alphabet = false;      // token_text spells bytes by the byte-level alphabet
  std::vector<NormalForm> normal_forms;
  Pretokenizer pretokenizer;
  AddedTokens added;
  std::vector<int32_t> prefix, suffix;  // for EncodeOptions::add_special
  std::optional<int32_t> bos_id, eos_id;
};

// The byte-level alphabet of GPT-2: one printable character for each byte.
std::string to_byte_alphabet(std::string_view bytes);
std::optional<std::string> from_byte_alphabet(std::string_view text);  // none: a character outside of it

class BpeTokenizer : public Tokenizer {
 public:
  // kInvalid: a byte of UTF-8 text without a token.
  static Result<std::unique_ptr<Tokenizer>> create(BpeParts parts);

  Result<std::vector<int32_t>> encode(std::string_view text, EncodeOptions options) const override;
  int32_t vocab_size() const override;
  bool is_special(int32_t id) const override;
  std::optional<int32_t> id_of(std::string_view token) const override;
  std::string token_text(int32_t id) const override;
  std::string_view token_bytes(int32_t id) const override;

 private:
  struct Work;  // buffers of one encode()
  explicit BpeTokenizer(BpeParts parts);
  Status encode_plain(std::string_view text, Work& work) const;
  void encode_piece(std::string_view piece, Work& work) const;
  template <class FindMerge>
  void merge_piece(std::string_view piece, Work& work, const FindMerge& find_merge) const;
  std::string normalized(std::string_view text) const;

  BpeParts parts_;
  int32_t byte_ids_[256];
};

}  // namespace moebius
