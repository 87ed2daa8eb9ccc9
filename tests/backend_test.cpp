// Scratch, parallel_for, the host backend's options, and the parts of attention that op_test cannot see.
#include "kernels/backend.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/host.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/vector_ops.h"
#include "kernels/cpu/workers.h"

namespace moebius {
namespace {

TEST(ParallelFor, CoversEveryIndexOnceInRangesOfTheGrain) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (const int64_t n : {0, 1, 2, 7, 64, 1000}) {
      for (const int64_t grain : {1, 3, 64, 5000}) {
        std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
        std::atomic<int> bad{0};
        parallel_for(pool, n, grain, [&](int64_t begin, int64_t end) {
          if (begin % grain != 0 || begin >= end || end - begin > grain || end > n) ++bad;
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        });
        EXPECT_EQ(bad, 0);
        for (const std::atomic<int>& count : seen) EXPECT_EQ(count, 1);
      }
    }
  }
}

TEST(ParallelFor, WorkersNeverShareTheirNumber) {
  HostContext context(3);
  std::atomic<int> inside[3] = {}, clashes{0}, units{0};
  for_each_unit(context, 500, [&](int64_t, int64_t worker) {
    if (inside[worker].fetch_add(1) != 0) ++clashes;
    ++units;
    inside[worker].fetch_sub(1);
  });
  EXPECT_EQ(units, 500);
  EXPECT_EQ(clashes, 0);
  EXPECT_EQ(worker_count(context, 2), 2);
  EXPECT_EQ(worker_count(context, 0), 1);
}

TEST(Scratch, FramesGiveBackWhatWasTakenSince) {
  Scratch scratch;
  char* outer = scratch.take<char>(100);
  std::memset(outer, 7, 100);
  float* first = nullptr;
  for (int i = 0; i < 3; ++i) {
    const Scratch::Frame frame(scratch);
    float* inner = scratch.take<float>(1000);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(inner) % 64, 0u);
    if (i > 0) {
      EXPECT_EQ(inner, first);
    }
    first = inner;
    std::memset(inner, i, 4000);
  }
  for (int i = 0; i < 100; ++i) EXPECT_EQ(outer[i], 7);
}

TEST(Scratch, LiveMemoryStaysWhereItIsWhileBlocksGrow) {
  Scratch scratch;
  const Scratch::Frame outer(scratch);
  std::vector<std::pair<char*, int64_t>> taken;
  for (int64_t size = 1; size < (int64_t{16} << 20); size *= 3) {
    char* at = scratch.take<char>(size);
    std::memset(at, static_cast<int>(taken.size()), static_cast<size_t>(size));
    taken.emplace_back(at, size);
    const Scratch::Frame inner(scratch);
    std::memset(scratch.take<char>(5 * size), 99, static_cast<size_t>(5 * size));
  }
  for (size_t i = 0; i < taken.size(); ++i) {
    EXPECT_EQ(taken[i].first[0], static_cast<char>(i));
    EXPECT_EQ(taken[i].first[taken[i].second - 1], static_cast<char>(i));
  }
}

TEST(Scratch, TheSameStepTakesTheSameMemoryAgain) {
  Scratch scratch;
  std::vector<void*> before;
  for (int step = 0; step < 4; ++step) {
    std::vector<void*> now;
    for (const int64_t size : {10, 3 << 20, 200, 1 << 20, 9 << 20, 64}) {
      const Scratch::Frame frame(scratch);
      now.push_back(scratch.take<char>(size));
      now.push_back(scratch.take<char>(size / 2));
    }
    if (step > 2) {
      EXPECT_EQ(now, before);
    }
    before = now;
  }
}

