// What the scheduler computes in a step.
#include <algorithm>

#include "engine/scheduler_impl.h"

namespace moebius {

ScheduledPrompt* Scheduler::Impl::choose_prompt() {
  std::vector<ScheduledPrompt*> candidates;
  std::vector<PromptFacts> facts;
  for (ScheduledPrompt& p : prompts) {
    if (p.ready) continue;
    int64_t rest = p.rest();
    if (!p.looked_up && !p.request.asked.embed) rest -= prefixes.known(p.request.space, p.ids);
    candidates.push_back(&p);
    facts.push_back({rest, p.request.arrival});
  }
  if (candidates.empty()) return nullptr;
  ScheduledPrompt* chosen = candidates[pick_prompt(facts, ++turn)];
  if (!chosen->looked_up) look_up(*chosen);
  // There is one streamed prefill: who needs it while another has it lets that one go on.
  const bool streams = chosen == streaming || can_stream(*chosen);
  return streams && streaming ? streaming : chosen;
}

// A pass of the streamed prefill shows no hidden states.
bool Scheduler::Impl::can_stream(const ScheduledPrompt& prompt) const {
  return !prompt.request.asked.embed && prompt.session->impl().streaming_pays(prompt.rest());
}

// An embedding is made of the hidden states of all tokens, which the cache does not hold.
void Scheduler::Impl::look_up(ScheduledPrompt& prompt) {
  prompt.looked_up = true;
  if (prompt.request.asked.embed) return;
  const PrefixMatch match = prefixes.find(prompt.request.space, prompt.ids, std::ssize(prompt.ids) - 1);
  Session::Impl& timeline = prompt.session->impl();
  parts.cache.share(match.pages, timeline.pages);
  timeline.tokens.assign(prompt.ids.begin(), prompt.ids.begin() + match.tokens);
  prompt.reused = match.tokens, prompt.miss = match.miss;
  prompt.request.ticket->prompt_done_ += match.tokens;
}

std::span<const int32_t> Scheduler::Impl::part_of(const ScheduledPrompt& prompt, int64_t others) const {
  const int64_t most = others > 0 ? std::min(parts.chunk, options.busy_chunk) : parts.chunk;
  const std::span<const int32_t> rest = std::span(prompt.ids).subspan(prompt.session->tokens().size());
  return rest.first(static_cast<size_t>(prompt_part(std::ssize(rest), most)));
}

// One pass: a token of every answer, and a part of the prompt, if there is one.
void Scheduler::Impl::extend_all(ScheduledPrompt* prompt, StepReport& report) {
  std::vector<Extension> all;
  std::vector<ScheduledAnswer*> extended;
  for (ScheduledAnswer& a : answers) {
    if (a.ended || a.prompt.request.over) continue;
    all.push_back({&a.session->impl(), {&a.next, 1}});
    extended.push_back(&a);
  }
  report.answers = std::ssize(all);
  if (prompt) {
    const std::span<const int32_t> part = part_of(*prompt, std::ssize(all));
    report.prompt_tokens = std::ssize(part);
    const bool embed = prompt->request.asked.embed, last = std::ssize(part) == prompt->rest();
    all.push_back({&prompt->session->impl(), part, last && !embed, embed ? &prompt->sum : nullptr});
  }
  if (all.empty()) return;
  int64_t pages = 0;
  for (const Extension& e : all) {
    const int64_t done = std::ssize(e.session->tokens);
    pages += parts.cache.pages_to_reserve(e.session->pages, done, done + std::ssize(e.ids));
  }
  prefixes.make_room(pages);
  const Status status = extend(all);
  unsettled = status.ok() && extended.empty() && prompt && prompt->rest() > 0;
  if (!status.ok()) {
    streaming = nullptr;  // what was queued of its pass may not have been done: it begins again
    for (const ScheduledAnswer* a : extended) fail(a->prompt.request, status);
    if (prompt) fail(prompt->request, status);
    return;
  }
  for (ScheduledAnswer* a : extended) take_token(*a);
  if (!prompt) return;
  prompt->request.ticket->prompt_done_ += report.prompt_tokens;
  if (prompt->rest() == 0) prompt_ready(*prompt);
}

void Scheduler::Impl::slice(ScheduledPrompt& prompt) {
  Session::Impl& timeline = prompt.session->impl();
  const auto go_on = [&]() -> Result<bool> {
    if (!streaming) {
      const int64_t done = std::ssize(timeline.tokens);
      const int64_t n = std::min(prompt.rest(), parts.prefill->pass_tokens());
      prefixes.make_room(parts.cache.pages_to_reserve(timeline.pages, done, done + n));
      MOEBIUS_TRY(timeline.begin_streamed(prompt.ids));
      streaming = &prompt;
    } else if (unsettled) {
      MOEBIUS_TRY(timeline.settle());
    }
    return timeline.slice_streamed(prompt.ids);
  };
  const int64_t before = std::ssize(timeline.tokens);
  const Result<bool> passed = go_on();
  unsettled = false;
  if (!passed.ok()) {
    streaming = nullptr;
    return fail(prompt.request, passed.status());
  }
  if (!*passed) return;
  streaming = nullptr;
  prompt.request.ticket->prompt_done_ += std::ssize(timeline.tokens) - before;
  if (prompt.rest() == 0) prompt_ready(prompt);
}

StepReport Scheduler::Impl::step() {
  take_arrivals();
  for (ScheduledRequest& r : requests)
    if (r.ticket->cancelled()) fail(r, cancelled_status());
  sweep();
  admit();
  sweep();
  StepReport report;
  ScheduledPrompt* prompt = choose_prompt();
  const bool streams = prompt && (prompt == streaming || can_stream(*prompt));
  extend_all(streams ? nullptr : prompt, report);
  if (streams && !prompt->request.over) {
    slice(*prompt);
    report.sliced = true;
  }
  sweep();
  report_stats();
  report.idle = requests.empty();
  return report;
}

}  // namespace moebius
