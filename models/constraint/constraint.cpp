#include "models/constraint/constraint.h"

#include <algorithm>

namespace moebius {

Result<std::shared_ptr<const Constraint>> Constraint::compile(
    const Grammar& grammar, std::shared_ptr<const TokenVocabulary> vocabulary, std::vector<int32_t> ends) {
  auto out = std::make_shared<Constraint>();
  MOEBIUS_ASSIGN(out->program_, Program::compile(grammar));
  out->vocabulary_ = std::move(vocabulary);
  for (const CharSet& loop : out->program_->loops()) out->loops_.push_back(out->vocabulary_->tokens_of(loop));
  out->ends_ = std::move(ends);
  out->cache_ = std::make_shared<Cache>(out->program_);
  MOEBIUS_ASSIGN(out->start_, out->cache_->states.start());
  std::shared_ptr<const Constraint> shared = std::move(out);
  MOEBIUS_TRY(
      ConstraintState(shared).mask().status());  // the first mask shows most of what cannot be followed
  return shared;
}

ConstraintState::ConstraintState(std::shared_ptr<const Constraint> constraint)
    : constraint_(std::move(constraint)), cache_(constraint_->cache_), state_(constraint_->start_) {}

// A full cache is left to the others that use it.
Status ConstraintState::make_room() {
  std::shared_ptr<Constraint::Cache> old = cache_;
  const std::lock_guard lock(old->mutex);
  if (!old->states.full()) return {};
  auto fresh = std::make_shared<Constraint::Cache>(constraint_->program_);
  MOEBIUS_ASSIGN(state_, old->states.move_to(fresh->states, state_));
  cache_ = std::move(fresh);
  return {};
}

bool ConstraintState::is_end(int32_t id) const {
  return std::find(constraint_->ends_.begin(), constraint_->ends_.end(), id) != constraint_->ends_.end();
}

Result<std::shared_ptr<const TokenMask>> ConstraintState::mask() {
  MOEBIUS_TRY(make_room());
  const std::lock_guard lock(cache_->mutex);
  StateCache& states = cache_->states;
  MOEBIUS_TRY(states.status());
  if (auto known = states.mask(state_)) return known;
  const TokenVocabulary& vocabulary = *constraint_->vocabulary_;
  auto mask = std::make_shared<TokenMask>((static_cast<size_t>(vocabulary.size()) + 63) / 64);
  const auto allow = [&](int32_t id) {
    if (id >= 0 && id < vocabulary.size()) (*mask)[static_cast<size_t>(id) / 64] |= uint64_t{1} << (id % 64);
  };
  states.begin_mask();
  vocabulary.allow(states, state_, constraint_->loops_, *mask);
  const Program& program = states.program();
  for (size_t i = 0; i < program.tokens().size(); ++i) {
    const int32_t symbol = program.byte_classes() + static_cast<int32_t>(i);
    if (states.step(state_, symbol) != StateCache::kDead) allow(program.tokens()[i]);
  }
  MOEBIUS_TRY(states.status());
  if (states.accepts(state_)) {
    for (const int32_t end : constraint_->ends_) allow(end);
  }
  if (std::all_of(mask->begin(), mask->end(), [](uint64_t bits) { return bits == 0; }))
    return invalid("the constraint asks for text that this model's vocabulary cannot write");
  states.keep_mask(state_, mask);
  return std::shared_ptr<const TokenMask>(std::move(mask));
}

bool ConstraintState::advance(int32_t id) {
  const std::lock_guard lock(cache_->mutex);
  StateCache& states = cache_->states;
  if (is_end(id)) return states.accepts(state_);
  const Program& program = states.program();
  StateCache::StateId at = state_;
  const auto token = std::find(program.tokens().begin(), program.tokens().end(), id);
  if (token != program.tokens().end()) {
    at = states.step(at, program.byte_classes() + static_cast<int32_t>(token - program.tokens().begin()));
  } else {
    const std::string_view text = constraint_->vocabulary_->text(id);
    if (text.empty()) return false;
    for (size_t i = 0; i < text.size() && at != StateCache::kDead; ++i)
      at = states.step(at, program.class_of(static_cast<unsigned char>(text[i])));
  }
  if (at == StateCache::kDead) return false;
  state_ = at;
  return true;
}

bool ConstraintState::advance_over_mark(int32_t id) {
  const std::vector<int32_t>& marks = constraint_->program_->tokens();
  return std::find(marks.begin(), marks.end(), id) != marks.end() && advance(id);
}

bool ConstraintState::accepts() const {
  const std::lock_guard lock(cache_->mutex);
  return cache_->states.accepts(state_);
}

}  // namespace moebius
