// Added tokens: texts that are one id wherever they stand, found before a text is cut into pieces.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kernels/status.h"

namespace moebius {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // control, dropped by skip_special
  bool normalized = false;   // matched in the normalised text, not in the text as given
  bool lstrip = false;       // takes the spaces before it along
  bool rstrip = false;       // takes the spaces after it along
  bool single_word = false;  // only where no word character touches it
};

// <..., ｜... or [...]: how models spell their markup, also where the file does not call it special.
bool looks_like_markup(std::string_view text);

class AddedTokens {
 public:
  // Tokens with normalized false, which are matched first; and the others.
  enum class Group { kVerbatim, kNormalized };
  // Receives the parts of a text in order: a plain part, or an id with the text it stands for.
  using OnPart = std::function<Status(std::string_view, std::optional<int32_t>)>;

  // kInvalid: an id outside the vocabulary limit, an empty or overlong text (1 KiB), an id or text given
  // twice.
  Status add(AddedToken token);
  // After the last add: prepares split(). normalize is applied to the texts of Group::kNormalized.
  void build(const std::function<std::string(std::string_view)>& normalize);

  const AddedToken* by_id(int32_t id) const;  // null when absent
  const AddedToken* by_text(std::string_view content) const;
  const std::vector<AddedToken>& all() const { return tokens_; }
  int32_t id_end() const { return id_end_; }  // one past the largest id, 0 without tokens

  // text: valid UTF-8. The longest of the leftmost tokens wins. parse_special false: special tokens and those
  // that look like markup stay plain. Stops at the first error of on_part and returns it.
  Status split(std::string_view text, Group group, bool parse_special, const OnPart& on_part) const;

 private:
  struct Trie {
    std::unordered_map<uint64_t, uint32_t> edges;  // node << 8 | byte -> node
    std::vector<int32_t> token{-1};                // index into tokens_ that ends at the node, or -1
    bool first[256] = {};                          // bytes that begin a token
    void insert(std::string_view text, int32_t index);
    // Length of the longest token at the beginning of text, 0 when there is none.
    size_t match(std::string_view text, int32_t* index) const;
  };

  std::vector<AddedToken> tokens_;
  std::unordered_map<int32_t, size_t> by_id_;
  std::unordered_map<std::string, size_t> by_text_;
  Trie tries_[2];
  int32_t id_end_ = 0;
};

}  // namespace moebius
