#include "tools/bench_measure.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>

namespace moebius {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Runs {
 public:
  Runs(Session& session, int64_t vocab, const std::function<bool()>& keep_going)
      : session_(session), vocab_(vocab), keep_going_(keep_going) {}

  std::vector<int32_t> tokens(int64_t n) {
    std::vector<int32_t> ids(static_cast<size_t>(n));
    for (int32_t& id : ids) id = token();
    return ids;
  }

  Result<double> prefill(const std::vector<int32_t>& ids) {
    const auto start = Clock::now();
    MOEBIUS_TRY(session_.sync(ids, [&](int64_t, int64_t) { return keep_going_(); }));
    return seconds_since(start);
  }

  Result<double> decode(int64_t n) {
    const std::vector<int32_t> ids = tokens(n);
    const auto start = Clock::now();
    for (const int32_t id : ids) {
      if (!keep_going_()) return Status(Code::kCancelled, "cancelled");
      MOEBIUS_TRY(session_.append(id));
    }
    return seconds_since(start) / static_cast<double>(n);
  }

 private:
  int32_t token() { return static_cast<int32_t>(random_() % static_cast<uint64_t>(vocab_)); }

  Session& session_;
  int64_t vocab_;
  const std::function<bool()>& keep_going_;
  std::mt19937_64 random_{1};
};

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

Result<BenchTimes> bench_model(Engine& engine, const BenchWork& work,
                               const std::function<bool()>& keep_going) {
  constexpr int64_t kWarmUpPrompt = 64, kWarmUpAnswer = 4;
  MOEBIUS_ASSIGN(const std::unique_ptr<Session> session, engine.new_session());
  const int64_t needed = std::max({work.prompt, std::max<int64_t>(work.depth, 1) + work.answer});
  Runs runs(*session, engine.config().vocab, keep_going);
  if (needed > session->context()) {
    return invalid("the context of " + std::to_string(session->context()) + " tokens is smaller than the " +
                   std::to_string(needed) +
                   " this bench needs; raise --ctx-size, or lower -p, -n or --depth");
  }
  // Brings the mapped weights into memory and lets buffers grow.
  const int64_t warm_up = std::min(kWarmUpPrompt, session->context() - kWarmUpAnswer);
  if (warm_up > 0) {
    MOEBIUS_TRY(runs.prefill(runs.tokens(warm_up)).status());
    MOEBIUS_TRY(runs.decode(kWarmUpAnswer).status());
  }

  BenchTimes times;
  for (int i = 0; work.prompt > 0 && i < work.repeats; ++i) {
    MOEBIUS_ASSIGN(const double took, runs.prefill(runs.tokens(work.prompt)));
    times.prefill_s.push_back(took);
  }
  const std::vector<int32_t> before = runs.tokens(std::max<int64_t>(work.depth, 1));
  for (int i = 0; work.answer > 0 && i < work.repeats; ++i) {
    MOEBIUS_TRY(runs.prefill(before).status());  // the second time only its last token is computed
    MOEBIUS_ASSIGN(const double took, runs.decode(work.answer));
    times.decode_token_s.push_back(took);
  }
  return times;
}

}  // namespace moebius
