// Scheduler: many generations on one engine at once. Every step takes all answers on their way one token
// further, in one pass over the weights, and in the same pass a bounded part of one prompt that waits; a long
// prompt through a device goes in slices between steps (engine/prefill.h). What was computed is kept for
// requests that begin alike (engine/prefix_cache.h), and answers' own tokens come back as they were
// (engine/replay.h).
//
// A request is begun when a place is free and the cache holds all that it may come to need beside all that
// others may: no answer is ever given up for want of memory. Requests that do not fit now wait in turn
// (engine/schedule.h).
//
// At temperature 0 an answer does not depend on what else is on its way, in the sense of design rule 6: rows
// of integer formats do not depend on their company, and prompts are cut where it makes no difference
// (prompt_part).
#pragma once

#include <memory>
#include <string_view>

#include "engine/generation.h"
#include "engine/prefix_store.h"

namespace moebius {

struct SchedulerOptions {
  int64_t queue = 64;  // requests that wait at most, beside those that are begun
  // Tokens of a prompt in a step in which others decode: what they wait for each of theirs.
  int64_t busy_chunk = 64;
  int64_t replay_bytes = 64 << 20;  // of texts and tokens that are remembered
  // Of prefixes on disk: bytes of a prompt's pages that are read in a step, at least a page.
  int64_t read_bytes = 32 << 20;
};

struct SchedulerStep {
  int64_t answers = 0;        // that got a token
  int64_t prompt_tokens = 0;  // computed, of one prompt
  bool sliced = false;        // a slice of a streamed prompt
  bool idle = false;          // nothing is left to do
};

struct SchedulerStats {
  int64_t running = 0, waiting = 0;                     // requests begun; requests in the queue
  int64_t pages = 0, pages_free = 0, pages_cached = 0;  // of the attention cache
  int64_t pages_committed = 0;                          // that what is begun holds or may come to need
  int64_t disk_tokens = 0;                              // of prompts, read from disk since the start
  PrefixStore::Stats disk;
};

class Scheduler {
 public:
  // The engine outlives it, has a tokenizer, and is used by nobody else, its const members apart. So many
  // answers as the engine's options have sessions are on their way at once.
  // store: for pages of prefixes that give way to others, and for all at the end; null: they are forgotten.
  Scheduler(Engine& engine, SchedulerOptions options, std::unique_ptr<PrefixStore> store = nullptr);
  ~Scheduler();  // cancels everything; run() must have returned

  // From any thread.
  // The tokens of a rendered conversation, with answers of before in the tokens they were made of.
  Result<std::vector<int32_t>> encode(std::string_view text, const std::string& cache_salt,
                                      const BatchAdapter* adapter = nullptr) const;
  // A null pointer: the queue is full. kInvalid: what can never be done, such as more tokens than the cache
  // holds, and how many it would have to hold.
  Result<std::shared_ptr<Ticket>> submit(Generation generation);
  // As Ticket::cancel() of all: they fail in the next step. A cancelled ticket has no place in the queue.
  void cancel_all();
  SchedulerStats stats() const;

  // From one thread.
  SchedulerStep step();
  void run();  // steps, and waits for work, until stop() is called by another thread
  void stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moebius
