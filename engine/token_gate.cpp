#include "engine/token_gate.h"

namespace moebius {

TokenGate::TokenGate(std::shared_ptr<const Constraint> constraint, const ChatMarkup* markup,
                     std::span<const int32_t> prompt) {
  if (!constraint) return;
  state_.emplace(std::move(constraint));
  if (markup == nullptr || markup->think_begin < 0) return;
  think_begin_ = markup->think_begin;
  think_end_ = markup->think_end;
  thinking_ = markup->opens_thinking(prompt);
  may_think_ = !thinking_ && !markup->closes_thinking(prompt);
}

Result<std::span<const uint64_t>> TokenGate::allowed() {
  if (!state_ || thinking_) return std::span<const uint64_t>();
  MOEBIUS_ASSIGN(mask_, state_->mask());
  if (!may_think_) return std::span<const uint64_t>(*mask_);
  with_thinking_ = *mask_;
  if (static_cast<size_t>(think_begin_) / 64 < with_thinking_.size())
    with_thinking_[static_cast<size_t>(think_begin_) / 64] |= uint64_t{1} << (think_begin_ % 64);
  return std::span<const uint64_t>(with_thinking_);
}

void TokenGate::take(int32_t id) {
  if (!state_) return;
  if (thinking_) {
    // Some models begin a call without an end of their thinking.
    thinking_ = id != think_end_ && !state_->advance_over_mark(id);
    return;
  }
  if (may_think_ && id == think_begin_) {
    thinking_ = true;
    may_think_ = false;
    return;
  }
  may_think_ = false;
  state_->advance(id);
}

}  // namespace moebius
