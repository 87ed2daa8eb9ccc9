#include "tools/bench_measure.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <random>

#include "kernels/probe.h"

namespace moebius {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kContextPrompt = 64;  // what a context repeats

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double resident_GB() {  // pages of the process in memory, the mapped weights included
  std::ifstream file("/proc/self/statm");
  double total = 0, resident = 0;
  file >> total >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE)) * 1e-9;
}

// What the process has had brought from disk, read by itself or by touching what is mapped.
double read_from_disk() {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  return 512 * static_cast<double>(use.ru_inblock);
}

// weights: as they lie in memory. Those that a cache holds a good part of say nothing of memory's speed.
Result<Limits> probe(int threads, std::span<const char> weights) {
  constexpr double kSeconds = 0.1;
  const int64_t bytes = probe_buffer_bytes();
  Limits limits;
  MOEBIUS_ASSIGN(limits.large_pages_GBs, probe_memory_read_GBs(threads, bytes, kSeconds));
  limits.read_GBs =
      std::ssize(weights) < bytes
          ? limits.large_pages_GBs
          : probe_read_GBs(threads, weights.data() + std::ssize(weights) - bytes, bytes, kSeconds);
  limits.float32_GFLOPs = probe_float32_GFLOPs(threads, kSeconds);
  limits.int8_GOPs = probe_int8_GOPs(threads, kSeconds);
  return limits;
}

class Bench {
 public:
  Bench(Engine& engine, const BenchWork& work, const std::function<bool()>& keep_going)
      : engine_(engine), work_(work), keep_going_(keep_going) {}

  Status run() {
    for (int64_t i = 0; i < work_.most_batch(); ++i) {
      MOEBIUS_ASSIGN(std::unique_ptr<Session> session, engine_.new_session());
      sessions_.push_back(std::move(session));
    }
    if (work_.needed_context() > sessions_[0]->context()) {
      return invalid("the context of " + std::to_string(sessions_[0]->context()) +
                     " tokens is smaller than the " + std::to_string(work_.needed_context()) +
                     " this bench needs; raise --ctx-size, or lower -p, -n or --depth");
    }
    MOEBIUS_TRY(prefill(std::min(kContextPrompt, sessions_[0]->context() - 1))
                    .status());  // brings the weights into memory
    MOEBIUS_TRY(probe_again());
    for (const int64_t prompt : work_.prompts) {
      BenchRow row;
      row.tokens = prompt;
      MOEBIUS_TRY(measure(row, [&] { return prefill(prompt); }));
    }
    if (work_.tokens == 0) return Status();
    for (const int64_t depth : work_.depths) MOEBIUS_TRY(decode_at(depth));
    return Status();
  }

  std::vector<BenchRow> rows;

 private:
  Status probe_again() {
    MOEBIUS_ASSIGN(last_, probe(engine_.options().threads, engine_.weights_memory()));
    return Status();
  }

  Status decode_at(int64_t depth) {
    const int64_t start = std::clamp<int64_t>(depth, 1, sessions_[0]->context() - work_.tokens);
    for (const int64_t batch : work_.batches) {
      BenchRow row;
      row.decode = true, row.tokens = work_.tokens, row.depth = depth, row.batch = batch;
      std::vector<Session*> together;
      std::vector<std::vector<int32_t>> contexts;
      for (int64_t i = 0; i < batch; ++i) {
        Session& session = *sessions_[static_cast<size_t>(i)];
        MOEBIUS_TRY(session.sync(tokens(std::min(start, kContextPrompt))));
        MOEBIUS_TRY(session.repeat(start));
        together.push_back(&session);
        contexts.emplace_back(session.tokens().begin(), session.tokens().end());
      }
      MOEBIUS_TRY(measure(row, [&] { return decode_from(together, contexts); }));
    }
    return Status();
  }

  Result<double> decode_from(const std::vector<Session*>& together,
                             const std::vector<std::vector<int32_t>>& contexts) {
    for (size_t i = 0; i < together.size(); ++i) MOEBIUS_TRY(together[i]->sync(contexts[i]));
    engine_.take_op_totals();  // sync computes the last token of a context again
    return decode(together);
  }

  template <class Run>
  Status measure(BenchRow& row, const Run& run) {
    row.limits.push_back(last_);
    const Clock::time_point start = Clock::now();
    const SlotSum before = slots_of(engine_.expert_map());
    do {
      engine_.take_op_totals();
      const double read = read_from_disk();
      MOEBIUS_ASSIGN(const double took, run());
      row.disk_bytes += read_from_disk() - read;
      row.runs_s.push_back(took);
      for (const auto& [name, total] : engine_.take_op_totals()) {
        OpTotal& sum = row.ops[name];
        sum.calls += total.calls, sum.seconds += total.seconds;
        sum.bytes += total.bytes, sum.stored_bytes += total.stored_bytes;
      }
      MOEBIUS_TRY(probe_again());
      row.limits.push_back(last_);
    } while (std::ssize(row.runs_s) < work_.repeats && seconds_since(start) < work_.seconds);
    for (const auto& [name, total] : row.ops) row.bytes += total.stored_bytes;
    row.bytes /= static_cast<double>(row.runs_s.size());
    row.skipped = (slots_of(engine_.expert_map()) - before).skip_rate();
    row.resident_GB = resident_GB();
    rows.push_back(std::move(row));
    return Status();
  }

  Result<double> prefill(int64_t n) {
    const std::vector<int32_t> ids = tokens(n);
    const auto start = Clock::now();
    MOEBIUS_TRY(sessions_[0]->sync(ids, [&](int64_t, int64_t) { return keep_going_(); }));
    return seconds_since(start);
  }

  Result<double> decode(const std::vector<Session*>& together) {
    const std::vector<int32_t> ids = tokens(work_.tokens * std::ssize(together));
    const auto start = Clock::now();
    for (size_t i = 0; i < ids.size(); i += together.size()) {
      if (!keep_going_()) return Status(Code::kCancelled, "cancelled");
      MOEBIUS_TRY(engine_.append(together, std::span(ids).subspan(i, together.size())));
    }
    return seconds_since(start);
  }

  std::vector<int32_t> tokens(int64_t n) {
    std::vector<int32_t> ids(static_cast<size_t>(n));
    for (int32_t& id : ids)
      id = static_cast<int32_t>(random_() % static_cast<uint64_t>(engine_.config().vocab));
    return ids;
  }

  Engine& engine_;
  const BenchWork& work_;
  const std::function<bool()>& keep_going_;
  std::vector<std::unique_ptr<Session>> sessions_;
  Limits last_;
  std::mt19937_64 random_{1};
};

}  // namespace

int64_t BenchWork::most_batch() const {
  return tokens == 0 || batches.empty() ? 1 : *std::max_element(batches.begin(), batches.end());
}

int64_t BenchWork::needed_context() const {
  int64_t most = tokens + 2;
  for (const int64_t prompt : prompts) most = std::max(most, prompt);
  if (tokens > 0)
    for (const int64_t depth : depths) most = std::max(most, depth);
  return most;
}

Result<std::vector<BenchRow>> bench_model(Engine& engine, const BenchWork& work,
                                          const std::function<bool()>& keep_going) {
  Bench bench(engine, work, keep_going);
  MOEBIUS_TRY(bench.run());
  return std::move(bench.rows);
}

}  // namespace moebius