TEST(HostBackend, NamesItselfByItsOptions) {
  EXPECT_EQ(make_host_backend({.threads = 1, .isa = Isa::kScalar})->name(), "host (1 thread, scalar)");
  for (const Isa most : {Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    const std::string used = isa_name(std::min(most, cpu_features().isa()));
    EXPECT_EQ(make_host_backend({.threads = 3, .isa = most})->name(), "host (3 threads, " + used + ")");
  }
}

TEST(HostBackend, AllocatesZeroedMemoryAndRefusesTheImpossible) {
  const std::unique_ptr<Backend> host = make_host_backend({.threads = 1});
  Result<Buffer> buffer = host->alloc(1000);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(buffer->space(), Space::kHost);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(buffer->as<char>()[i], 0);
  const Result<Buffer> too_much = host->alloc(size_t{1} << 62);
  ASSERT_FALSE(too_much.ok());
  EXPECT_EQ(too_much.status().code(), Code::kNoMemory);
}

TEST(HostBackend, RunsWithEveryChoiceOfOptions) {
  std::vector<float> gate = {0.0f, 1.0f, -2.0f}, up = {1.0f, 2.0f, 3.0f};
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    for (const int threads : {0, 1, 2}) {
      std::vector<float> y(3);
      const std::unique_ptr<Backend> host = make_host_backend({.threads = threads, .isa = isa});
      host->swiglu(
          {f32_tensor(gate.data(), {1, 3}), f32_tensor(up.data(), {1, 3}), f32_tensor(y.data(), {1, 3})});
      EXPECT_EQ(y[0], 0.0f);
      EXPECT_NEAR(y[1], 2 / (1 + std::exp(-1.0)), 1e-6);
      EXPECT_NEAR(y[2], -6 / (1 + std::exp(2.0)), 1e-6);
    }
  }
}

TEST(HostBackendDeathTest, AWrongShapeNamesTheOperation) {
  std::vector<float> x(8);
  const std::unique_ptr<Backend> host = make_host_backend({.threads = 1});
  const SwigluArgs args = {f32_tensor(x.data(), {2, 4}), f32_tensor(x.data(), {4, 2}),
                           f32_tensor(x.data(), {2, 4})};
  EXPECT_DEATH(host->swiglu(args), "swiglu");
}

TEST(Cpu, CoresAreAtLeastOneAndAtMostTheCpusOfThisProcess) {
  cpu_set_t set;
  ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  EXPECT_GE(physical_cores(), 1);
  EXPECT_LE(physical_cores(), CPU_COUNT(&set));

  cpu_set_t one;  // the first of them only
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu)
    if (CPU_ISSET(cpu, &set)) CPU_SET(cpu, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(physical_cores(), 1);
  ASSERT_EQ(sched_setaffinity(0, sizeof(set), &set), 0);
}

