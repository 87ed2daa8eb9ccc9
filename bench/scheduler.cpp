// What the scheduler costs beside the engine alone, and what a cached prefix saves: steps of `batch` answers
// by Engine::append and by Scheduler::step in turn, and the time to the first token of a prompt that is asked
// a second time. Medians.
//
//   bench_scheduler [model folder] [steps] [prompt tokens]     rows: model,what,value,unit
#include <algorithm>
#include <chrono>
#include <filesystem>

#include <fmt/format.h>

#include "engine/scheduler.h"

namespace moebius {
namespace {

constexpr int64_t kBatch = 8, kStart = 32;

double milliseconds(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void require(const Status& status) { MOEBIUS_CHECK(status.ok(), status.message()); }

std::vector<int32_t> prompt_of(int64_t tokens, int32_t first, int64_t vocab) {
  std::vector<int32_t> ids(static_cast<size_t>(tokens));
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<int32_t>((static_cast<int64_t>(i) * 31 + first) % (vocab / 2));
  return ids;
}

Generation generation_of(std::vector<int32_t> prompt, int64_t max_tokens) {
  Generation generation;
  generation.prompts = {std::move(prompt)};
  generation.options.sampling.temperature = 0;
  generation.options.max_tokens = max_tokens;
  generation.options.ignore_eos = true;
  return generation;
}

int32_t best(std::span<const float> logits) {
  return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
}

std::shared_ptr<Ticket> submit(Scheduler& scheduler, Generation generation) {
  auto ticket = scheduler.submit(std::move(generation));
  require(ticket.status());
  return *ticket;
}

class Bench {
 public:
  Bench(Engine& engine, int64_t steps) : engine_(engine), scheduler_(engine, {}), steps_(steps) {}

  void batches() {
    std::vector<std::unique_ptr<Session>> sessions;
    std::vector<Session*> all;
    std::vector<std::shared_ptr<Ticket>> tickets;
    std::vector<int32_t> ids(kBatch);
    for (int32_t i = 0; i < kBatch; ++i) {
      sessions.push_back(std::move(*engine_.new_session()));
      require(sessions.back()->sync(prompt_of(kStart, i, vocab())));
      all.push_back(sessions.back().get());
      tickets.push_back(
          submit(scheduler_, generation_of(prompt_of(kStart, i, vocab()), steps_ + 2 * kBatch)));
    }
    std::vector<double> engine, scheduled;
    while (true) {
      auto start = std::chrono::steady_clock::now();
      const SchedulerStep report = scheduler_.step();
      const double took = milliseconds(start);
      if (report.idle) break;
      if (report.answers < kBatch || report.prompt_tokens > 0) continue;
      scheduled.push_back(took);
      // The same tokens, and so the same experts.
      for (size_t i = 0; i < all.size(); ++i) ids[i] = best(all[i]->logits());
      start = std::chrono::steady_clock::now();
      require(engine_.append(all, ids));
      engine.push_back(milliseconds(start));
    }
    row("engine step of 8", median(engine), "ms");
    row("scheduler step of 8", median(scheduled), "ms");
    row("scheduler over engine", 100 * (median(scheduled) / median(engine) - 1), "%");
  }

  void prefix(int64_t tokens) {
    const std::vector<int32_t> prompt = prompt_of(tokens, 3, vocab());
    row("first token of a new prompt", first_token(prompt), "ms");
    std::vector<double> decode, again;
    auto session = std::move(*engine_.new_session());
    require(session->sync(std::span(prompt).first(1)));
    require(session->repeat(tokens));
    for (int i = 0; i < 9; ++i) {
      const auto start = std::chrono::steady_clock::now();
      require(session->append(7));
      decode.push_back(milliseconds(start));
      again.push_back(first_token(prompt));
    }
    row("decode step of 1", median(decode), "ms");
    row("first token of a cached prompt", median(again), "ms");
    row("cached first token over a decode step", median(again) / median(decode), "times");
  }

  std::string model;

 private:
  int64_t vocab() const { return engine_.config().vocab; }
  // With what the client would still wait for: until the event is there.
  double first_token(const std::vector<int32_t>& prompt) {
    const auto start = std::chrono::steady_clock::now();
    const std::shared_ptr<Ticket> ticket = submit(scheduler_, generation_of(prompt, 1));
    while (!ticket->next(std::chrono::milliseconds(0))) scheduler_.step();
    const double took = milliseconds(start);
    while (!scheduler_.step().idle) {
    }
    return took;
  }
  void row(const char* what, double value, const char* unit) const {
    fmt::print("{},{},{:.3f},{}\n", model, what, value, unit);
  }

  Engine& engine_;
  Scheduler scheduler_;
  const int64_t steps_;
};

}  // namespace
}  // namespace moebius

int main(int argc, char** argv) {
  using namespace moebius;
  EngineOptions options;
  if (argc > 1) options.model = argv[1];
  const int64_t steps = argc > 2 ? std::stoll(argv[2]) : 100, tokens = argc > 3 ? std::stoll(argv[3]) : 2000;
  options.context = 2048, options.sessions = kBatch;
  options.cache_tokens = 16 * 2048;
  Result<std::unique_ptr<Engine>> engine = Engine::open(options);
  require(engine.status());
  Bench bench(**engine, steps);
  bench.model = std::filesystem::path((*engine)->options().model).filename();
  bench.batches();
  bench.prefix(tokens);
}
