// Every candidate of every operation against the scalar reference:
//
//   op_test [test|perf|list] [--filter TEXT] [--threads N]
//
// test: each case runs on the host with 1, 2 and 3 threads, with and without AVX2, through every candidate
// that takes it; results must lie within the case's derived bound of the reference and must be bit-equal
// between thread counts and, where the contract says so, between a token alone and in company. perf: time per
// candidate on N threads, one per core unless given. list: what there is. TEXT selects by "<op> <shape>".
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <string_view>

#include <fmt/format.h>

#include "tests/op_cases.h"
#include "tests/op_cases_experts.h"

namespace moebius::test {
namespace {

struct Options {
  std::string mode = "test", filter;
  int threads = 0;  // perf: 0 for one per core
};

struct Tally {
  int passed = 0, failed = 0;
};

using Snapshot = std::vector<std::vector<char>>;

Snapshot snapshot(const std::vector<Output>& outputs) {
  Snapshot copy;
  for (const Output& out : outputs) {
    const char* data = static_cast<const char*>(out.data);
    copy.emplace_back(data, data + out.count * static_cast<int64_t>(dtype_bytes(out.dtype)));
  }
  return copy;
}

void restore(const std::vector<Output>& outputs, const Snapshot& from) {
  for (size_t i = 0; i < outputs.size(); ++i) std::memcpy(outputs[i].data, from[i].data(), from[i].size());
}

double number_at(const char* data, DType dtype, int64_t i) {
  if (dtype == DType::kBF16) return bf16_to_f32(load_unaligned<uint16_t>(data, i));
  if (dtype == DType::kI32) return load_unaligned<int32_t>(data, i);
  return load_unaligned<float>(data, i);
}

double allowance(const Output& out, int64_t i, double want) {
  return (out.bound.empty() ? 0.0 : out.bound[static_cast<size_t>(i)]) + out.relative * std::fabs(want);
}

// What stands furthest over its bound, or "" when all is within. exact ignores the bounds: bits must be
// equal.
std::string difference(const std::vector<Output>& outputs, const Snapshot& got, const Snapshot& want,
                       bool exact) {
  for (size_t o = 0; o < outputs.size(); ++o) {
    const Output& out = outputs[o];
    const bool bits = exact || (out.bound.empty() && out.relative == 0);
    if (bits && got[o] == want[o]) continue;
    const int64_t width = static_cast<int64_t>(dtype_bytes(out.dtype));
    int64_t worst = -1, wrong = 0;
    double excess = 0;
    for (int64_t i = 0; i < out.count; ++i) {
      if (std::memcmp(&got[o][i * width], &want[o][i * width], width) == 0) continue;
      const double g = number_at(got[o].data(), out.dtype, i), w = number_at(want[o].data(), out.dtype, i);
      if (!bits && std::isnan(g) && std::isnan(w)) continue;
      const double allowed = bits ? 0.0 : allowance(out, i, w), error = std::fabs(g - w);
      if (!bits && error <= allowed) continue;
      ++wrong;
      const double over = std::isnan(error) ? INFINITY : error / std::max(allowed, 1e-300);
      if (worst < 0 || over > excess) worst = i, excess = over;
    }
    if (worst < 0) continue;
    const double g = number_at(got[o].data(), out.dtype, worst),
                 w = number_at(want[o].data(), out.dtype, worst);
    return fmt::format(
        "{} of {} elements of {} wrong; worst [{}]: got {:.9g}, want {:.9g}, error {:.3g}, {}", wrong,
        out.count, out.name, worst, g, w, std::fabs(g - w),
        bits ? std::string("bits must be equal") : fmt::format("bound {:.3g}", allowance(out, worst, w)));
  }
  return "";
}

template <class Args>
struct Op {
  const char* name;
  std::span<const Candidate<Args>> candidates;
  void (*reference)(const Args&, bool);
  void (*cases)(Mode, const Add<Args>&);
};

struct TestContext : HostContext {
  TestContext(bool use_avx2, int thread_count, bool exact, CpuGemm who = CpuGemm::kAuto)
      : HostContext(thread_count) {
    avx2 = use_avx2, exact_activations = exact, gemm = who;
  }
};

template <class Args>
void run(const Candidate<Args>& candidate, const Args& args, HostContext& context) {
  const Scratch::Frame frame(context.scratch);
  candidate.run(args, context);
}

template <class Args>
class CaseTest {
 public:
  CaseTest(const Op<Args>& op, std::string shape, Case<Args> test_case, Tally& tally)
      : op_(op),
        shape_(std::move(shape)),
        case_(std::move(test_case)),
        tally_(tally),
        before_(snapshot(case_.outputs)) {}

  void test() {
    check(case_.args);
    op_.reference(case_.args, case_.exact_activations);
    reference_ = snapshot(case_.outputs);
    for (const bool avx2 : {false, true}) {
      if (avx2 && !cpu_features().avx2) continue;
      for (const Candidate<Args>& candidate : op_.candidates) test_candidate(candidate, avx2);
      if (case_.part) test_dispatch(avx2);
    }
  }

