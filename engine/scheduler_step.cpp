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
  if (!chosen->looked_up) return nullptr;  // the others go on, and this one reads on in the next step
  // There is one streamed prefill: who needs it while another has it lets that one go on.
  const bool streams = chosen == streaming || can_stream(*chosen);
  return streams && streaming ? streaming : chosen;
}

// A pass of the streamed prefill shows no hidden states.
bool Scheduler::Impl::can_stream(const ScheduledPrompt& prompt) const {
  return !prompt.request.asked.embed && prompt.session->impl().streaming_pays(prompt.rest());
}

// Takes over what memory has of a prompt, then what the disk has, some pages a step. An embedding is made of
// the hidden states of all tokens, which neither has.
void Scheduler::Impl::look_up(ScheduledPrompt& prompt) {
  Ticket& ticket = *prompt.request.ticket;
  if (ticket.begun() == SchedulerClock::time_point()) ticket.begun_ = prompt.begun;
  if (prompt.request.asked.embed) {
    prompt.looked_up = true;
    return;
  }
  if (!prompt.found) {
    const PrefixMatch match = prefixes.find(prompt.request.space, prompt.ids, std::ssize(prompt.ids) - 1);
    Session::Impl& timeline = prompt.session->impl();
    parts.cache.share(match.pages, timeline.pages);
    timeline.tokens.assign(prompt.ids.begin(), prompt.ids.begin() + match.tokens);
    prompt.found = true;
    prompt.miss = match.miss;
  }
  prompt.looked_up = !store || !read_from_disk(prompt);
  if (!prompt.looked_up) return;
  prompt.reused = std::ssize(prompt.session->tokens());
  ticket.prompt_cached_ += prompt.reused;
  ticket.prompt_done_ += prompt.reused;
}

// The pages that follow those of the timeline, as far as the store has them. True: there may be more.
bool Scheduler::Impl::read_from_disk(ScheduledPrompt& prompt) {
  Session::Impl& timeline = prompt.session->impl();
  const std::span<const int32_t> ids(prompt.ids);
  const auto page_of = [&](int64_t page) {
    return ids.subspan(static_cast<size_t>(page * kPageTokens), kPageTokens);
  };
  int64_t page = std::ssize(timeline.tokens) / kPageTokens;
  PrefixKey key = prefix_root(prompt.request.space);
  for (int64_t p = 0; p < page; ++p) key = prefix_child(key, page_of(p));
  std::vector<char> bytes;
  for (int64_t read = 0; (page + 1) * kPageTokens < std::ssize(ids); ++page, read += std::ssize(bytes)) {
    const PrefixKey next = prefix_child(key, page_of(page));
    if (!store->has(next)) return false;
    if (read > 0 && read >= options.read_bytes) return true;
    bytes.resize(static_cast<size_t>(parts.cache.page_bytes()));
    if (!store->get(key, page_of(page), bytes)) return false;
    const int64_t from = page * kPageTokens, to = from + kPageTokens;
    prefixes.make_room(parts.cache.pages_to_reserve(timeline.pages, from, to));
    timeline.tokens.resize(static_cast<size_t>(from));  // what was known of this page is in it, too
    if (!parts.cache.reserve(timeline.pages, from, to).ok()) return false;
    if (!parts.cache.write_page(timeline.pages.pages[static_cast<size_t>(page)], bytes).ok()) return false;
    timeline.tokens.assign(ids.begin(), ids.begin() + to);
    disk_tokens += kPageTokens;
    prompt.miss = to + 1 == std::ssize(ids) ? CacheMiss::kNone : CacheMiss::kEnds;
    key = next;
  }
  return false;
}

std::span<const int32_t> Scheduler::Impl::part_of(const ScheduledPrompt& prompt, int64_t others) const {
  const int64_t most = others > 0 ? std::min(parts.chunk, options.busy_chunk) : parts.chunk;
  const std::span<const int32_t> rest = std::span(prompt.ids).subspan(prompt.session->tokens().size());
  return rest.first(static_cast<size_t>(prompt_part(std::ssize(rest), most)));
}

// One pass: a token of every answer, and a part of the prompt, if there is one.
void Scheduler::Impl::extend_all(ScheduledPrompt* prompt, SchedulerStep& report) {
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
  if (status.ok() && extended.empty() && prompt && prompt->rest() > 0) unsettled = prompt;
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
    }
    return timeline.slice_streamed(prompt.ids);
  };
  const int64_t before = std::ssize(timeline.tokens);
  const Result<bool> passed = go_on();
  if (!passed.ok()) {
    streaming = nullptr;
    return fail(prompt.request, passed.status());
  }
  // Of a pass that goes on, as much as its share of the work.
  const auto share = static_cast<double>(std::ssize(parts.prefill->ids())) * parts.prefill->part_done();
  const int64_t done = *passed ? std::ssize(timeline.tokens) - before : static_cast<int64_t>(share);
  prompt.request.ticket->prompt_done_ += done - std::exchange(prompt.pass_done, *passed ? 0 : done);
  if (!*passed) return;
  streaming = nullptr;
  if (prompt.rest() == 0) prompt_ready(prompt);
}

// Whose pass was not waited for hears of its error.
void Scheduler::Impl::settle() {
  ScheduledPrompt* const prompt = std::exchange(unsettled, nullptr);
  if (!prompt) return;
  const Status status = prompt->session->impl().settle();
  if (!status.ok()) fail(prompt->request, status);
}

SchedulerStep Scheduler::Impl::step() {
  settle();
  take_arrivals();
  for (ScheduledRequest& r : requests)
    if (r.ticket->cancelled()) fail(r, cancelled_status());
  sweep();
  admit();
  sweep();
  SchedulerStep report;
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
