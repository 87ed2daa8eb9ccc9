// That a fine-tuning run allocates nothing once it runs: after the first steps, which let scratch memory find
// its size, a step takes no block of the size of an adapter, a gradient or an activation. Every way in which
// this program takes memory goes through the functions below.
#include <malloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include <gtest/gtest.h>

#include "engine/train/lora.h"
#include "engine/train/trainer.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored \
    "-Wmismatched-new-delete"  // inlined, these functions no longer look like a pair
#endif

namespace {
std::atomic<int64_t> largest{0}, held{0}, most{0};  // a block, all blocks now and at their most

void raise(std::atomic<int64_t>& to, int64_t value) {
  for (int64_t before = to; value > before && !to.compare_exchange_weak(before, value);) {
  }
}
void note(int64_t bytes) {
  raise(largest, bytes);
  raise(most, held += bytes);
}
void* take(size_t bytes, size_t align) {
  void* at = nullptr;
  if (posix_memalign(&at, std::max(align, sizeof(void*)), std::max<size_t>(bytes, 1)) != 0) std::abort();
  note(static_cast<int64_t>(malloc_usable_size(at)));
  return at;
}
void give(void* at) {
  held -= static_cast<int64_t>(malloc_usable_size(at));
  std::free(at);
}
}  // namespace

void* operator new(size_t bytes) { return take(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__); }
void* operator new(size_t bytes, std::align_val_t align) { return take(bytes, static_cast<size_t>(align)); }
void operator delete(void* at) noexcept { give(at); }
void operator delete(void* at, size_t) noexcept { give(at); }
void operator delete(void* at, std::align_val_t) noexcept { give(at); }
void operator delete(void* at, size_t, std::align_val_t) noexcept { give(at); }
extern "C" void* aligned_alloc(size_t align, size_t bytes) noexcept { return take(bytes, align); }
extern "C" void* mmap(void* at, size_t bytes, int protection, int flags, int file, off_t offset) noexcept {
  note(static_cast<int64_t>(bytes));
  return reinterpret_cast<void*>(syscall(SYS_mmap, at, bytes, protection, flags, file, offset));
}

namespace moebius {
namespace {

// Sequences of 2 to 40 tokens, so that batches differ in all their sizes.
Dataset some_data(int64_t vocab) {
  Dataset data;
  for (int64_t i = 0; i < 40; ++i) {
    std::vector<int32_t> ids(static_cast<size_t>(2 + (i * 7) % 39));
    for (size_t t = 0; t < ids.size(); ++t)
      ids[t] = static_cast<int32_t>((static_cast<size_t>(i) * 31 + t * 17) % static_cast<size_t>(vocab));
    data.add(ids, std::vector<uint8_t>(ids.size(), 1));
  }
  return data;
}

class TrainingMemory : public testing::TestWithParam<LoraOptimizer> {};

TEST_P(TrainingMemory, StepsTakeNoneOfAnySize) {
  auto files = ModelFiles::open("tests/golden/models/deepseek_v3_int4");
  ASSERT_TRUE(files.ok()) << files.status().message();
  const ModelConfig& config = (*files)->config();
  const RotaryTable rotary = rotary_table(config.rotary);
  const auto backend = make_host_backend({2});
  LoraOptions options;
  options.rank = 8, options.optimizer = GetParam();
  auto lora = LoraModel::create(config, (*files)->weights(), options);
  ASSERT_TRUE(lora.ok()) << lora.status().message();
  TrainerOptions steps;
  steps.steps = 100, steps.micro_tokens = 200, steps.lr = 1e-3;
  const Dataset data = some_data(config.vocab);
  auto trainer =
      Trainer::create({config, (*lora)->weights(), rotary, *backend}, **lora, all_of(data), steps, 2, "");
  ASSERT_TRUE(trainer.ok()) << trainer.status().message();
  constexpr int kEpoch = 5;  // steps that have seen every example
  for (int i = 0; i < kEpoch; ++i) ASSERT_TRUE((*trainer)->step().ok());
  int64_t adapter = 0;
  for (const optim::NamedGradient& g : (*lora)->named_gradients()) adapter += g.values.size() * 4;
  for (int i = 0; i < 3 * kEpoch; ++i) {
    const int64_t before = held;
    largest = 0, most = before;
    ASSERT_TRUE((*trainer)->step().ok());
    // Lists of a batch's tokens and of the experts in use are less than one tensor of activations.
    EXPECT_LT(largest, steps.micro_tokens * config.hidden * 4) << "step " << i;
    EXPECT_LT(most - before, adapter) << "step " << i;
  }
}

std::string name_of(const testing::TestParamInfo<LoraOptimizer>& one) {
  const char* const names[] = {"muon", "lora_muon", "adamw"};
  return names[static_cast<size_t>(one.param)];
}
INSTANTIATE_TEST_SUITE_P(All, TrainingMemory,
                         testing::Values(LoraOptimizer::kMuon, LoraOptimizer::kLoraMuon,
                                         LoraOptimizer::kAdamW),
                         name_of);

}  // namespace
}  // namespace moebius
