// Plans of fine-tunings: bytes by hand, what a small and a large device are given, more memory is never
// slower, limits that are the last to fit, and a plan beside what a run really takes.
#include <gtest/gtest.h>

#include <random>

#include "engine/train/device_training.h"
#include "engine/train/training_plan.h"
#include "models/geometries.h"

namespace moebius {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;
constexpr MachineSpeeds kDesktop{450, 30000, 12, 50, 500, 3, 20};

ModelConfig moonlight() {
  return *ModelConfig::parse(*geometry_config("moonlight-16b-a3b"), "moonlight-16b-a3b");
}

ModelBytes int4_of(const ModelConfig& config) {
  return *model_bytes(config, FormatRule{Format::kInt4, false}, DType::kF32);
}

TrainingShape shape_of(int64_t micro_tokens, int64_t rank) {
  TrainingShape shape;
  shape.micro_tokens = micro_tokens, shape.shortest = shape.sequence = 512;
  shape.lora.rank = rank, shape.lora.targets = {"q", "kv", "o", "experts"};
  shape.lora.optimizer = LoraOptimizer::kLoraMuon;
  return shape;
}

int64_t bytes_in(const TrainingPlan& plan, const std::string& name, int64_t PlaceRow::*place) {
  for (const PlaceRow& row : plan.rows)
    if (row.name == name) return row.*place;
  ADD_FAILURE() << "no row " << name;
  return 0;
}

TEST(TrainingBytes, MoonlightByHand) {
  const ModelConfig config = moonlight();
  const TrainingBytes b = *training_bytes(config, int4_of(config), shape_of(512, 8));
  // gate, up and down of 64 experts in 26 layers; q, kv_a, kv_b and o of 27.
  EXPECT_EQ(b.expert_adapters, int64_t{26} * 64 * 3 * 8 * (2048 + 1408) * 4);
  EXPECT_EQ(b.dense_adapters,
            int64_t{27} * 8 * 4 * ((2048 + 16 * 192) + (2048 + 576) + (512 + 16 * 256) + (16 * 128 + 2048)));
  EXPECT_EQ(b.merged, int64_t{27} * 4 * 512 * 16 * 256);
  EXPECT_EQ(b.momenta, b.gradients());
  EXPECT_EQ(b.inputs, int64_t{27} * 512 * 2048 * 4);
  TrainingShape adamw = shape_of(512, 8);
  adamw.lora.optimizer = LoraOptimizer::kAdamW;
  EXPECT_EQ(training_bytes(config, int4_of(config), adamw)->momenta, 2 * b.gradients());
}

TEST(TrainingPlan, GivesTheDeviceWhatItHasRoomFor) {
  const ModelConfig config = moonlight();
  TrainingShape shape = shape_of(4096, 8);
  shape.accumulation = 64;  // the way of residents' adapters to the optimizer does not count
  const TrainingBytes b = *training_bytes(config, int4_of(config), shape);
  // The CPU is too slow to take experts from the device.
  constexpr MachineSpeeds kSpeeds{450, 30000, 12, 50, 1, 3, 20};
  const auto plan = [&](int64_t device) { return plan_training(b, shape, kSpeeds, {device, 64 * kGiB}); };
  const TrainingPlan none = plan(0);
  EXPECT_FALSE(none.use_device);
  EXPECT_EQ(none.device_used, 0);
  const TrainingPlan small = plan(none.device_needed);
  EXPECT_TRUE(small.use_device);
  EXPECT_TRUE(small.park);
  EXPECT_FALSE(small.head_on_device);
  EXPECT_EQ(small.ring_places, 0);
  EXPECT_EQ(bytes_in(small, "activations kept", &PlaceRow::ram), b.inputs);
  EXPECT_FALSE(plan(none.device_needed - 1).use_device);
  EXPECT_FALSE(plan(none.device_needed - 1).reasons.empty());
  const TrainingPlan all = plan(none.device_for_all);
  EXPECT_EQ(all.experts_resident, all.experts);
  EXPECT_EQ(all.experts, 26 * 64);
  EXPECT_FALSE(all.park);
  EXPECT_TRUE(all.head_on_device);
  EXPECT_EQ(all.ring_places, 0);
  for (const TrainingPlan& p : {small, plan(6 * kGiB), plan(12 * kGiB), all})
    EXPECT_LE(p.device_used, std::max(p.device_needed, all.device_for_all));
}

TEST(TrainingPlan, MoreMemoryIsNeverSlower) {
  const ModelConfig config = moonlight();
  std::mt19937 random(5);
  const auto between = [&](double low, double high) {
    return low * std::pow(high / low, static_cast<double>(random() % 1000) / 999);
  };
  for (int machine = 0; machine < 20; ++machine) {
    const double cpu = between(100, 4000), ram = between(20, 400);
    const MachineSpeeds speeds{between(ram, 2000), between(cpu, 1e5), between(4, 60), ram, cpu, 3, 20};
    const TrainingShape shape = shape_of(int64_t{512} << random() % 4, 8);
    const TrainingBytes b = *training_bytes(config, int4_of(config), shape);
    double last = 0;
    for (int64_t device = plan_training(b, shape, speeds, {0, 64 * kGiB}).device_needed; device < 24 * kGiB;
         device += kGiB / 2) {
      const TrainingPlan plan = plan_training(b, shape, speeds, {device, 64 * kGiB});
      EXPECT_GE(plan.tokens_per_s, last * 0.99) << "machine " << machine << ", " << gib_text(device);
      EXPECT_LE(plan.device_used, device);
      last = std::max(last, plan.tokens_per_s);
    }
  }
}

TEST(TrainingPlan, LimitsAreTheLastThatFit) {
  const ModelConfig config = moonlight();
  const ModelBytes model = int4_of(config);
  const TrainingShape shape = shape_of(2048, 8);
  for (const TrainingBudgets& budgets :
       {TrainingBudgets{8 * kGiB, 24 * kGiB}, {0, 24 * kGiB}, {1, 24 * kGiB}}) {
    const TrainingLimits limits = *training_limits(config, model, shape, budgets);
    const auto fits = [&](int64_t tokens, int64_t rank) {
      TrainingShape s = shape;
      s.micro_tokens = tokens, s.lora.rank = rank, s.shortest = std::min(s.shortest, tokens);
      const TrainingPlan p = plan_training(*training_bytes(config, model, s), s, kDesktop, budgets);
      return p.ram_missing == 0 && (p.use_device || budgets.device_bytes == 0);
    };
    if (budgets.device_bytes == 1) {
      EXPECT_EQ(limits.micro_tokens, 0);
      EXPECT_EQ(limits.rank, 0);
      continue;
    }
    EXPECT_TRUE(fits(limits.micro_tokens, 8) && !fits(limits.micro_tokens + 1, 8)) << limits.micro_tokens;
    EXPECT_TRUE(fits(2048, limits.rank) && !fits(2048, limits.rank + 1)) << limits.rank;
  }
}

TEST(TrainingPlan, RefusesTargetsOfNoMatrix) {
  const ModelConfig config = moonlight();
  TrainingShape shape = shape_of(512, 8);
  shape.lora.targets = {"nonsense"};
  EXPECT_EQ(training_bytes(config, int4_of(config), shape).status().code(), Code::kInvalid);
}

// What a plan counts and what a device really takes differ by rounding alone.
TEST(TrainingPlan, CountsWhatARunTakes) {
  for (const char* name : {"deepseek_v3_int4", "qwen3_moe", "deepseek_v3_ragged"}) {
    const auto files = ModelFiles::open(std::string("tests/golden/models/") + name);
    const ModelConfig& config = (*files)->config();
    TrainingShape shape = shape_of(64, 4);
    shape.shortest = 16, shape.lora.targets = {};
    const auto lora = LoraModel::create(config, (*files)->weights(), shape.lora);
    const TrainingBytes b =
        *training_bytes(config, *model_bytes(config, (*files)->weights(), DType::kF32), shape);
    PassOptions pass;
    pass.max_tokens = 64, pass.shortest = 16;
    const double least = static_cast<double>(DeviceTraining::least_bytes(config, (*lora)->weights(), pass));
    const double planned =
        static_cast<double>(plan_training(b, shape, kDesktop, {0, 64 * kGiB}).device_needed);
    constexpr double kRounding = 4 << 20;  // both leave some room, and align what they place
    EXPECT_NEAR(planned, least, kRounding) << name;
  }
}

}  // namespace
}  // namespace moebius
