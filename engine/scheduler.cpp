#include "engine/scheduler.h"

#include <algorithm>

#include <fmt/format.h>

#include "engine/scheduler_impl.h"

namespace moebius {
namespace {

SessionParts& parts_of(Engine& engine) {
  Result<std::unique_ptr<Session>> session = engine.new_session();
  MOEBIUS_CHECK(session.ok(), session.status().message());
  return (*session)->impl().parts;
}

}  // namespace

constexpr const char* kReplayFile = "replay";  // in the store's folder

Scheduler::Impl::Impl(Engine& e, SchedulerOptions o, std::unique_ptr<PrefixStore> s)
    : engine(e),
      options(o),
      parts(parts_of(e)),
      store(std::move(s)),
      prefixes(parts.cache, store.get()),
      replay(e.tokenizer(), o.replay_bytes) {
  if (!store) return;
  // Without them, or with a broken file of them, earlier answers are computed again.
  const Result<std::string> saved = store->get_text(kReplayFile);
  if (saved.ok()) static_cast<void>(replay.restore(*saved));
}

Scheduler::Impl::~Impl() {
  take_arrivals();
  for (ScheduledRequest& request : requests) fail(request, cancelled_status());
  sweep();
  // A disk that is full costs the next run time, and nobody is left to hear of it.
  if (store) static_cast<void>(store->put_text(kReplayFile, replay.save()));
}

// What is not said to be shared is not.
std::string Scheduler::Impl::space_of(const std::string& salt, const BatchAdapter* adapter) const {
  return parts.fingerprint + '\n' + (adapter ? adapter->fingerprint() : "") + '\n' + salt;
}

Status Scheduler::Impl::check(const Generation& generation) const {
  MOEBIUS_CHECK(!generation.prompts.empty() && generation.n >= 1);
  MOEBIUS_TRY(generation.options.sampling.validate(engine.config().vocab));
  if (std::abs(generation.priority) > kMostPriority)
    return invalid(fmt::format("priority {} is out of range; give -{} to {}", generation.priority,
                               kMostPriority, kMostPriority));
  for (const std::vector<int32_t>& prompt : generation.prompts) {
    MOEBIUS_TRY(check_ids(parts, prompt));
    const int64_t tokens = std::ssize(prompt), room = generation.embed ? 0 : parts.context - tokens;
    if (room == 0 && !generation.embed)
      return invalid(fmt::format("the prompt fills the context of {} tokens; shorten it or raise --ctx-size",
                                 parts.context));
    const int64_t most = generation.options.max_tokens;
    const PageNeeds needs = page_needs(tokens, most < 0 ? room : std::min(most, room), generation.n);
    if (needs.prompt + needs.answer > parts.cache.pages())
      return invalid(
          fmt::format("this request may need {} tokens of cache, which holds {}; lower max_tokens, "
                      "or raise --cache-tokens to {}",
                      (needs.prompt + needs.answer) * kPageTokens, parts.cache.pages() * kPageTokens,
                      (needs.prompt + needs.answer) * kPageTokens));
  }
  return Status();
}

Result<std::shared_ptr<Ticket>> Scheduler::Impl::submit(Generation generation) {
  MOEBIUS_TRY(check(generation));
  auto ticket = std::make_shared<Ticket>(std::move(generation));
  {
    std::lock_guard lock(mutex);
    if (in_queue() >= options.queue) return std::shared_ptr<Ticket>();
    arrived.push_back(ticket);
    live.push_back({ticket});
  }
  changed.notify_one();
  return ticket;
}

void Scheduler::Impl::take_arrivals() {
  std::lock_guard lock(mutex);
  for (std::shared_ptr<Ticket>& ticket : arrived) {
    const Generation& asked = ticket->generation_;
    const std::string space = space_of(asked.cache_salt, asked.adapter.get());
    requests.push_back({std::move(ticket), asked, space, ++arrivals});
  }
  arrived.clear();
}

int64_t Scheduler::Impl::in_queue() const {
  return std::ranges::count_if(live, [](const Live& l) { return !l.begun && !l.ticket->cancelled(); });
}

void Scheduler::Impl::report_stats() {
  std::lock_guard lock(mutex);
  busy = !requests.empty();
  last_stats.running = std::ranges::count_if(requests, [](const auto& r) { return r.begun(); });
  last_stats.pages = parts.cache.pages(), last_stats.pages_free = parts.cache.free_pages();
  last_stats.pages_cached = prefixes.nodes(), last_stats.pages_committed = committed;
  last_stats.disk_tokens = disk_tokens;
}

Scheduler::Scheduler(Engine& engine, SchedulerOptions options, std::unique_ptr<PrefixStore> store)
    : impl_(std::make_unique<Impl>(engine, options, std::move(store))) {}
Scheduler::~Scheduler() = default;

Result<std::vector<int32_t>> Scheduler::encode(std::string_view text, const std::string& cache_salt,
                                               const BatchAdapter* adapter) const {
  return impl_->replay.encode(impl_->space_of(cache_salt, adapter), text);
}

Result<std::shared_ptr<Ticket>> Scheduler::submit(Generation generation) {
  return impl_->submit(std::move(generation));
}

void Scheduler::cancel_all() {
  std::lock_guard lock(impl_->mutex);
  for (const Impl::Live& l : impl_->live) l.ticket->cancel();
}

SchedulerStats Scheduler::stats() const {
  std::lock_guard lock(impl_->mutex);
  SchedulerStats stats = impl_->last_stats;
  stats.waiting = impl_->in_queue();
  if (impl_->store) stats.disk = impl_->store->stats();
  return stats;
}

SchedulerStep Scheduler::step() { return impl_->step(); }

void Scheduler::run() {
  while (true) {
    {
      std::unique_lock lock(impl_->mutex);
      impl_->changed.wait(lock, [this] { return impl_->stopping || impl_->busy || !impl_->arrived.empty(); });
      if (impl_->stopping) return;
    }
    impl_->step();
  }
}

void Scheduler::stop() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->changed.notify_all();
}

}  // namespace moebius
