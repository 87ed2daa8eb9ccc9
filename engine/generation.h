// What is asked of the scheduler, and what comes back: values and the queue between its thread and the one
// that waits for an answer.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace moebius {

inline constexpr int kMostPriority = 16;

// n answers to each of some prompts, in this order: prompt 0's n answers, prompt 1's, ...
struct Generation {
  std::vector<std::vector<int32_t>> prompts;  // each with room for a token in the context
  int n = 1;
  GenerateOptions options;                // answer i of a prompt uses seed + i
  std::shared_ptr<BatchAdapter> adapter;  // of the engine; null: the model as it is
  // No answers: of each prompt the mean of its tokens' last hidden states, after the final norm; n is 1.
  bool embed = false;
  std::string cache_salt;  // what was computed is shared by requests of one salt only
  int priority = 0;        // [-kMostPriority, kMostPriority], the higher goes first
};

struct GenerationEvent {
  enum class Kind : uint8_t {
    kPiece,       // text and, unless it is the rest at the end, a token
    kChoiceDone,  // stats of one answer
    kDone,        // of all; the last event
    kFailed,      // status; the last event. kCancelled: by the ticket or because the scheduler stops
  };
  Kind kind = Kind::kPiece;
  int choice = 0;
  std::string text, reasoning;
  std::vector<CallPiece> calls;
  int32_t id = -1;
  TokenProbability chosen;
  std::vector<TokenProbability> alternatives;
  GenerateStats stats;
  std::vector<float> embedding;  // [hidden], of a kChoiceDone of Generation::embed
  Status status;

  static GenerationEvent of(Kind kind, int choice = 0);
  static GenerationEvent of(const Piece& piece, int choice);
  static GenerationEvent failed(Status status);
};

// One submitted generation, shared by the scheduler and the thread that waits for the answer.
class Ticket {
 public:
  explicit Ticket(Generation generation);

  // The next event; nothing when none came within `wait`.
  std::optional<GenerationEvent> next(std::chrono::milliseconds wait);
  void cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }
  // Of all prompts together: tokens that are in the cache by now, or as many as the share of a streamed pass
  // that is done, and in all.
  int64_t prompt_tokens_done() const { return prompt_done_; }
  int64_t prompt_tokens() const { return prompt_tokens_; }
  int64_t prompt_tokens_cached() const { return prompt_cached_; }  // of those done, found there
  // When the first prompt was begun; the epoch of the clock: it waits.
  std::chrono::steady_clock::time_point begun() const { return begun_; }

 private:
  friend class Scheduler;
  void post(GenerationEvent event);

  const Generation generation_;
  int64_t prompt_tokens_ = 0;
  std::atomic<int64_t> prompt_done_ = 0, prompt_cached_ = 0;
  std::atomic<std::chrono::steady_clock::time_point> begun_ = {};
  std::atomic<bool> cancelled_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<GenerationEvent> events_;
};

}  // namespace moebius
