// Every implementation of every operation, forward and backward, against the scalar reference:
//
//   op_test [test|perf|list] [--device all|host|emulated|cuda] [--filter TEXT] [--threads N]
//
// test: each case runs on the host with 1, 2 and 3 threads, with and without AVX2, through every candidate
// that takes it, and on every device: the CUDA kernels on the emulator, and on a GPU where there is one.
// Results must lie within the case's derived bound of the reference and must be bit-equal between thread
// counts, from run to run, between two orders of an emulated device's blocks and threads and, where the
// contract says so, between a token alone and in company. perf: time per candidate on N threads, one per core
// unless given, and on the GPU. list: what there is. TEXT selects by "<op> <shape>". With --device cuda and
// no GPU it says so and ends with 77.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <string_view>

#include <fmt/format.h>

#include "kernels/cpu/host_grad.h"
#include "kernels/cpu/onednn.h"
#include "kernels/gpu.h"
#include "tests/op_cases_grad.h"
#include "tests/op_device.h"
#ifdef MOEBIUS_EMULATE_CUDA
#include "tests/cuda_emulator/backend.h"
#endif

namespace moebius::test {
namespace {

struct Options {
  std::string mode = "test", device = "all", filter;
  int threads = 0;  // perf: 0 for one per core
  bool wants(std::string_view name) const { return device == "all" || device == name; }
};

template <class Args>
struct Op {
  const char* name;
  std::span<const Candidate<Args>> candidates;
  void (*reference)(const Args&, bool);
  void (*cases)(Mode, const Add<Args>&);
};

constexpr Isa kIsas[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx};

struct TestContext : HostContext {
  TestContext(Isa most, int thread_count, bool exact, CpuGemm who = CpuGemm::kAuto)
      : HostContext(thread_count) {
    isa = most, exact_activations = exact, gemm = who;
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

  void test(bool host, const std::vector<Device>& devices, std::vector<Device::Count>& counts) {
    check(case_.args);
    op_.reference(case_.args, case_.exact_activations);
    reference_ = snapshot(case_.outputs);
    if (host) test_host();
    for (size_t i = 0; i < devices.size(); ++i)
      DeviceTest<Args>(op_.name, shape_, case_, before_, reference_).test(devices[i], counts[i]);
  }

 private:
  void test_host() {
    for (const Isa isa : kIsas) {
      if (isa > cpu_features().isa()) continue;
      for (const Candidate<Args>& candidate : op_.candidates) {
        test_candidate(candidate, isa, CpuGemm::kAuto);
        if (case_.also_onednn) test_candidate(candidate, isa, CpuGemm::kOneDnn);
      }
      if (case_.part) test_dispatch(isa);
    }
  }

  void test_candidate(const Candidate<Args>& candidate, Isa isa, CpuGemm gemm) {
    const bool is_reference = &candidate == &op_.candidates.back();  // against itself: once will do
    Snapshot first;
    for (const int threads : {1, 2, 3}) {
      if (is_reference && (threads > 1 || isa != Isa::kScalar)) continue;
      // What --cpu-gemm onednn asks for leaves activations exact by itself.
      const bool onednn = gemm == CpuGemm::kOneDnn && !onednn_missing();
      TestContext context(isa, threads, case_.exact_activations && !onednn, gemm);
      if (candidate.declines(case_.args, context)) continue;
      restore(case_.outputs, before_);
      run(candidate, case_.args, context);
      const Snapshot got = snapshot(case_.outputs);
      const std::string where = fmt::format("{}{}, {}, {} threads", candidate.name,
                                            onednn ? " by choice" : "", isa_name(isa), threads);
      const bool rounds =
          !case_.rounded.empty() && std::string_view(candidate.name).find("_bf16_") != std::string_view::npos;
      report(where, difference(rounds ? case_.rounded : case_.outputs, got, reference_, false));
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
  void test_dispatch(Isa isa) {
    TestContext context(isa, 2, case_.exact_activations);
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
    test_parts(fmt::format("dispatch, {}", isa_name(isa)), snapshot(case_.outputs), dispatch);
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
    TestContext context(cpu_features().isa(), threads, c.exact_activations);
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

// One run of an operation on a device, without the wait for it: runs are queued in one go.
template <class Args>
void time_on_device(const char* op, const std::string& shape, const Case<Args>& c, const Device& device) {
  using Clock = std::chrono::steady_clock;
  if (c.exact_activations) return;
  Backend& backend = *device.backends[0];
  Mirror mirror(backend, c.arena);
  const Args args = mirror(c.args);
  double best = INFINITY, spent = 0;
  for (int runs = 1; spent < 0.5; runs = std::min(2 * runs, 1000)) {
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < runs; ++i) call(backend, args);
    const Status status = backend.sync();
    MOEBIUS_CHECK(status.ok(), status.message());
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::min(best, seconds / runs), spent += seconds;
  }
  fmt::print("{:<11} {:<70} {:<22} {:>10.1f} us {:>8.2f} GB/s {:>8.1f} GFLOP/s\n", op, shape, device.name,
             best * 1e6, c.bytes / best * 1e-9, c.flops / best * 1e-9);
}

template <class Args>
void print_counts(const Op<Args>& op, const Device& device, const Device::Count& count) {
  std::string line = fmt::format("{:<12} {:>4} cases, {} passed, {} failed on {}", op.name, count.cases,
                                 count.tally.passed, count.tally.failed, device.name);
  if (count.large > 0) line += fmt::format("; {} skipped (too large)", count.large);
  if (count.host_only > 0) line += fmt::format("; {} skipped (int8 caches are the host's)", count.host_only);
  if (count.exact > 0) line += fmt::format("; {} skipped (exact activations are the host's)", count.exact);
  fmt::print("{}\n", line);
}

template <class Args>
void run_op(const Op<Args>& op, const Options& options, const std::vector<Device>& devices, Tally& total) {
  Tally tally;
  std::vector<Device::Count> counts(devices.size());
  const bool host = options.wants("host");
  int cases = 0;
  op.cases(options.mode == "perf" ? Mode::kPerf : Mode::kTest,
           [&](const std::string& shape, const auto& make) {
             if ((std::string(op.name) + " " + shape).find(options.filter) == std::string::npos) return;
             ++cases;
             if (options.mode == "test") CaseTest<Args>(op, shape, make(), tally).test(host, devices, counts);
             if (options.mode != "perf") return;
             const Case<Args> c = make();
             if (host) time_case(op, shape, c, options.threads > 0 ? options.threads : physical_cores());
             for (const Device& device : devices) time_on_device(op.name, shape, c, device);
           });
  if (options.mode == "test" && cases > 0) {
    if (host)
      fmt::print("{:<12} {:>4} cases, {} passed, {} failed\n", op.name, cases, tally.passed, tally.failed);
    for (size_t i = 0; i < devices.size(); ++i) print_counts(op, devices[i], counts[i]);
  }
  if (options.mode == "list") {
    std::string names;
    for (const Candidate<Args>& candidate : op.candidates) names += fmt::format(" {}", candidate.name);
    for (const Device& device : devices) names += fmt::format(" [{}]", device.name);
    fmt::print("{:<12} {:>4} cases, candidates:{}\n", op.name, cases, names);
  }
  total.passed += tally.passed, total.failed += tally.failed;
  for (const Device::Count& count : counts)
    total.passed += count.tally.passed, total.failed += count.tally.failed;
  std::fflush(stdout);
}

// Emulation runs every thread of a grid on one core.
[[maybe_unused]] constexpr double kMostEmulatedFlops = 3e6;

std::vector<Device> open_devices(const Options& options) {
  std::vector<Device> devices;
  if (options.wants("emulated") && options.mode != "perf") {
#ifdef MOEBIUS_EMULATE_CUDA
    namespace emulator = cuda::emulator;
    Device device{"cuda emulated", {}, kMostEmulatedFlops};
    device.backends.push_back(emulator::make_emulated_backend(1, emulator::Fit::kStart));
    device.backends.push_back(emulator::make_emulated_backend(2, emulator::Fit::kEnd));
    devices.push_back(std::move(device));
#else
    fmt::print("cuda emulated: skipped (not in a build for this sanitizer)\n");
#endif
  }
  if (options.wants("cuda")) {
    Result<std::unique_ptr<Backend>> cuda = make_cuda_backend({});
    if (cuda.ok()) {
      fmt::print("{}\n", (*cuda)->name());
      Device device{"cuda", {}};
      device.backends.push_back(std::move(*cuda));
      devices.push_back(std::move(device));
    } else {
      fmt::print("cuda: skipped ({})\n", cuda.status().message());
    }
  }
  return devices;
}

int main_of(const Options& options) {
  constexpr int kSkipped = 77;  // as CMakeLists.txt tells ctest
  Tally total;
  const std::vector<Device> devices = open_devices(options);
  if (options.device == "cuda" && devices.empty()) return kSkipped;
#define X(name, Args) \
  run_op(Op<Args>{#name, host_##name(), ref::name, name##_cases}, options, devices, total);
  MOEBIUS_OPS(X)
#undef X
#define X(name, Args)                                                                                   \
  run_op(Op<Args>{#name, host_##name(), [](const Args& args, bool) { ref::name(args); }, name##_cases}, \
         options, devices, total);
  MOEBIUS_GRAD_OPS(X)
#undef X
  if (options.mode != "test") return 0;
  if (cpu_features().isa() < Isa::kAvx512) fmt::print("kernels for AVX-512: skipped (no AVX-512 VNNI)\n");
  if (cpu_features().isa() < Isa::kAmx) fmt::print("kernels for AMX: skipped (no AMX)\n");
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
    } else if (argument == "--device" && i + 1 < argc) {
      options.device = argv[++i];
    } else if (argument == "--threads" && i + 1 < argc) {
      options.threads = std::atoi(argv[++i]);
    } else if (argument == "test" || argument == "perf" || argument == "list") {
      options.mode = argument;
    } else {
      fmt::print(stderr,
                 "usage: op_test [test|perf|list] [--device all|host|emulated|cuda] [--filter TEXT] "
                 "[--threads N]\n");
      return 2;
    }
  }
  return moebius::test::main_of(options);
}
