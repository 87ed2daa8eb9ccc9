// Experts in halves: the model computes what it did, its better halves are those of a pruning to half the
// width, and thresholds leave out what they say.
#include <fmt/format.h>

#include <algorithm>

#include "engine/prune/calibration.h"
#include "engine/prune/pruned_checkpoint.h"
#include "tests/adapter_cases.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;
using adapters::all_logits;
using adapters::kModels;
using adapters::read_golden;
using adapters::relative_error;
using process::Scratch;

constexpr double kOrderOfSums = 1e-5;  // relative, of float32 logits

PruneScores scores_of(const ModelFiles& files) {
  const std::vector<int32_t> ids = read_golden(files.checkpoint().dir()).ids;
  CalibrationOptions options;
  options.threads = 2;
  return *calibrate(files, std::span(&ids, 1), options);
}

PruneRequest request_of(PruneMethod method, double keep, bool halves) {
  PruneRequest request{method, keep, -1, 1, 2, 1};
  request.halves = halves;
  return request;
}

// The model, pruned, in dir.
PrunePlan write_pruned(const std::string& model, const PruneRequest& request, const std::string& dir) {
  const auto files = *ModelFiles::open(model);
  auto plan = plan_pruning(*files, scores_of(*files), request);
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  const auto checkpoint = PrunedCheckpoint::create(*files, *plan);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  fs::create_directories(dir);
  EXPECT_TRUE(checkpoint->write(dir, {2, {}}).ok());
  return std::move(*plan);
}

struct Shares {
  double expert = 0, minor = 0;
};

std::vector<float> logits_of(const std::string& dir, const std::vector<int32_t>& ids, Shares skip = {}) {
  EngineOptions options;
  options.model = dir, options.threads = 2, options.cache = CacheType::kF32;
  options.skip_threshold = skip.expert, options.skip_minor_threshold = skip.minor;
  const auto engine = Engine::open(options);
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return engine.ok() ? all_logits(**engine, ids) : std::vector<float>();
}

class Halves : public ::testing::TestWithParam<const char*> {
 protected:
  const std::string model_ = kModels + GetParam();
  const std::vector<int32_t> ids_ = read_golden(model_).ids;
  const Scratch scratch_;
  const std::string out_ = scratch_.file("halves");
};

TEST_P(Halves, ComputeWhatTheModelDid) {
  write_pruned(model_, request_of(PruneMethod::kTenp, 1, true), out_);
  const auto before = *ModelConfig::load(model_), after = *ModelConfig::load(out_);
  EXPECT_TRUE(after.moe.halves);
  EXPECT_EQ(after.moe.n_experts, 2 * before.moe.n_experts);
  EXPECT_EQ(after.moe.zero_experts, 2 * before.moe.zero_experts);
  EXPECT_EQ(after.moe.top_k, 2 * before.moe.top_k);
  EXPECT_EQ(after.moe.width, before.moe.width / 2);
  EXPECT_LT(relative_error(logits_of(out_, ids_), logits_of(model_, ids_)), kOrderOfSums);
}

TEST_P(Halves, ComputeWhatAPrunedModelDoes) {
  const std::string whole = scratch_.file("whole");
  write_pruned(model_, request_of(PruneMethod::kTenp, 0.6, true), out_);
  write_pruned(model_, request_of(PruneMethod::kTenp, 0.6, false), whole);
  EXPECT_FALSE(ModelConfig::load(out_)->moe.widths.empty());
  EXPECT_LT(relative_error(logits_of(out_, ids_), logits_of(whole, ids_)), kOrderOfSums);
}

// Without all minor halves it is the model whose experts keep their better half.
TEST_P(Halves, HaveTheBetterNeuronsFirst) {
  const PrunePlan plan = write_pruned(model_, request_of(PruneMethod::kTenp, 1, true), out_);
  const PruneScores scores = scores_of(**ModelFiles::open(model_));
  for (size_t l = 0; l < plan.kept.size(); ++l) {
    for (size_t e = 0; e < plan.kept[l].size(); ++e) {
      const std::vector<int32_t>& kept = plan.kept[l][e];
      const auto score = [&](int32_t k) { return scores.neurons(l, static_cast<int64_t>(e))[k]; };
      const auto middle = kept.begin() + plan.width / 2;
      EXPECT_GE(score(*std::ranges::min_element(kept.begin(), middle, {}, score)),
                score(*std::ranges::max_element(middle, kept.end(), {}, score)));
    }
  }
  const std::string half = scratch_.file("half");
  write_pruned(model_, request_of(PruneMethod::kEnp, 0.5, false), half);
  const std::vector<float> major = logits_of(out_, ids_, {0, 0.99});
  EXPECT_LT(relative_error(major, logits_of(half, ids_)), kOrderOfSums);
  EXPECT_GT(relative_error(major, logits_of(model_, ids_)), 1e-3);
}

