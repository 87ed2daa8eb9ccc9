// Generations driven through a scheduler step by step, and the same by Engine::generate alone.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engine/scheduler.h"
#include "tests/device_models.h"

namespace moebius {

// A folder of this process, gone when it ends.
class OwnFolder {
 public:
  OwnFolder()
      : path_(std::filesystem::path(testing::TempDir()) / ("moebius_scheduler_" + std::to_string(getpid()))) {
  }
  ~OwnFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  const std::filesystem::path path_;
};

// A golden model with the tokenizer of deepseek_v3_tiny, whose ids include the model's.
inline std::string with_tokenizer(const std::string& model) {
  static const OwnFolder folder;
  namespace fs = std::filesystem;
  const fs::path here = fs::absolute("tests/golden/models"), out = folder.path() / model;
  if (fs::exists(out)) return out;
  fs::create_directories(out);
  for (const auto& file : fs::directory_iterator(here / model))
    fs::create_symlink(file.path(), out / file.path().filename());
  if (!fs::exists(out / "tokenizer.json"))
    fs::create_symlink(here / "deepseek_v3_tiny" / "tokenizer.json", out / "tokenizer.json");
  return out;
}

struct Heard {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  std::string text;
  GenerateStats stats;
  std::vector<float> embedding;
  bool done = false;
};

// All that a ticket says, without waiting.
class Listener {
 public:
  explicit Listener(std::shared_ptr<Ticket> ticket) : ticket_(std::move(ticket)) {}

  void hear() {
    while (std::optional<GenerationEvent> event = ticket_->next(std::chrono::milliseconds(0))) {
      ASSERT_FALSE(over_) << "after the last event";
      Heard& answer = answers_[event->choice];
      switch (event->kind) {
        case GenerationEvent::Kind::kPiece:
          answer.text += event->text;
          if (event->id < 0) break;
          answer.ids.push_back(event->id);
          answer.logprobs.push_back(event->chosen.logprob);
          break;
        case GenerationEvent::Kind::kChoiceDone:
          answer.stats = event->stats, answer.embedding = event->embedding, answer.done = true;
          break;
        case GenerationEvent::Kind::kFailed:
          status_ = event->status;
          [[fallthrough]];
        case GenerationEvent::Kind::kDone:
          over_ = true;
      }
    }
  }
  // Of choice 0, unless another is asked for.
  const Heard& answer(int choice = 0) { return answers_[choice]; }
  size_t answers() const { return answers_.size(); }
  const Status& status() const { return status_; }
  bool over() const { return over_; }
  void cancel() { ticket_->cancel(); }
  const Ticket& ticket() const { return *ticket_; }

 private:
  std::shared_ptr<Ticket> ticket_;
  std::map<int, Heard> answers_;
  Status status_;
  bool over_ = false;
};

inline Generation greedy(std::vector<int32_t> prompt, int64_t max_tokens, const std::string& salt = "") {
  Generation generation;
  generation.prompts = {std::move(prompt)};
  generation.options.sampling.temperature = 0;
  generation.options.max_tokens = max_tokens;
  generation.options.ignore_eos = true;
  generation.options.top_logprobs = 0;
  generation.cache_salt = salt;
  return generation;
}

inline std::vector<int32_t> random_ids(std::mt19937& random, int64_t count, int64_t vocab) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
  return ids;
}

inline Listener ask(Scheduler& scheduler, Generation generation) {
  auto ticket = scheduler.submit(std::move(generation));
  MOEBIUS_CHECK(ticket.ok() && *ticket, ticket.ok() ? "the queue is full" : ticket.status().message());
  return Listener(*ticket);
}

inline std::vector<SchedulerStep> run_all(Scheduler& scheduler, std::vector<Listener*> listeners) {
  std::vector<SchedulerStep> steps;
  do {
    steps.push_back(scheduler.step());
    for (Listener* l : listeners) l->hear();
  } while (!steps.back().idle && steps.size() < 100'000);
  EXPECT_TRUE(steps.back().idle);
  return steps;
}

// Alone, on a session that knows nothing.
inline Heard alone(Engine& engine, const Generation& generation) {
  Heard heard;
  auto session = engine.new_session();
  MOEBIUS_CHECK(session.ok());
  const auto stats =
      engine.generate(**session, generation.prompts[0], generation.options, [&](const Piece& p) {
        heard.text += p.text;
        if (p.id < 0) return true;
        heard.ids.push_back(p.id);
        heard.logprobs.push_back(p.chosen.logprob);
        return true;
      });
  MOEBIUS_CHECK(stats.ok(), stats.status().message());
  heard.stats = *stats, heard.done = true;
  return heard;
}

}  // namespace moebius
