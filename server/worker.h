// EngineWorker: the one thread that uses the engine. Requests wait in a bounded queue and are answered one
// after the other; each finds the session whose timeline has most in common with its prompt.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "engine/engine.h"

namespace moebius {

// n answers to each of some prompts, in this order: prompt 0's n answers, prompt 1's, ...
struct Generation {
  std::vector<std::vector<int32_t>> prompts;  // each with room for a token in the context
  int n = 1;
  GenerateOptions options;  // answer i of a prompt uses seed + i
};

struct GenerationEvent {
  enum class Kind : uint8_t {
    kPiece,       // text and, unless it is the rest at the end, a token
    kChoiceDone,  // stats of one answer
    kDone,        // of all; the last event
    kFailed,      // status; the last event. kCancelled: by the ticket or because the worker stops
  };
  Kind kind = Kind::kPiece;
  int choice = 0;
  std::string text, reasoning;
  std::vector<CallPiece> calls;
  int32_t id = -1;
  TokenProbability chosen;
  std::vector<TokenProbability> alternatives;
  GenerateStats stats;
  Status status;
};

// One submitted generation, shared by the worker and the thread that waits for the answer.
class Ticket {
 public:
  explicit Ticket(Generation generation) : generation_(std::move(generation)) {}

  // The next event; nothing when none came within `wait`.
  std::optional<GenerationEvent> next(std::chrono::milliseconds wait);
  void cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }

 private:
  friend class EngineWorker;
  void post(GenerationEvent event);

  const Generation generation_;
  std::atomic<bool> cancelled_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<GenerationEvent> events_;
};

// What the choice of a session goes by.
struct SessionFacts {
  int64_t length = 0;  // tokens it holds
  int64_t common = 0;  // of these, equal to the prompt's first ones
  uint64_t last_used = 0;
};

// The index of the session to use, sessions.size() for a new one. The longest common prefix wins if it is at
// least half of the session's timeline or of the prompt; otherwise the prompt is another conversation and
// takes a new session while there are fewer than `limit`, then the one unused for longest.
size_t pick_session(std::span<const SessionFacts> sessions, int64_t prompt, size_t limit);

class EngineWorker {
 public:
  // The engine outlives the worker and is used by nobody else, its const members apart.
  EngineWorker(Engine& engine, size_t queue_limit, size_t session_limit);
  ~EngineWorker();  // cancels everything and waits for the thread

  // nullptr: the queue is full.
  std::shared_ptr<Ticket> submit(Generation generation);
  // Takes the ticket out of the queue, or stops its computation at the next token or slice of its prompt.
  void cancel(const std::shared_ptr<Ticket>& ticket);
  void cancel_all();
  size_t queued() const;

 private:
  struct Slot {
    std::unique_ptr<Session> session;
    uint64_t last_used = 0;
  };

  void loop();
  void run(Ticket& ticket);
  Status answer(Ticket& ticket, size_t prompt, Slot& slot);
  Result<Slot*> slot_for(std::span<const int32_t> prompt);

  Engine& engine_;
  const size_t queue_limit_, session_limit_;
  std::vector<Slot> slots_;  // of the thread alone
  uint64_t uses_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Ticket>> queue_;
  std::shared_ptr<Ticket> running_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace moebius