TEST(Cpu, FeaturesAgreeWithTheCompilersProbe) {
#if defined(__x86_64__)
  const CpuFeatures features = cpu_features();
  EXPECT_EQ(features.avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
  EXPECT_EQ(features.avx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"));
  EXPECT_EQ(features.isa() >= Isa::kAvx512, features.avx2 && features.avx512_vnni);
  EXPECT_EQ(features.avx512_vnni, __builtin_cpu_supports("avx512vnni") != 0);
  EXPECT_EQ(features.describe().find("AVX2") != std::string::npos, features.avx2);
#endif
}

// The bound that simd_avx2.h states, over every exponent: 2 units in the last place while the result is
// normal, one unit of the subnormals below.
TEST(Exp, StaysWithinItsStatedError) {
  if (!cpu_features().avx2) GTEST_SKIP() << "no AVX2";
  std::vector<float> x, y;
  for (int i = 0; i <= 4000000; ++i) x.push_back(-106.0f + 196.0f * static_cast<float>(i) / 4000000.0f);
  for (int e = -40; e < 7; ++e)
    for (const float sign : {1.0f, -1.0f}) x.push_back(std::ldexp(sign, e));
  x.insert(x.end(), {0.0f, -0.0f, 88.72283f, 88.72284f, 1e30f, -1e30f, INFINITY, -INFINITY});
  y.resize(x.size());
  exp_row_avx2(x.data(), static_cast<int64_t>(x.size()), y.data());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = std::exp(static_cast<double>(x[i]));
    if (want > 0x1.fffffep127) {
      ASSERT_TRUE(std::isinf(y[i]) || y[i] == 0x1.fffffep127f) << x[i];
      continue;
    }
    const double unit = std::ldexp(1.0, std::max(-149, std::ilogb(want > 0 ? want : 1e-300) - 23));
    worst = std::max(worst, std::fabs(y[i] - want) / unit);
    ASSERT_LE(std::fabs(y[i] - want), 2 * unit) << "exp(" << x[i] << ") = " << y[i];
  }
  RecordProperty("worst_ulp", std::to_string(worst));
  const float nan = NAN;
  float out = 0;
  exp_row_avx2(&nan, 1, &out);
  EXPECT_TRUE(std::isnan(out));
}

// A row of logits with known answers, worked out by hand.
TEST(Router, MasksGroupsAndZeroExpertsAsWorkedOutByHand) {
  // Sigmoid scores of the six rows are 1/2 (logit 0) but for rows 1 and 5 (logit ln 3: 3/4); the bias lifts
  // row 2.
  const float log3 = std::log(3.0f);
  std::vector<float> gate = {0, log3, 0, 0, 0, log3}, x = {1}, bias = {0, 0, 0.5f, 0, 0, 0}, weights(3);
  std::vector<int32_t> ids(3);
  RouterArgs args;
  args.x = f32_tensor(x.data(), {1, 1});
  args.gate = {Format::kF32, 6, 1, gate.data()};
  args.bias = f32_tensor(bias.data(), {6});
  args.scoring = Scoring::kSigmoid, args.group_score = GroupScore::kTop2Sum;
  args.n_experts = 5, args.n_group = 3, args.topk_group = 2, args.normalize = true, args.scale = 2;
  args.ids = Tensor(ids.data(), DType::kI32, {1, 3});
  args.weights = f32_tensor(weights.data(), {1, 3});
  make_host_backend({.threads = 1})->router(args);
  // Groups {0,1} 1.25, {2,3} 1.5, {4,5} 1.25: the tie goes to the first. Selection: 2 (1.0), 1 (0.75), then
  // 0 and 3 tie at 0.5. Weights 0.5, 0.75, 0.5 over 1.75, times 2.
  EXPECT_EQ(ids, (std::vector<int32_t>{2, 1, 0}));
  EXPECT_NEAR(weights[0], 2 * 0.5 / 1.75, 1e-6);
  EXPECT_NEAR(weights[1], 2 * 0.75 / 1.75, 1e-6);
  EXPECT_NEAR(weights[2], 2 * 0.5 / 1.75, 1e-6);

  args.group_score = GroupScore::kNone, args.n_experts = 1;  // rows 1 .. 5 are zero experts now
  make_host_backend({.threads = 1})->router(args);
  EXPECT_EQ(ids, (std::vector<int32_t>{-1, -1, -1}));  // 2, 1 and 5: the weights are gone, not shared out
  EXPECT_EQ(weights, (std::vector<float>{0, 0, 0}));
}

// Attention over keys of all-equal score is the mean of the values, whatever the block it crosses.
TEST(Attention, EqualScoresGiveTheMean) {
  const int64_t keys = 1500;
  std::vector<float> cache(static_cast<size_t>(keys * 2)), q = {0}, out(1);
  std::vector<int32_t> pages = {0};
  for (int64_t j = 0; j < keys; ++j) cache[2 * j] = 5, cache[2 * j + 1] = static_cast<float>(j);
  AttentionArgs args;
  args.q = f32_tensor(q.data(), {1, 1, 1});
  args.cache.base = cache.data(), args.cache.width = 2, args.cache.page_tokens = keys;
  args.cache.pages = pages.data(), args.cache.capacity = keys;
  args.first = keys - 1, args.k_dim = 1, args.v_dim = 1, args.v_column = 1;
  args.out = f32_tensor(out.data(), {1, 1, 1});
  for (const int threads : {1, 2}) {
    make_host_backend({.threads = threads})->attention(args);
    EXPECT_NEAR(out[0], (keys - 1) / 2.0, 1e-3);
  }
}

}  // namespace
}  // namespace moebius
