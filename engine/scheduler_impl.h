// The inside of the Scheduler: requests, their prompts and their answers.
#pragma once

#include <condition_variable>
#include <list>
#include <mutex>

#include "engine/generator.h"
#include "engine/prefix_cache.h"
#include "engine/replay.h"
#include "engine/schedule.h"
#include "engine/scheduler.h"
#include "engine/session.h"

namespace moebius {

using SchedulerClock = std::chrono::steady_clock;

inline Status cancelled_status() { return {Code::kCancelled, "the request was cancelled"}; }

struct ScheduledRequest {
  std::shared_ptr<Ticket> ticket;
  const Generation& asked;
  std::string space;  // of the prefix cache
  uint64_t arrival = 0;
  int64_t overtaken = 0;
  size_t prompt =
      0;  // the next answer to begin is number `choice` of this prompt; none when they are all begun
  int choice = 0;
  int64_t running = 0;  // answers begun and not ended
  int64_t ended = 0;
  bool over = false;  // all is said; what is left of it is swept away at the end of the step

  bool waits() const { return !over && prompt < asked.prompts.size(); }
  bool begun() const { return prompt > 0 || choice > 0; }
};

// A prompt that is being computed, or held for answers that are not begun.
struct ScheduledPrompt {
  ScheduledRequest& request;
  const std::vector<int32_t>& ids;
  int first_choice = 0;
  PageNeeds pages;
  std::unique_ptr<Session> session;  // its timeline; null when the last answer has taken it over
  bool looked_up = false, ready = false;
  bool found = false;  // in memory; what is on disk may follow
  int64_t reused = 0;
  int64_t pass_done = 0;  // tokens that a streamed pass on its way was said to have done
  CacheMiss miss = CacheMiss::kNone;
  int64_t ended = 0;          // answers
  std::vector<double> sum{};  // of hidden states, for an embedding
  SchedulerClock::time_point begun{};
  double seconds = 0;  // that it took

  int64_t rest() const { return std::ssize(ids) - std::ssize(session->tokens()); }
};

struct ScheduledAnswer {
  ScheduledAnswer(ScheduledPrompt& of, int number, const GenerateOptions& how)
      : prompt(of), choice(number), options(how) {}

  ScheduledPrompt& prompt;
  const int choice;
  GenerateOptions options;  // that the generator refers to
  std::unique_ptr<Session> session;
  std::optional<Generator> generator;
  std::vector<int32_t> ids;  // that were shown
  int32_t next = -1;         // to be put on the timeline
  bool ended = false;
  SchedulerClock::time_point begun{};
};

struct Scheduler::Impl {
  Impl(Engine& e, SchedulerOptions o, std::unique_ptr<PrefixStore> store);
  ~Impl();

  // engine/scheduler.cpp: what other threads do, and the loop.
  Result<std::shared_ptr<Ticket>> submit(Generation generation);
  Status check(const Generation& generation) const;
  std::string space_of(const std::string& salt, const BatchAdapter* adapter) const;
  void take_arrivals();
  int64_t in_queue() const;  // with the mutex locked
  void report_stats();

  // engine/scheduler_admit.cpp: what is begun, and what ends.
  void admit();
  bool begin_next();
  Result<std::unique_ptr<Session>> new_session(ScheduledRequest& request);
  bool begin_prompt(ScheduledRequest& request);
  bool begin_follower(ScheduledRequest& request);
  void begin_answer(ScheduledPrompt& prompt, int choice);
  bool fork(ScheduledPrompt& prompt, ScheduledAnswer& answer);
  int64_t places_free() const;
  int64_t answer_tokens(const ScheduledRequest& request, size_t prompt) const;
  void prompt_ready(ScheduledPrompt& prompt);
  void take_token(ScheduledAnswer& answer);
  void finish(ScheduledAnswer& answer);
  void finish_embedding(ScheduledPrompt& prompt);
  void count_ended(ScheduledRequest& request);
  void fail(ScheduledRequest& request, Status status);
  void end(ScheduledRequest& request, GenerationEvent last);
  void keep(const ScheduledRequest& request, Session& session);
  void sweep();

  // engine/scheduler_step.cpp: what is computed.
  SchedulerStep step();
  void settle();
  ScheduledPrompt* choose_prompt();
  bool can_stream(const ScheduledPrompt& prompt) const;
  void look_up(ScheduledPrompt& prompt);
  bool read_from_disk(ScheduledPrompt& prompt);
  std::span<const int32_t> part_of(const ScheduledPrompt& prompt, int64_t answers) const;
  void extend_all(ScheduledPrompt* prompt, SchedulerStep& report);
  void slice(ScheduledPrompt& prompt);

  Engine& engine;
  const SchedulerOptions options;
  SessionParts& parts;
  const std::unique_ptr<PrefixStore> store;
  PrefixCache prefixes;
  Replay replay;

  // Of the thread that steps.
  std::list<ScheduledRequest> requests;
  std::list<ScheduledPrompt> prompts;
  std::list<ScheduledAnswer> answers;
  ScheduledPrompt* streaming = nullptr;                 // whose pass of the streamed prefill has begun
  int64_t committed = 0;                                // pages that all that is begun may come to need
  std::vector<std::shared_ptr<BatchAdapter>> adapters;  // in use lately, so that they end on this thread
  uint64_t arrivals = 0, turn = 0;
  ScheduledPrompt* unsettled = nullptr;  // whose part was computed last, and not waited for

  mutable std::mutex mutex;
  std::condition_variable changed;
  struct Live {
    std::shared_ptr<Ticket> ticket;
    bool begun = false;
  };
  std::vector<Live> live;                       // all that is submitted and not over
  std::deque<std::shared_ptr<Ticket>> arrived;  // of these, not seen by the thread that steps
  bool busy = false, stopping = false;
  SchedulerStats last_stats;  // after the last step
  int64_t disk_tokens = 0;    // as SchedulerStats'
};

}  // namespace moebius
