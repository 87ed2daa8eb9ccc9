// Constraint: what an answer must be, as a mask over the vocabulary at every token.
//
// A Constraint is a compiled grammar, made once and shared. A ConstraintState is a value: where one answer
// is. Copies go their own ways. States of one constraint share what they have found out; they may be used
// from several threads at a time.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "models/constraint/grammar.h"
#include "models/constraint/token_vocabulary.h"

namespace moebius {

class Constraint {
 public:
  // ends: the ids that end an answer, allowed wherever the grammar accepts. kInvalid: as Program::compile, or
  // a grammar that is too ambiguous to follow.
  static Result<std::shared_ptr<const Constraint>> compile(const Grammar& grammar,
                                                           std::shared_ptr<const TokenVocabulary> vocabulary,
                                                           std::vector<int32_t> ends);

 private:
  friend class ConstraintState;
  struct Cache {
    explicit Cache(std::shared_ptr<const Program> program) : states(std::move(program)) {}
    std::mutex mutex;
    StateCache states;
  };
  std::shared_ptr<const Program> program_;
  std::shared_ptr<const TokenVocabulary> vocabulary_;
  std::vector<TokenVocabulary::LoopTokens> loops_;
  std::vector<int32_t> ends_;
  std::shared_ptr<Cache> cache_;
  StateCache::StateId start_ = 0;
};

class ConstraintState {
 public:
  explicit ConstraintState(std::shared_ptr<const Constraint> constraint);

  // One bit per id of the tokens that may come next; at least one. kInvalid: the limits of the grammar are
  // exceeded here, or no token of the vocabulary can go on.
  Result<std::shared_ptr<const TokenMask>> mask();
  // Reads a token; false, and nothing changes, where the mask does not hold it. An end changes nothing.
  bool advance(int32_t id);
  bool advance_over_mark(int32_t id);  // the same, for markup of the grammar only (Grammar::token)
  bool accepts() const;                // what was read is a whole answer

 private:
  Status make_room();
  bool is_end(int32_t id) const;

  std::shared_ptr<const Constraint> constraint_;
  std::shared_ptr<Constraint::Cache> cache_;
  StateCache::StateId state_ = 0;
};

inline bool mask_allows(std::span<const uint64_t> mask, int32_t id) {
  return id >= 0 && static_cast<size_t>(id) / 64 < mask.size() &&
         (mask[static_cast<size_t>(id) / 64] >> (id % 64) & 1);
}

}  // namespace moebius
