// TokenVocabulary: the texts of a tokenizer's tokens, arranged so that all tokens a state can read are found
// in one walk. Immutable; made once per model.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "models/constraint/state_cache.h"
#include "models/tokenizer.h"

namespace moebius {

class TokenVocabulary {
 public:
  // size: of the model's vocabulary, which may go beyond the tokenizer's. Special tokens and `markup` have no
  // text.
  static std::shared_ptr<const TokenVocabulary> of(const Tokenizer& tokenizer, int64_t size,
                                                   std::span<const int32_t> markup);
  // texts[id]; "" for an id without one.
  static std::shared_ptr<const TokenVocabulary> of(std::span<const std::string_view> texts);

  int64_t size() const { return size_; }
  std::string_view text(int32_t id) const;  // "" without one, or out of range
  // Plain tokens (see plain_characters) of nothing but a set's characters, by their length in characters.
  struct LoopTokens {
    std::vector<std::pair<int32_t, int32_t>> by_length;  // characters, id; ascending
    bool every = false;  // the set has all plain characters; by_length is empty
  };
  LoopTokens tokens_of(const CharSet& loop) const;

  // Adds to mask ([size / 64], rounded up) every token that can be read whole from the state. loops:
  // tokens_of the program's.
  void allow(StateCache& cache, StateCache::StateId state, std::span<const LoopTokens> loops,
             TokenMask& mask) const;

 private:
  struct Node {
    unsigned char byte = 0;
    int32_t depth = 0;  // bytes before it
    int32_t skip = 0;   // the node after everything below this one
    int32_t tokens = 0, tokens_end = 0;
  };
  struct Tree {
    std::vector<Node> nodes;  // each before what is below it
    std::vector<int32_t> tokens;
    int32_t depth = 0;
  };
  static Tree plant(std::vector<std::pair<std::string_view, int32_t>> texts);
  void walk(const Tree& tree, StateCache& cache, StateCache::StateId state, TokenMask& mask) const;
  void allow_plain(int32_t characters, TokenMask& mask) const;

  int64_t size_ = 0;
  std::vector<std::string> texts_;
  // Plain tokens have a tree of their own, since most states read all of them or none.
  Tree plain_, others_;
  std::vector<std::pair<int32_t, int32_t>> plain_by_length_;  // characters, id
  std::vector<TokenMask> up_to_;                              // plain tokens of at most i + 1 characters
  TokenMask all_plain_;
};

}  // namespace moebius
