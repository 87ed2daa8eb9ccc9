#include "engine/token_gate.h"

namespace moebius {

TokenGate::TokenGate(std::shared_ptr<const Constraint> constraint, const ChatMarkup* markup,
                     std::span<const int32_t> prompt) {
  if (constraint) state_.emplace(std::move(constraint));
  if (markup == nullptr || markup->think_begin < 0) return;
  if (!state_ && markup->think_limit < 0) return;
  think_begin_ = markup->think_begin;
  think_end_ = markup->think_end;
  think_limit_ = markup->think_limit;
  thinking_ = markup->opens_thinking(prompt);
  may_think_ = !thinking_ && !markup->closes_thinking(prompt);
}

Result<std::span<const uint64_t>> TokenGate::allowed() {
  const auto allow = [this](int32_t id) {
    const auto word = static_cast<size_t>(id) / 64;
    if (word >= with_thinking_.size()) with_thinking_.resize(word + 1);
    with_thinking_[word] |= uint64_t{1} << (id % 64);
  };
  if (thinking_ && think_limit_ >= 0 && thought_ >= think_limit_ && think_end_ >= 0) {
    with_thinking_.clear();
    allow(think_end_);
    return std::span<const uint64_t>(with_thinking_);
  }
  if (!state_ || thinking_) return std::span<const uint64_t>();
  MOEBIUS_ASSIGN(mask_, state_->mask());
  if (!may_think_) return std::span<const uint64_t>(*mask_);
  with_thinking_ = *mask_;
  if (static_cast<size_t>(think_begin_) / 64 < with_thinking_.size()) allow(think_begin_);
  return std::span<const uint64_t>(with_thinking_);
}

void TokenGate::take(int32_t id) {
  if (state_) return take_constrained(id);
  if (thinking_) return think_on(id);
  thinking_ = id == think_begin_ && think_begin_ >= 0;
}

void TokenGate::take_constrained(int32_t id) {
  if (thinking_) {
    think_on(id);
    // Some models begin a call without an end of their thinking.
    if (thinking_) thinking_ = !state_->advance_over_mark(id);
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

void TokenGate::think_on(int32_t id) {
  ++thought_;
  thinking_ = id != think_end_;
}

}  // namespace moebius
