// TokenGate: which tokens an answer may go on with. A constraint holds for what is said, not for what is
// thought: while the model thinks, every token may come, until the markup's think_limit is reached and only
// the end of thinking may. Knows nothing of how tokens are computed.
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "models/constraint/constraint.h"
#include "models/markup/chat_markup.h"

namespace moebius {

class TokenGate {
 public:
  // constraint: null lets everything through. markup: null for a model, or a prompt, without thinking.
  TokenGate(std::shared_ptr<const Constraint> constraint, const ChatMarkup* markup,
            std::span<const int32_t> prompt);

  // One bit per id, valid until the next call; empty: every token. kInvalid: as ConstraintState::mask.
  Result<std::span<const uint64_t>> allowed();
  void take(int32_t id);  // the token that was chosen
  bool constrained() const { return state_.has_value(); }

 private:
  void take_constrained(int32_t id);
  void think_on(int32_t id);

  std::optional<ConstraintState> state_;
  int32_t think_begin_ = -1, think_end_ = -1;
  int64_t think_limit_ = -1, thought_ = 0;  // tokens
  bool thinking_ = false, may_think_ = false;
  std::shared_ptr<const TokenMask> mask_;
  TokenMask with_thinking_;  // mask_ and think_begin_, or think_end_ alone
};

}  // namespace moebius
