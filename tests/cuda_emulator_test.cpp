// What the emulated device must notice: kernels that are wrong in ways that a device may forgive for years.
#include <gtest/gtest.h>

#include <set>
#include <vector>

#ifdef MOEBIUS_EMULATE_CUDA
#include "kernels/cuda/device.h"
#include "tests/cuda_emulator/backend.h"
#include "tests/op_cases_attention.h"
#include "tests/op_device.h"

namespace moebius::cuda {
namespace {

using emulator::DeviceMemory;
using emulator::Fit;
using emulator::Machine;

class Emulator : public testing::Test {
 protected:
  float* floats(int64_t count) {
    return static_cast<float*>(machine_.memory().take(count * static_cast<int64_t>(sizeof(float)), 0));
  }
  std::vector<float> read(const float* at, int64_t count) {
    const DeviceMemory::Open open(machine_.memory());
    return {at, at + count};
  }
  template <class... Parameters, class... Args>
  void run(void (*kernel)(Parameters...), Grid grid, int block, size_t shared, Args... args) {
    launch(&machine_, kernel, grid, block, shared, args...);
  }
  Machine machine_{{.seed = 7, .fit = Fit::kEnd}};
};
using EmulatorDeathTest = Emulator;

// Sums 64 numbers of a block in shared memory, halving the threads that work.
template <bool kBarrier>
__global__ void tree_sum(float* out) {
  MOEBIUS_SHARED(float, sums, 64);
  sums[thread()] = static_cast<float>(thread() + 1) * static_cast<float>(block_x() + 1);
  for (int half = 32; half > 0; half /= 2) {
    if (kBarrier) barrier();
    if (thread() < half) sums[thread()] = sums[thread()] + sums[thread() + half];
  }
  if (thread() == 0) out[block_x()] = sums[0];
}

TEST_F(Emulator, RunsEveryThreadOfEveryBlock) {
  float* out = floats(9);
  run(tree_sum<true>, Grid{9}, 64, 0, out);
  const std::vector<float> sums = read(out, 9);
  for (size_t i = 0; i < sums.size(); ++i) EXPECT_EQ(sums[i], 2080.0f * static_cast<float>(i + 1));
}

TEST_F(EmulatorDeathTest, SeesARaceOfWarps) {
  float* out = floats(9);
  EXPECT_DEATH(run(tree_sum<false>, Grid{9}, 64, 0, out),
               "cuda_emulator_test.cpp.*shared memory, which thread");
}

enum class Between { kNothing, kWarpBarrier, kBarrier };

// Every thread reads what its neighbour has written.
template <Between kBetween>
__global__ void pass_on(float* out) {
  const Shared<float> all = dynamic_shared<float>(16, threads());
  all[thread()] = static_cast<float>(thread());
  if (kBetween == Between::kWarpBarrier) warp_barrier();
  if (kBetween == Between::kBarrier) barrier();
  out[thread()] = all[(thread() + 1) % threads()];
}

TEST_F(Emulator, AWarpBarrierIsEnoughWithinAWarpAndABarrierWithinABlock) {
  float* out = floats(64);
  run(pass_on<Between::kWarpBarrier>, Grid{1}, 32, 16 + 32 * 4, out);
  EXPECT_EQ(read(out, 32)[31], 0.0f);
  run(pass_on<Between::kBarrier>, Grid{1}, 64, 16 + 64 * 4, out);
  EXPECT_EQ(read(out, 64)[62], 63.0f);
}

TEST_F(EmulatorDeathTest, SeesRacesOfLanesAndOfWarps) {
  float* out = floats(64);
  EXPECT_DEATH(run(pass_on<Between::kNothing>, Grid{1}, 32, 16 + 32 * 4, out), "shared memory, which thread");
  EXPECT_DEATH(run(pass_on<Between::kWarpBarrier>, Grid{1}, 64, 16 + 64 * 4, out),
               "shared memory, which thread");
}

// All read, then one writes.
template <bool kBarrier>
__global__ void overwrite(float* out) {
  MOEBIUS_SHARED(float, one, 1);
  if (thread() == 3) one[0] = 5.0f;
  barrier();
  const float seen = one[0];
  if (kBarrier) barrier();
  if (thread() == 40) one[0] = 6.0f;
  out[thread()] = seen;
}

TEST_F(EmulatorDeathTest, SeesAWriteAfterOthersHaveRead) {
  float* out = floats(64);
  run(overwrite<true>, Grid{1}, 64, 0, out);
  EXPECT_EQ(read(out, 64)[63], 5.0f);
  EXPECT_DEATH(run(overwrite<false>, Grid{1}, 64, 0, out), "writes byte .* read since the last barrier");
}

__global__ void different_barriers(int* at) {
  if (at[thread()] == 0)
    barrier();
  else
    barrier(__builtin_FILE(), __builtin_LINE());
}
__global__ void leaves_early() {
  if (thread() == 5) return;
  barrier();
}

TEST_F(EmulatorDeathTest, SeesDivergentBarriers) {
  float* zeros = floats(32);
  int* at = reinterpret_cast<int*>(zeros);
  run(different_barriers, Grid{1}, 32, 0, at);
  {
    const DeviceMemory::Open open(machine_.memory());
    at[9] = 1;
  }
  EXPECT_DEATH(run(different_barriers, Grid{1}, 32, 0, at), "waits at the barrier of .* but thread");
  EXPECT_DEATH(run(leaves_early, Grid{1}, 32, 0),
               "nobody can go on; at a barrier: .*30 others.*ended: thread 5");
}

__global__ void sum_of_lanes(float* out, int lanes) {
  if (lane() >= lanes) return;
  out[thread()] = warp_sum(static_cast<float>(thread()));
}

TEST_F(EmulatorDeathTest, ShufflesNeedEveryLane) {
  float* out = floats(64);
  run(sum_of_lanes, Grid{1}, 64, 0, out, 32);
  EXPECT_EQ(read(out, 64)[0], 496.0f);
  EXPECT_EQ(read(out, 64)[63], 1520.0f);
  EXPECT_DEATH(run(sum_of_lanes, Grid{1}, 64, 0, out, 31), "nobody can go on");
  EXPECT_DEATH(run(sum_of_lanes, Grid{1}, 48, 0, out, 32), "lacks lanes");
}

__global__ void past_the_end(float* out, int64_t at) {
  MOEBIUS_SHARED(float, few, 3);
  few[at] = 1.0f;
  out[0] = few[at];
}
__global__ void unwritten(float* out) {
  MOEBIUS_SHARED(float, one, 1);
  out[0] = one[0];
}

TEST_F(EmulatorDeathTest, KnowsTheEndsOfSharedMemory) {
  float* out = floats(1);
  run(past_the_end, Grid{1}, 1, 0, out, 2);
  EXPECT_DEATH(run(past_the_end, Grid{1}, 1, 0, out, 3), "element 3 of a shared array of 3");
  EXPECT_DEATH(run(pass_on<Between::kBarrier>, Grid{1}, 32, 32 * 4, out), "bytes \\[16, 144\\) of 128");
  run(unwritten, Grid{1}, 1, 0, out);
  EXPECT_NE(read(out, 1)[0], read(out, 1)[0]);
}

__global__ void write_at(float* out, int64_t at) { out[at] = 1.0f; }
__global__ void nothing() {}

TEST_F(EmulatorDeathTest, GuardsDeviceMemory) {
  float* out = floats(5);
  run(write_at, Grid{1}, 1, 0, out, 4);
  EXPECT_EQ(read(out, 5)[4], 1.0f);
  EXPECT_DEATH(run(write_at, Grid{1}, 1, 0, out, 5), "");  // the page behind it faults
  EXPECT_DEATH(out[0] = 1, "");                            // the host has no business there
  EXPECT_DEATH(
      {
        run(write_at, Grid{1}, 1, 0, out, -1);
        machine_.memory().give_back(out);
      },
      "wrote beside a piece of 20 bytes");
  float host = 0;
  EXPECT_DEATH(run(write_at, Grid{1}, 1, 0, &host, 0), "parameter 0 points to memory that the device cannot");
}

TEST_F(EmulatorDeathTest, RefusesLaunchesThatADeviceRefuses) {
  EXPECT_DEATH(run(nothing, Grid{0}, 1, 0), "a grid of 0 x 1 x 1 blocks");
  EXPECT_DEATH(run(nothing, Grid{1, 65536}, 1, 0), "a grid of 1 x 65536 x 1 blocks");
  EXPECT_DEATH(run(nothing, Grid{1}, 1025, 0), "1025 threads in a block");
  EXPECT_DEATH(run(nothing, Grid{1}, 32, 228 * 1024), "bytes of dynamic shared memory");
}

__global__ void note_order(int64_t* order, int64_t* next) {
  barrier();
  order[(*next)++] = block_x() * threads() + thread();
}

TEST(EmulatorOrder, FollowsFromTheSeed) {
  const auto order_of = [](uint64_t seed) {
    Machine machine({.seed = seed, .fit = Fit::kStart});
    constexpr int64_t kItems = 4 * 32;
    auto* order = static_cast<int64_t*>(machine.memory().take(kItems * 8, 0));
    auto* next = static_cast<int64_t*>(machine.memory().take(8, 0));
    launch(&machine, note_order, Grid{4}, 32, 0, order, next);
    const DeviceMemory::Open open(machine.memory());
    return std::vector<int64_t>(order, order + kItems);
  };
  const std::vector<int64_t> one = order_of(1), two = order_of(2);
  EXPECT_EQ(one, order_of(1));
  EXPECT_NE(one, two);
  EXPECT_EQ(std::set<int64_t>(one.begin(), one.end()).size(), one.size());
}

// What kernels would read as float32.
template <class Args>
void run_case(test::Case<Args> c) {
  const auto backend = emulator::make_emulated_backend(1, Fit::kStart);
  test::Mirror mirror(*backend, c.arena);
  test::call(*backend, mirror(c.args));
}
TEST(CudaOperationsDeathTest, RefuseACacheOfInt8) {
  constexpr DType kType = DType::kI8;
  EXPECT_DEATH(run_case(test::cache_write_case(kType, 2, 32, 4, 0, false)),
               "cache_write: a cache of I8; on a CUDA device it is F32 or BF16");
  EXPECT_DEATH(run_case(test::attention_case({kType, 2, 0, 2, 1, 32, 32, 4}, true)),
               "attention: a cache of I8");
  EXPECT_DEATH(run_case(test::mla_prefill_case({Format::kF32, kType, 2, 0, 1, 8, 8, 8, 32, 4}, false)),
               "mla_prefill: a cache of I8");
}

TEST(EmulatorOrder, DotsOfBytesAreSigned) {
  EXPECT_EQ(dot4(0x80ff017fu, 0x7f02ff7fu, 3), -128 * 127 - 2 - 1 + 127 * 127 + 3);
}

}  // namespace
}  // namespace moebius::cuda

#endif
