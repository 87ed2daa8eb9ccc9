#include "engine/generation.h"

namespace moebius {

GenerationEvent GenerationEvent::of(Kind kind, int choice) {
  GenerationEvent event;
  event.kind = kind;
  event.choice = choice;
  return event;
}

GenerationEvent GenerationEvent::of(const Piece& piece, int choice) {
  GenerationEvent event = of(Kind::kPiece, choice);
  event.text = piece.text;
  event.reasoning = piece.reasoning;
  event.calls.assign(piece.calls.begin(), piece.calls.end());
  event.id = piece.id;
  event.chosen = piece.chosen;
  event.alternatives.assign(piece.alternatives.begin(), piece.alternatives.end());
  return event;
}

GenerationEvent GenerationEvent::failed(Status status) {
  GenerationEvent event = of(Kind::kFailed);
  event.status = std::move(status);
  return event;
}

Ticket::Ticket(Generation generation) : generation_(std::move(generation)) {
  for (const std::vector<int32_t>& prompt : generation_.prompts) prompt_tokens_ += std::ssize(prompt);
}

std::optional<GenerationEvent> Ticket::next(std::chrono::milliseconds wait) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, wait, [this] { return !events_.empty(); })) return {};
  GenerationEvent event = std::move(events_.front());
  events_.pop_front();
  return event;
}

void Ticket::post(GenerationEvent event) {
  {
    std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  changed_.notify_one();
}

}  // namespace moebius
