#include "server/worker.h"

#include <algorithm>

namespace moebius {

namespace {

Status cancelled_status() { return {Code::kCancelled, "the request was cancelled"}; }

GenerationEvent event_of(GenerationEvent::Kind kind, int choice = 0) {
  GenerationEvent event;
  event.kind = kind;
  event.choice = choice;
  return event;
}

GenerationEvent failed(Status status) {
  GenerationEvent event = event_of(GenerationEvent::Kind::kFailed);
  event.status = std::move(status);
  return event;
}

GenerationEvent piece_event(const Piece& piece, int choice) {
  GenerationEvent event = event_of(GenerationEvent::Kind::kPiece, choice);
  event.text = piece.text;
  event.reasoning = piece.reasoning;
  event.calls.assign(piece.calls.begin(), piece.calls.end());
  event.id = piece.id;
  event.chosen = piece.chosen;
  event.alternatives.assign(piece.alternatives.begin(), piece.alternatives.end());
  return event;
}

}  // namespace

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

size_t pick_session(std::span<const SessionFacts> sessions, int64_t prompt, size_t limit) {
  const auto less_common = [](const SessionFacts& a, const SessionFacts& b) { return a.common < b.common; };
  const auto best = std::max_element(sessions.begin(), sessions.end(), less_common);
  if (best != sessions.end() && best->common > 0 && 2 * best->common >= std::min(best->length, prompt)) {
    return static_cast<size_t>(best - sessions.begin());
  }
  if (sessions.size() < limit) return sessions.size();
  const auto older = [](const SessionFacts& a, const SessionFacts& b) { return a.last_used < b.last_used; };
  return static_cast<size_t>(std::min_element(sessions.begin(), sessions.end(), older) - sessions.begin());
}

EngineWorker::EngineWorker(Engine& engine, size_t queue_limit, size_t session_limit)
    : engine_(engine),
      queue_limit_(queue_limit),
      session_limit_(session_limit),
      thread_([this] { loop(); }) {}

EngineWorker::~EngineWorker() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  cancel_all();
  changed_.notify_all();
  thread_.join();
}

std::shared_ptr<Ticket> EngineWorker::submit(Generation generation) {
  auto ticket = std::make_shared<Ticket>(std::move(generation));
  {
    std::lock_guard lock(mutex_);
    if (queue_.size() >= queue_limit_) return nullptr;
    queue_.push_back(ticket);
  }
  changed_.notify_one();
  return ticket;
}

void EngineWorker::cancel(const std::shared_ptr<Ticket>& ticket) {
  ticket->cancel();
  std::lock_guard lock(mutex_);
  const auto it = std::find(queue_.begin(), queue_.end(), ticket);
  if (it == queue_.end()) return;
  queue_.erase(it);
  ticket->post(failed(cancelled_status()));
}

void EngineWorker::cancel_all() {
  std::lock_guard lock(mutex_);
  for (const auto& ticket : queue_) {
    ticket->cancel();
    ticket->post(failed(cancelled_status()));
  }
  queue_.clear();
  if (running_) running_->cancel();
}

size_t EngineWorker::queued() const {
  std::lock_guard lock(mutex_);
  return queue_.size();
}

void EngineWorker::loop() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      running_ = nullptr;
      changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) break;
      running_ = std::move(queue_.front());
      queue_.pop_front();
    }
    run(*running_);
  }
  slots_.clear();
}

void EngineWorker::run(Ticket& ticket) {
  for (size_t p = 0; p < ticket.generation_.prompts.size(); ++p) {
    Result<Slot*> slot = slot_for(ticket.generation_.prompts[p]);
    Status status = slot.ok() ? answer(ticket, p, **slot) : slot.status();
    if (!status.ok()) return ticket.post(failed(std::move(status)));
  }
  ticket.post(event_of(GenerationEvent::Kind::kDone));
}

Result<EngineWorker::Slot*> EngineWorker::slot_for(std::span<const int32_t> prompt) {
  std::vector<SessionFacts> facts;
  for (const Slot& slot : slots_) {
    const std::span<const int32_t> held = slot.session->tokens();
    const auto [end, unused] = std::mismatch(held.begin(), held.end(), prompt.begin(), prompt.end());
    facts.push_back({static_cast<int64_t>(held.size()), end - held.begin(), slot.last_used});
  }
  const size_t index = pick_session(facts, static_cast<int64_t>(prompt.size()), session_limit_);
  if (index == slots_.size()) {
    MOEBIUS_ASSIGN(std::unique_ptr<Session> session, engine_.new_session());
    slots_.push_back({std::move(session)});
  }
  slots_[index].last_used = ++uses_;
  return &slots_[index];
}

// All n answers to one prompt, on one session: the prompt is computed once.
Status EngineWorker::answer(Ticket& ticket, size_t prompt, Slot& slot) {
  const Generation& generation = ticket.generation_;
  for (int i = 0; i < generation.n; ++i) {
    const int choice = static_cast<int>(prompt) * generation.n + i;
    GenerateOptions options = generation.options;
    options.sampling.seed += static_cast<uint64_t>(i);
    const int64_t room = slot.session->context() - static_cast<int64_t>(generation.prompts[prompt].size());
    if (options.max_tokens < 0 || options.max_tokens > room) options.max_tokens = room;
    const auto on_piece = [&](const Piece& piece) {
      ticket.post(piece_event(piece, choice));
      return !ticket.cancelled();
    };
    const auto progress = [&](int64_t, int64_t) { return !ticket.cancelled(); };
    if (ticket.cancelled()) return cancelled_status();
    Result<GenerateStats> stats =
        engine_.generate(*slot.session, generation.prompts[prompt], options, on_piece, progress);
    if (!stats.ok()) return stats.status();
    if (stats->finish == FinishReason::kCancelled) return cancelled_status();
    GenerationEvent done = event_of(GenerationEvent::Kind::kChoiceDone, choice);
    done.stats = std::move(*stats);
    ticket.post(std::move(done));
  }
  return {};
}

}  // namespace moebius