 private:
  void test_candidate(const Candidate<Args>& candidate, bool avx2) {
    const bool is_reference = &candidate == &op_.candidates.back();  // against itself: once will do
    Snapshot first;
    for (const int threads : {1, 2, 3}) {
      if (is_reference && (threads > 1 || avx2)) continue;
      TestContext context(avx2, threads, case_.exact_activations);
      if (candidate.declines(case_.args, context)) continue;
      restore(case_.outputs, before_);
      run(candidate, case_.args, context);
      const Snapshot got = snapshot(case_.outputs);
      const std::string where = fmt::format("{}, avx2 {}, {} threads", candidate.name, avx2, threads);
      report(where, difference(case_.outputs, got, reference_, false));
      if (first.empty()) {
        first = got;
        if (case_.part && !is_reference)
          test_parts(where, got, [&](const Args& args) {
            if (candidate.declines(args, context)) return false;
            run(candidate, args, context);
            return true;
          });
      } else {
        report(where + " against one thread", difference(case_.outputs, got, first, true));
      }
    }
  }

  // What the backend would run may be another candidate for one token than for many: those must agree too.
  void test_dispatch(bool avx2) {
    TestContext context(avx2, 2, case_.exact_activations);
    const auto dispatch = [&](const Args& args) {
      for (const Candidate<Args>& candidate : op_.candidates) {
        if (candidate.declines(args, context)) continue;
        run(candidate, args, context);
        return true;
      }
      return false;
    };
    restore(case_.outputs, before_);
    const bool ran = dispatch(case_.args);
    report("dispatch", ran ? "" : "every candidate declined");
    test_parts(fmt::format("dispatch, avx2 {}", avx2), snapshot(case_.outputs), dispatch);
  }

  template <class Run>
  void test_parts(const std::string& where, const Snapshot& whole, const Run& run_part) {
    for (const int64_t count : {int64_t{1}, int64_t{3}}) {
      if (case_.tokens <= 1 || (count > 1 && count >= case_.tokens)) continue;
      restore(case_.outputs, before_);
      bool ran = true;
      for (int64_t t = 0; t < case_.tokens; t += count)
        ran = ran && run_part(case_.part(case_.args, t, std::min(count, case_.tokens - t)));
      if (!ran) continue;
      report(fmt::format("{}, tokens by {} against whole", where, count),
             difference(case_.outputs, snapshot(case_.outputs), whole, true));
    }
  }

  void report(const std::string& where, const std::string& problem) {
    problem.empty() ? ++tally_.passed : ++tally_.failed;
    if (!problem.empty()) fmt::print("FAILED {} {} [{}]: {}\n", op_.name, shape_, where, problem);
  }

  const Op<Args>& op_;
  std::string shape_;
  Case<Args> case_;
  Tally& tally_;
  Snapshot before_, reference_;
};

template <class Args>
void time_case(const Op<Args>& op, const std::string& shape, const Case<Args>& c, int threads) {
  using Clock = std::chrono::steady_clock;
  for (const Candidate<Args>& candidate : op.candidates) {
    TestContext context(cpu_features().avx2, threads, c.exact_activations);
    if (candidate.declines(c.args, context)) continue;
    if (&candidate == &op.candidates.back() && c.flops > 1e9) continue;  // the reference would take minutes
    double best = INFINITY, spent = 0;
    for (int runs = 0; runs < 3 || (spent < 0.5 && runs < 10000); ++runs) {
      const Clock::time_point start = Clock::now();
      run(candidate, c.args, context);
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      best = std::min(best, seconds), spent += seconds;
      if (seconds > 2) break;
    }
    fmt::print("{:<11} {:<70} {:<22} {:>10.1f} us {:>8.2f} GB/s {:>8.1f} GFLOP/s\n", op.name, shape,
               candidate.name, best * 1e6, c.bytes / best * 1e-9, c.flops / best * 1e-9);
  }
}

template <class Args>
void run_op(const Op<Args>& op, const Options& options, Tally& total) {
  Tally tally;
  int cases = 0;
  op.cases(options.mode == "perf" ? Mode::kPerf : Mode::kTest,
           [&](const std::string& shape, const auto& make) {
             if ((std::string(op.name) + " " + shape).find(options.filter) == std::string::npos) return;
             ++cases;
             if (options.mode == "test") CaseTest<Args>(op, shape, make(), tally).test();
             if (options.mode == "perf")
               time_case(op, shape, make(), options.threads > 0 ? options.threads : physical_cores());
           });
  if (options.mode == "test" && cases > 0)
    fmt::print("{:<12} {:>4} cases, {} passed, {} failed\n", op.name, cases, tally.passed, tally.failed);
  if (options.mode == "list") {
    std::string names;
    for (const Candidate<Args>& candidate : op.candidates) names += fmt::format(" {}", candidate.name);
    fmt::print("{:<12} {:>4} cases, candidates:{}\n", op.name, cases, names);
  }
  total.passed += tally.passed, total.failed += tally.failed;
  std::fflush(stdout);
}

int main_of(const Options& options) {
  Tally total;
#define X(name, Args) run_op(Op<Args>{#name, host_##name(), ref::name, name##_cases}, options, total);
  MOEBIUS_OPS(X)
#undef X
  fmt::print("device: skipped (no device)\n");
  if (options.mode != "test") return 0;
  fmt::print("{} passed, {} failed\n", total.passed, total.failed);
  return total.failed > 0 || total.passed == 0;
}

}  // namespace
}  // namespace moebius::test

int main(int argc, char** argv) {
  moebius::test::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--filter" && i + 1 < argc) {
      options.filter = argv[++i];
    } else if (argument == "--threads" && i + 1 < argc) {
      options.threads = std::atoi(argv[++i]);
    } else if (argument == "test" || argument == "perf" || argument == "list") {
      options.mode = argument;
    } else {
      fmt::print(stderr, "usage: op_test [test|perf|list] [--filter TEXT] [--threads N]\n");
      return 2;
    }
  }
  return moebius::test::main_of(options);
}
