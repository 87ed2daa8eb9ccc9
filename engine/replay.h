// Replay: the tokens that texts were made of. A model does not always write a text in the tokens that its
// tokenizer would choose for it; where a conversation comes back with an answer in it, these are the tokens
// that the cache holds. One memory for all threads, bounded, the least recently used texts are forgotten.
#pragma once

#include <list>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer.h"

namespace moebius {

class Replay {
 public:
  // tokenizer outlives it.
  Replay(const Tokenizer& tokenizer, int64_t bytes) : tokenizer_(tokenizer), bytes_(bytes) {}

  // ids: of a prompt and the answer to it. space: as PrefixCache's.
  void remember(const std::string& space, std::span<const int32_t> ids);
  // All that is remembered as a text for later, and back: what is no such text is not taken.
  std::string save();
  Status restore(std::string_view saved);
  // As Tokenizer::encode(text), but the longest remembered text that it begins with is in its own tokens.
  Result<std::vector<int32_t>> encode(const std::string& space, std::string_view text);

 private:
  struct Entry {
    std::string space, text;
    std::vector<int32_t> ids;
    int64_t bytes() const { return std::ssize(space) + std::ssize(text) + 4 * std::ssize(ids); }
  };
  void put(Entry entry);  // with the mutex locked
  std::vector<int32_t> longest(const std::string& space, std::string_view text, size_t& covered);

  const Tokenizer& tokenizer_;
  const int64_t bytes_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // the last used first
  int64_t held_ = 0;
};

}  // namespace moebius
