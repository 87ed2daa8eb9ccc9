// What the scheduler begins, and how answers end.
#include <algorithm>

#include "engine/scheduler_impl.h"

namespace moebius {

int64_t Scheduler::Impl::places_free() const {
  const int64_t computed = std::ranges::count_if(prompts, [](const auto& p) { return !p.ready; });
  return engine.options().sessions - computed - std::ssize(answers);
}

int64_t Scheduler::Impl::answer_tokens(const ScheduledRequest& request, size_t prompt) const {
  if (request.asked.embed) return 0;
  const int64_t room = parts.context - std::ssize(request.asked.prompts[prompt]);
  const int64_t most = request.asked.options.max_tokens;
  return most < 0 ? room : std::min(most, room);
}

// With the request's adapter; the request fails where there is no room for that.
Result<std::unique_ptr<Session>> Scheduler::Impl::new_session(ScheduledRequest& request) {
  const std::shared_ptr<BatchAdapter>& adapter = request.asked.adapter;
  Result<std::unique_ptr<Session>> session = engine.new_session(adapter);
  if (!session.ok()) fail(request, session.status());
  if (session.ok() && adapter && std::ranges::find(adapters, adapter) == adapters.end())
    adapters.push_back(adapter);
  return session;
}

void Scheduler::Impl::admit() {
  while (places_free() > 0 && begin_next()) {
  }
}

// A request that does not fit keeps all later ones from being begun, but not those that are from going on: so
// pages that these hold come free again.
bool Scheduler::Impl::begin_next() {
  std::vector<ScheduledRequest*> candidates;
  std::vector<WaitingFacts> facts;
  for (ScheduledRequest& r : requests) {
    if (!r.waits()) continue;
    candidates.push_back(&r);
    facts.push_back({r.asked.priority, r.overtaken, r.running, r.arrival});
  }
  bool one_waits = false;
  for (const size_t i : order_of_waiting(facts)) {
    ScheduledRequest& r = *candidates[i];
    if (r.choice > 0 ? begin_follower(r) : !one_waits && begin_prompt(r)) {
      if (++r.choice == r.asked.n) r.choice = 0, ++r.prompt;
      return true;
    }
    one_waits |= r.choice == 0;
  }
  return false;
}

bool Scheduler::Impl::begin_prompt(ScheduledRequest& request) {
  const std::vector<int32_t>& ids = request.asked.prompts[request.prompt];
  const PageNeeds needs =
      page_needs(std::ssize(ids), answer_tokens(request, request.prompt), request.asked.n);
  if (committed + needs.prompt + needs.answer > parts.cache.pages()) return false;
  Result<std::unique_ptr<Session>> session = new_session(request);
  if (!session.ok()) return false;
  if (!request.begun()) {
    {
      std::lock_guard lock(mutex);
      for (Live& l : live) l.begun |= l.ticket == request.ticket;
    }
    for (ScheduledRequest& other : requests)
      other.overtaken += other.waits() && !other.begun() && other.arrival < request.arrival;
  }
  committed += needs.prompt + needs.answer;
  const int first = static_cast<int>(request.prompt) * request.asked.n;
  prompts.push_back({request, ids, first, needs, std::move(*session)});
  prompts.back().begun = SchedulerClock::now();
  if (request.asked.embed) prompts.back().sum.resize(static_cast<size_t>(engine.config().hidden));
  ++request.running;
  return true;
}

bool Scheduler::Impl::begin_follower(ScheduledRequest& request) {
  const std::vector<int32_t>& ids = request.asked.prompts[request.prompt];
  const auto prompt = std::ranges::find_if(prompts, [&](const ScheduledPrompt& p) { return &p.ids == &ids; });
  if (!prompt->ready || committed + prompt->pages.answer > parts.cache.pages()) return false;
  committed += prompt->pages.answer;
  ++request.running;
  begin_answer(*prompt, request.choice);
  return true;
}

// The prompt's tokens, pages and logits.
bool Scheduler::Impl::fork(ScheduledPrompt& prompt, ScheduledAnswer& answer) {
  Result<std::unique_ptr<Session>> session = new_session(prompt.request);
  if (!session.ok()) return false;
  const Session::Impl& from = prompt.session->impl();
  Session::Impl& to = (*session)->impl();
  parts.cache.share(from.pages.pages, to.pages);
  to.tokens = from.tokens;
  to.logits = from.logits;
  answer.session = std::move(*session);
  return true;
}

void Scheduler::Impl::begin_answer(ScheduledPrompt& prompt, int choice) {
  const ScheduledRequest& request = prompt.request;
  ScheduledAnswer& answer = answers.emplace_back(prompt, prompt.first_choice + choice, request.asked.options);
  answer.options.sampling.seed += static_cast<uint64_t>(choice);
  answer.options.max_tokens =
      answer_tokens(request, static_cast<size_t>(prompt.first_choice / request.asked.n));
  answer.begun = SchedulerClock::now();
  if (choice + 1 == request.asked.n) {
    answer.session = std::move(prompt.session);
  } else if (!fork(prompt, answer)) {
    return;
  }
  answer.generator.emplace(engine, prompt.ids, answer.options);
  take_token(answer);
}

void Scheduler::Impl::prompt_ready(ScheduledPrompt& prompt) {
  if (prompt.request.asked.embed) return finish_embedding(prompt);
  prompt.ready = true;
  prompt.seconds = seconds_since(prompt.begun);
  // The last page of it, where it is not full, is still written into.
  const int64_t whole = std::ssize(prompt.ids) / kPageTokens;
  const std::vector<int32_t>& pages = prompt.session->impl().pages.pages;
  prefixes.keep(prompt.request.space, std::span(prompt.ids).first(static_cast<size_t>(whole * kPageTokens)),
                std::span(pages).first(static_cast<size_t>(whole)));
  begin_answer(prompt, 0);
}

void Scheduler::Impl::take_token(ScheduledAnswer& answer) {
  ScheduledRequest& request = answer.prompt.request;
  Result<std::optional<int32_t>> id =
      answer.generator->advance(answer.session->logits(), [&](const Piece& piece) {
        if (piece.id >= 0) answer.ids.push_back(piece.id);
        request.ticket->post(GenerationEvent::of(piece, answer.choice));
        return !request.ticket->cancelled();
      });
  if (!id.ok()) return fail(request, id.status());
  if (*id) {
    answer.next = **id;
  } else {
    finish(answer);
  }
}

void Scheduler::Impl::finish(ScheduledAnswer& answer) {
  ScheduledPrompt& prompt = answer.prompt;
  ScheduledRequest& request = prompt.request;
  GenerateStats stats = answer.generator->stats();
  if (stats.finish == FinishReason::kCancelled) return fail(request, cancelled_status());
  const bool first = answer.choice == prompt.first_choice;
  stats.reused_tokens = first ? prompt.reused : std::ssize(prompt.ids);
  stats.miss = first ? prompt.miss : CacheMiss::kNone;
  stats.prefill_s = first ? prompt.seconds : 0;
  stats.decode_s = seconds_since(answer.begun);
  GenerationEvent done = GenerationEvent::of(GenerationEvent::Kind::kChoiceDone, answer.choice);
  done.stats = std::move(stats);
  request.ticket->post(std::move(done));
  answer.ended = true;
  --request.running;
  std::vector<int32_t> all = prompt.ids;
  all.insert(all.end(), answer.ids.begin(), answer.ids.end());
  replay.remember(request.space, all);
  count_ended(request);
}

void Scheduler::Impl::finish_embedding(ScheduledPrompt& prompt) {
  GenerationEvent done = GenerationEvent::of(GenerationEvent::Kind::kChoiceDone, prompt.first_choice);
  const double tokens = static_cast<double>(prompt.ids.size());
  for (const double sum : prompt.sum) done.embedding.push_back(static_cast<float>(sum / tokens));
  done.stats.prompt_tokens = std::ssize(prompt.ids);
  done.stats.prefill_s = seconds_since(prompt.begun);
  prompt.request.ticket->post(std::move(done));
  ++prompt.ended;
  --prompt.request.running;
  count_ended(prompt.request);
}

void Scheduler::Impl::count_ended(ScheduledRequest& request) {
  if (++request.ended < std::ssize(request.asked.prompts) * request.asked.n) return;
  end(request, GenerationEvent::of(GenerationEvent::Kind::kDone));
}

void Scheduler::Impl::fail(ScheduledRequest& request, Status status) {
  if (!request.over) end(request, GenerationEvent::failed(std::move(status)));
}

void Scheduler::Impl::end(ScheduledRequest& request, GenerationEvent last) {
  request.over = true;
  {
    std::lock_guard lock(mutex);
    std::erase_if(live, [&](const Live& l) { return l.ticket == request.ticket; });
  }
  request.ticket->post(std::move(last));
}

void Scheduler::Impl::keep(const ScheduledRequest& request, Session& session) {
  prefixes.keep(request.space, session.tokens(), session.impl().pages.pages);
}

// What has ended gives its places and pages back; what it computed stays in the cache until others need it.
void Scheduler::Impl::sweep() {
  std::erase_if(answers, [&](ScheduledAnswer& a) {
    if (!a.ended && !a.prompt.request.over) return false;
    if (a.session) keep(a.prompt.request, *a.session);
    ++a.prompt.ended;
    committed -= a.prompt.pages.answer;
    return true;
  });
  std::erase_if(prompts, [&](ScheduledPrompt& p) {
    if (!p.request.over && p.ended < p.request.asked.n) return false;
    if (p.session) keep(p.request, *p.session);
    if (streaming == &p) streaming = nullptr;
    if (unsettled == &p) unsettled = nullptr;
    committed -= p.pages.prompt + (p.ready ? 0 : p.pages.answer);
    return true;
  });
  std::erase_if(requests, [](const ScheduledRequest& r) { return r.over; });
  std::erase_if(adapters, [](const std::shared_ptr<BatchAdapter>& a) { return a.use_count() == 1; });
}

}  // namespace moebius