// Shares are of experts, in halves or not; a minor threshold below the other changes nothing.
TEST_P(Halves, SkipWholeExpertsAsTheModelDoes) {
  write_pruned(model_, request_of(PruneMethod::kTenp, 1, true), out_);
  for (const double threshold : {0.3, 0.45}) {
    const std::vector<float> ours = logits_of(out_, ids_, {threshold, 0});
    EXPECT_LT(relative_error(ours, logits_of(model_, ids_, {threshold, 0})), kOrderOfSums);
    EXPECT_GT(relative_error(ours, logits_of(model_, ids_)), 1e-3);
    EXPECT_EQ(ours, logits_of(out_, ids_, {threshold, threshold / 2}));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Halves,
                         ::testing::Values("deepseek_v3_tiny",   // sigmoid, normalised, a selection bias
                                           "deepseek_v2_fused",  // softmax as it is, fused in the file
                                           "qwen3_moe",          // softmax, normalised
                                           "glm4_moe_fused", "deepseek_v3_bf16",
                                           "qwen3_moe_zeda"));  // zero experts become two, too

// Scores 8, 8, 4, 4, 2, 2, 2, 2 of 32: experts of shares 1/2, 1/4, 1/8 and 1/8.
TEST(HalvesByHand, LoseTheMinorOneFirst) {
  const float scores[] = {8, 4, 2, 2};
  float gate[8];
  for (int r = 0; r < 8; ++r) gate[r] = std::log(scores[r / 2]);
  float one = 1, weights[8];
  int32_t ids[8];
  RouterArgs args;
  args.x = f32_tensor(&one, {1, 1});
  args.gate.rows = 8, args.gate.cols = 1, args.gate.data = gate;
  args.n_experts = 8, args.normalize = true, args.scale = 2;
  args.ids = Tensor(ids, DType::kI32, {1, 8}), args.weights = f32_tensor(weights, {1, 8});
  args.skip_below = 0.15f / 2, args.skip_odd_below = 0.3f / 2;
  make_host_backend({1})->router(args);
  EXPECT_TRUE(std::ranges::equal(ids, std::vector<int32_t>{0, 1, 2, -1, -1, -1, -1, -1}));
  EXPECT_FLOAT_EQ(weights[0], 0.5f);  // not more than with all of them
  EXPECT_FLOAT_EQ(weights[2], 0.25f);
  EXPECT_EQ(weights[3], 0);
}

TEST(HalvesOnDevices, ComputeWhatTheHostDoesBitByBit) {
  const Scratch scratch;
  const std::string model = kModels + "deepseek_v3_int8", out = scratch.file("halves");
  PruneRequest request = request_of(PruneMethod::kTenp, 1, true);
  request.multiple = 32;
  write_pruned(model, request, out);
  const std::vector<int32_t> ids = read_golden(model).ids;
  EngineOptions options;
  options.model = out, options.threads = 2, options.context = 64;
  options.skip_threshold = 0.2, options.skip_minor_threshold = 0.5;
  const auto logits = [&] {
    const auto engine = Engine::open(options);
    EXPECT_TRUE(engine.ok()) << engine.status().message();
    std::vector<float> all = engine.ok() ? all_logits(**engine, ids) : std::vector<float>();
    if (engine.ok()) {
      EXPECT_GT(slots_of((*engine)->expert_map()).skip_rate(), 0);
    }
    return all;
  };
  const std::vector<float> on_host = logits();
  options.skip_minor_threshold = 0;
  EXPECT_NE(logits(), on_host);
  options.skip_minor_threshold = 0.5;
  options.device = DeviceKind::kSim;
  EXPECT_EQ(logits(), on_host);
  const std::string refused = [&] {
    options.device_memory = 1;
    return Engine::open(options).status().message();
  }();
  const size_t at = refused.find("take ");  // what it needs without experts
  ASSERT_NE(at, std::string::npos) << refused;
  options.device_memory = std::stoll(refused.substr(at + 5)) + (1 << 14);
  EXPECT_EQ(logits(), on_host);
}

TEST(HalvesRefuse, WhatHasNone) {
  const Scratch scratch;
  EngineOptions options;
  options.model = kModels + "deepseek_v3_tiny", options.skip_minor_threshold = 0.2;
  EXPECT_NE(Engine::open(options).status().message().find("are not in halves"), std::string::npos);
  const auto says = [&](const std::string& model, PruneRequest request) {
    const auto files = *ModelFiles::open(kModels + model);
    return plan_pruning(*files, no_scores(files->config()), request).status().message();
  };
  EXPECT_NE(
      says("deepseek_v3_grouped", request_of(PruneMethod::kTenp, 1, true)).find("scores a group of experts"),
      std::string::npos);
  PruneRequest narrow = request_of(PruneMethod::kEnp, 0.5, true);
  narrow.multiple = 16;
  EXPECT_NE(says("deepseek_v3_tiny", narrow).find("has no two halves of multiples of 16"), std::string::npos);
  const std::string out = scratch.file("halves");
  write_pruned(options.model, request_of(PruneMethod::kTenp, 1, true), out);
  EXPECT_NE(check_prunable(**ModelFiles::open(out)).message().find("in halves already"), std::string::npos);
  std::string config = process::read_file(out + "/config.json");
  const size_t at = config.find("\"num_experts_per_tok\": ");
  ASSERT_NE(at, std::string::npos);
  config.replace(at, config.find(',', at) - at, "\"num_experts_per_tok\": 3");
  EXPECT_NE(ModelConfig::parse(config, "it").status().message().find("are no pairs"), std::string::npos);
}

}  // namespace
}  // namespace moebius
