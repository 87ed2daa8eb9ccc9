#include "models/tokenizer_added.h"

#include <fmt/format.h>

#include <algorithm>

#include "models/file_io.h"
#include "models/tokenizer_bpe.h"
#include "models/tokenizer_text.h"

namespace moebius {
namespace {

// No published token comes near it; a search costs this much a byte at worst.
constexpr size_t kMaxAddedBytes = 1024;

bool word_before(std::string_view text, size_t position) {
  return position > 0 && is_unicode_word(utf8_previous(text, position));
}

bool word_after(std::string_view text, size_t position) {
  return position < text.size() && is_unicode_word(utf8_next(text, position));
}

size_t skip_spaces_back(std::string_view text, size_t position, size_t limit) {
  while (position > limit) {
    size_t before = position;
    if (!is_unicode_space(utf8_previous(text, before))) break;
    position = before;
  }
  return position;
}

size_t skip_spaces(std::string_view text, size_t position) {
  while (position < text.size()) {
    size_t after = position;
    if (!is_unicode_space(utf8_next(text, after))) break;
    position = after;
  }
  return position;
}

}  // namespace

bool looks_like_markup(std::string_view text) {
  if (text.size() < 2) return false;
  return text.front() == '<' || text.starts_with("\uFF5C") || (text.front() == '[' && text.back() == ']');
}

Status AddedTokens::add(AddedToken token) {
  if (token.id < 0 || token.id >= kMaxVocab) {
    return invalid(fmt::format("added token id {} is outside 0..{}", token.id, kMaxVocab - 1));
  }
  if (token.content.empty() || token.content.size() > kMaxAddedBytes) {
    return invalid(fmt::format("added token {} has {} bytes; 1 to {} are allowed", token.id,
                               token.content.size(), kMaxAddedBytes));
  }
  if (utf8_valid_prefix(token.content) != token.content.size()) {
    return invalid(fmt::format("added token {} is not UTF-8", token.id));
  }
  const size_t index = tokens_.size();
  if (!by_id_.emplace(token.id, index).second)
    return invalid(fmt::format("two added tokens have the id {}", token.id));
  if (!by_text_.emplace(token.content, index).second) {
    return invalid(fmt::format("the added token '{}' is there twice", printable(token.content)));
  }
  id_end_ = std::max(id_end_, token.id + 1);
  tokens_.push_back(std::move(token));
  return {};
}

void AddedTokens::build(const std::function<std::string(std::string_view)>& normalize) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    const auto index = static_cast<int32_t>(i);
    if (token.normalized) {
      tries_[1].insert(normalize(token.content), index);
    } else {
      tries_[0].insert(token.content, index);
    }
  }
}

const AddedToken* AddedTokens::by_id(int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::by_text(std::string_view content) const {
  const auto found = by_text_.find(std::string(content));
  return found == by_text_.end() ? nullptr : &tokens_[found->second];
}

void AddedTokens::Trie::insert(std::string_view text, int32_t index) {
  if (text.empty()) return;
  first[static_cast<uint8_t>(text[0])] = true;
  uint32_t node = 0;
  for (const char byte : text) {
    const uint64_t key = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
    const auto [edge, fresh] = edges.emplace(key, static_cast<uint32_t>(token.size()));
    if (fresh) token.push_back(-1);
    node = edge->second;
  }
  if (token[node] < 0) token[node] = index;
}

size_t AddedTokens::Trie::match(std::string_view text, int32_t* index) const {
  size_t longest = 0;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto edge = edges.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(text[i]));
    if (edge == edges.end()) break;
    node = edge->second;
    if (token[node] >= 0) {
      *index = token[node];
      longest = i + 1;
    }
  }
  return longest;
}

Status AddedTokens::split(std::string_view text, Group group, bool parse_special,
                          const OnPart& on_part) const {
  const Trie& trie = tries_[group == Group::kVerbatim ? 0 : 1];
  size_t done = 0;  // the text before it is given out
  for (size_t at = 0; at < text.size();) {
    int32_t index = -1;
    const size_t length =
        trie.first[static_cast<uint8_t>(text[at])] ? trie.match(text.substr(at), &index) : 0;
    if (length == 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    size_t begin = at;
    size_t end = at + length;
    at = end;
    if (!parse_special && (token.special || looks_like_markup(token.content))) continue;
    if (token.single_word && (word_before(text, begin) || word_after(text, end))) continue;
    if (token.lstrip) begin = skip_spaces_back(text, begin, done);
    if (token.rstrip) end = skip_spaces(text, end);
    if (begin > done) MOEBIUS_TRY(on_part(text.substr(done, begin - done), std::nullopt));
    MOEBIUS_TRY(on_part(text.substr(begin, end - begin), token.id));
    at = done = end;
  }
  if (done < text.size()) MOEBIUS_TRY(on_part(text.substr(done), std::nullopt));
  return {};
}

}  // namespace moebius
