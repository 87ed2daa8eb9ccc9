#include "engine/zeda/answers.h"

#include <algorithm>
#include <deque>

#include <fmt/format.h>

#include "engine/scheduler.h"

namespace moebius {
namespace {

// Answers that wait for one before them take memory but no place in the engine.
constexpr int64_t kAhead = 4;  // times the engine's sequences

}  // namespace

struct AnswerSampler::Pending {
  std::shared_ptr<Ticket> ticket;
  SampledAnswer answer;
  bool done = false;
};

AnswerSampler::AnswerSampler(Engine& engine)
    : engine_(engine),
      scheduler_(std::make_unique<Scheduler>(
          engine, SchedulerOptions{.queue = kAhead * engine.options().sessions})) {}
AnswerSampler::~AnswerSampler() = default;

Result<bool> AnswerSampler::submit(const std::vector<int32_t>& prompt, int64_t number,
                                   const SampleOptions& options, Pending& pending) {
  const int64_t room = engine_.options().context - std::ssize(prompt);
  if (room < 1) {
    return invalid(fmt::format("prompt {} has {} tokens, and the context of {} has no room for an answer",
                               number, prompt.size(), engine_.options().context));
  }
  Generation generation;
  generation.prompts = {prompt};
  GenerateOptions& how = generation.options;
  how.sampling.temperature = options.temperature;
  how.sampling.seed = options.seed * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(number);
  how.max_tokens = std::min(options.max_tokens, room);
  how.ignore_eos = true;  // so that the stop id comes as a token, with its probability
  how.top_logprobs = 0;
  generation.cache_salt = options.state;
  MOEBIUS_ASSIGN(pending.ticket, scheduler_->submit(std::move(generation)));
  return pending.ticket != nullptr;
}

// What has come for an answer; after its stop id, nothing counts.
Status AnswerSampler::collect(Pending& pending) {
  const std::vector<int32_t>& stops = engine_.generation().eos_ids;
  while (!pending.done) {
    const auto event = pending.ticket->next(std::chrono::milliseconds(0));
    if (!event) return Status();
    if (event->kind == GenerationEvent::Kind::kFailed) return event->status;
    pending.done = event->kind != GenerationEvent::Kind::kPiece;
    if (event->id < 0) continue;
    pending.answer.ids.push_back(event->id);
    pending.answer.logprobs.push_back(event->chosen.logprob);
    pending.answer.ended = std::ranges::find(stops, event->id) != stops.end();
    pending.done = pending.done || pending.answer.ended;
    if (pending.answer.ended) pending.ticket->cancel();
  }
  return Status();
}

Status AnswerSampler::run(std::span<const std::vector<int32_t>> prompts, const SampleOptions& options,
                          const OnAnswer& on_answer) {
  const size_t most = static_cast<size_t>(kAhead * engine_.options().sessions);
  std::deque<Pending> pending;
  for (size_t next = 0, front = 0; front < prompts.size();) {
    while (next < prompts.size() && pending.size() < most) {
      Pending one;
      MOEBIUS_ASSIGN(const bool taken,
                     submit(prompts[next], options.first + static_cast<int64_t>(next), options, one));
      if (!taken) break;
      pending.push_back(std::move(one)), ++next;
    }
    scheduler_->step();
    for (Pending& one : pending) MOEBIUS_TRY(collect(one));
    for (; !pending.empty() && pending.front().done; pending.pop_front(), ++front)
      MOEBIUS_TRY(on_answer(static_cast<int64_t>(front), std::move(pending.front().answer)));
  }
  // Answers that went on after their end must not be company of the next ones: float rows would feel it.
  while (!scheduler_->step().idle) {
  }
  return Status();
}

}  // namespace moebius
