// Plans of moebius tenp: how many full experts a layer has, which widths use a budget up exactly, and what is
// refused.
#include "engine/prune/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include <fmt/format.h>

namespace moebius {
namespace {

using Counts = std::vector<int64_t>;

std::unique_ptr<ModelFiles> open(const std::string& name) {
  auto files = ModelFiles::open("tests/golden/models/" + name);
  EXPECT_TRUE(files.ok()) << files.status().message();
  return files.ok() ? std::move(*files) : nullptr;
}

PruneScores random_scores(const ModelFiles& files, uint32_t seed) {
  PruneScores scores = no_scores(files.config());
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (LayerScores& layer : scores.layers) {
    for (size_t e = 0; e < layer.tokens.size(); ++e) {
      layer.tokens[e] = static_cast<int64_t>(1000 * uniform(random));
      layer.gate[e] = uniform(random), layer.importance[e] = uniform(random);
    }
    for (float& neuron : layer.neurons) neuron = static_cast<float>(uniform(random) - 0.5);
  }
  return scores;
}

PrunePlan plan_of(const ModelFiles& files, const PruneScores& scores, const PruneRequest& request) {
  auto plan = plan_pruning(files, scores, request);
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  return plan.ok() ? std::move(*plan) : PrunePlan();
}

int64_t full_experts(const PrunePlan& plan, size_t layer) {
  return std::ranges::count(plan.widths[layer], plan.width);
}

// Weights 1, 1.25, 1.5, 1.75, 2 of 24: 3.2, 4, 4.8, 5.6, 6.4, of which rounding down leaves 2.
TEST(Trapezoid, GivesWhatRoundingLeavesToTheLargestRemainders) {
  EXPECT_EQ(trapezoid(24, 5, 16, 1, 2), (Counts{3, 4, 5, 6, 6}));
}

TEST(Trapezoid, GivesOfEqualRemaindersToTheDeeperLayer) {
  EXPECT_EQ(trapezoid(1, 2, 4, 1, 1), (Counts{0, 1}));
  EXPECT_EQ(trapezoid(5, 4, 4, 1, 1), (Counts{1, 1, 1, 2}));
}

// 0 : 1 : 2 of 9 is 0, 3, 6; the last takes 4, then the middle one 4 of 5, then one is left for the first.
TEST(Trapezoid, GivesWhatALayerCannotTakeToTheOthers) {
  EXPECT_EQ(trapezoid(9, 3, 4, 0, 1), (Counts{1, 4, 4}));
  EXPECT_EQ(trapezoid(12, 3, 4, 1, 2), (Counts{4, 4, 4}));
  EXPECT_EQ(trapezoid(0, 3, 4, 1, 2), (Counts{0, 0, 0}));
  EXPECT_EQ(trapezoid(3, 1, 4, 0, 2), (Counts{3}));
}

TEST(Trapezoid, SharesOutAllAndNeverFallsWithItsWeights) {
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    const int64_t layers = 1 + static_cast<int64_t>(random() % 60),
                  most = 1 + static_cast<int64_t>(random() % 400);
    const int64_t total = static_cast<int64_t>(random() % static_cast<uint64_t>(layers * most + 1));
    const double first = static_cast<double>(random() % 4),
                 last = first + static_cast<double>(1 + random() % 4);
    const Counts counts = trapezoid(total, layers, most, first, last);
    EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), total);
    EXPECT_LE(*std::ranges::max_element(counts), most);
    EXPECT_GE(*std::ranges::min_element(counts), 0);
    // In proportion, up to the rounding of each.
    for (size_t l = 1; l < counts.size(); ++l) EXPECT_GE(counts[l], counts[l - 1] - 1);
    if (::testing::Test::HasFailure()) FAIL() << total << " over " << layers << " of " << most;
  }
}

TEST(PrunePlan, UsesTheBudgetUpExactly) {
  const auto files = open("deepseek_v3_tiny");  // 2 layers of 8 experts of 32
  const PruneScores scores = random_scores(*files, 2);
  for (const double keep : {1.0, 0.9, 0.8, 0.77, 0.6, 0.5, 0.3}) {
    for (const int64_t multiple : {1, 2, 4, 8}) {
      const PrunePlan plan = plan_of(
          *files, scores, {PruneMethod::kTenp, keep, multiple == 8 ? keep / 10 : keep / 3, 1, 2, multiple});
      EXPECT_EQ(plan.neurons(),
                static_cast<int64_t>(keep * 16 * 32 / static_cast<double>(multiple) + 1e-6) * multiple)
          << keep << " " << multiple;
      EXPECT_EQ(plan.neurons_before(), 16 * 32);
      int64_t narrowest = 32, widest_narrow = 0;
      for (const Counts& layer : plan.widths) {
        for (const int64_t width : layer) {
          EXPECT_EQ(width % multiple, 0);
          narrowest = std::min(narrowest, width);
          if (width < 32) widest_narrow = std::max(widest_narrow, width);
        }
      }
      EXPECT_LE(widest_narrow, narrowest + multiple);  // the narrow ones differ by rounding alone
    }
  }
}

TEST(PrunePlan, KeepsTheMostImportantExpertsAndTheBestNeurons) {
  const auto files = open("deepseek_v3_tiny");
  const PruneScores scores = random_scores(*files, 3);
  // Half of 16 experts: 2.67 : 5.33 of them by 1 : 2.
  const PrunePlan plan = plan_of(*files, scores, {PruneMethod::kTenp, 0.75, 0.5, 1, 2, 1});
  EXPECT_EQ(full_experts(plan, 0), 3);
  EXPECT_EQ(full_experts(plan, 1), 5);
  for (size_t l = 0; l < 2; ++l) {
    double least_full = INFINITY, most_narrow = 0;
    for (size_t e = 0; e < 8; ++e) {
      double& bound = plan.widths[l][e] == 32 ? least_full : most_narrow;
      bound = plan.widths[l][e] == 32 ? std::min(bound, scores.layers[l].importance[e])
                                      : std::max(bound, scores.layers[l].importance[e]);
      const std::vector<int32_t>& kept = plan.kept[l][e];
      ASSERT_EQ(std::ssize(kept), plan.widths[l][e]);
      EXPECT_TRUE(std::ranges::is_sorted(kept));
      const std::set<int32_t> stays(kept.begin(), kept.end());
      ASSERT_EQ(stays.size(), kept.size());
      const float* neurons = scores.neurons(l, static_cast<int64_t>(e));
      float least_kept = INFINITY, most_gone = -INFINITY;
      for (int32_t k = 0; k < 32; ++k) {
        if (stays.contains(k))
          least_kept = std::min(least_kept, neurons[k]);
        else
          most_gone = std::max(most_gone, neurons[k]);
      }
      EXPECT_GE(least_kept, most_gone);
    }
    EXPECT_GT(least_full, most_narrow);
  }
}

TEST(PrunePlan, ComparesByUsageByGateAndAtRandom) {
  const auto files = open("qwen3_moe");
  const PruneScores scores = random_scores(*files, 4);
  const auto widths = [&](PruneMethod method, uint64_t seed = 1) {
    PruneRequest request{method, 0.6, 0.25, 1, 2, 1};
    request.seed = seed;
    return plan_of(*files, scores, request).widths;
  };
  PruneScores swapped = scores;
  for (LayerScores& layer : swapped.layers) layer.importance = layer.gate;
  EXPECT_EQ(widths(PruneMethod::kGate),
            plan_of(*files, swapped, {PruneMethod::kTenp, 0.6, 0.25, 1, 2, 1}).widths);
  for (LayerScores& layer : swapped.layers) layer.importance.assign(layer.tokens.begin(), layer.tokens.end());
  EXPECT_EQ(widths(PruneMethod::kUsage),
            plan_of(*files, swapped, {PruneMethod::kTenp, 0.6, 0.25, 1, 2, 1}).widths);
  EXPECT_NE(widths(PruneMethod::kUsage), widths(PruneMethod::kTenp));
  EXPECT_EQ(widths(PruneMethod::kRandom), widths(PruneMethod::kRandom));
  EXPECT_NE(widths(PruneMethod::kRandom, 1), widths(PruneMethod::kRandom, 2));
}

TEST(PrunePlan, MakesEqualWidthsOrDropsAsManyExpertsOfEveryGroup) {
  const auto tiny = open("deepseek_v3_tiny");
  const PrunePlan equal = plan_of(*tiny, random_scores(*tiny, 5), {PruneMethod::kEnp, 0.6, -1, 1, 2, 4});
  EXPECT_TRUE(equal.uniform());
  EXPECT_EQ(equal.widest(), 16);                     // 0.6 of 8 units of 4, rounded down
  const auto grouped = open("deepseek_v3_grouped");  // 4 groups of 4 experts, of which 2 groups are chosen
  const PruneScores scores = random_scores(*grouped, 6);
  const PrunePlan dropped = plan_of(*grouped, scores, {PruneMethod::kDrop, 0.5});
  EXPECT_EQ(dropped.experts_kept(), 8);
  for (int64_t group = 0; group < 4; ++group) {
    const auto begin = dropped.widths[0].begin() + 4 * group;
    EXPECT_EQ(std::count(begin, begin + 4, 16), 2);
    EXPECT_EQ(std::count(begin, begin + 4, 0), 2);
  }
}

TEST(PrunePlan, TakesWidthsThatTheFormatHolds) {
  EXPECT_EQ(default_multiple(*open("deepseek_v3_tiny")), 4);         // 32 / 8
  EXPECT_EQ(default_multiple(*open("deepseek_v3_int4")), 32);        // columns of a scale
  EXPECT_EQ(default_multiple(*open("glm4_moe_lite_int4_g64")), 32);  // one scale to a row
  EXPECT_EQ(default_multiple(*open("deepseek_v3_fp8")), 8);          // 136 = 8 * 17
}

TEST(PrunePlan, RefusesWhatCannotBe) {
  struct Case {
    const char* model;
    PruneRequest request;
    const char* says;
  };
  const PruneMethod tenp = PruneMethod::kTenp, drop = PruneMethod::kDrop;
  const Case cases[] = {
      {"deepseek_v3_tiny", {tenp, 0}, "--keep is 0; it must be above 0 and at most 1"},
      {"deepseek_v3_tiny", {tenp, 1.5}, "--keep is 1.5"},
      {"deepseek_v3_tiny", {tenp, NAN}, "--keep is nan"},
      {"deepseek_v3_tiny",
       {tenp, 0.5, 0.6},
       "--full-experts is 0.6; it must be between 0 and --keep, which is 0.5"},
      {"deepseek_v3_tiny", {tenp, 0.5, -0.5}, "--full-experts is -0.5"},
      {"deepseek_v3_tiny", {tenp, 0.5, 0.2, -1, 2}, "--depth-weights -1:2"},
      {"deepseek_v3_tiny", {tenp, 0.5, 0.2, 0, 0}, "--depth-weights 0:0"},
      {"deepseek_v3_tiny", {tenp, 0.5, 0.2, 1, INFINITY}, "--depth-weights 1:inf"},
      {"deepseek_v3_tiny",
       {tenp, 0.5, 0.2, 1, 2, 12},
       "--multiple 12 does not divide the experts' width of 32; 4 would"},
      {"deepseek_v3_int4", {tenp, 0.75, 0.5, 1, 2, 16}, "32 columns of this model's down_proj share a scale"},
      {"deepseek_v3_tiny", {tenp, 0.5, 0.5, 1, 2, 8}, "leaves some experts without 8 neurons"},
      {"deepseek_v3_tiny", {PruneMethod::kEnp, 0.1, -1, 1, 2, 8}, "keep 0.250 or more"},
      {"deepseek_v3_tiny", {drop, 0.3}, "--keep 0.3 leaves 2 of 8 experts, too few for a token's 3"},
      {"deepseek_v3_grouped", {drop, 0.25}, "--keep 0.25 leaves 4 of 16 experts"},
  };
  for (const Case& c : cases) {
    const auto files = open(c.model);
    const auto plan = plan_pruning(*files, no_scores(files->config()), c.request);
    ASSERT_FALSE(plan.ok()) << c.says;
    EXPECT_NE(plan.status().message().find(c.says), std::string::npos) << plan.status().message();
  }
}

// What a refusal names is enough.
TEST(PrunePlan, TheLeastItNamesDoes) {
  const auto files = open("deepseek_v3_tiny");
  const PruneScores scores = random_scores(*files, 7);
  for (const double full : {0.0, 0.1, 0.25, 0.5}) {
    const auto refused =
        plan_pruning(*files, scores, {PruneMethod::kTenp, std::max(full, 0.01), full, 1, 2, 8});
    ASSERT_FALSE(refused.ok());
    const std::string& text = refused.status().message();
    const double least = std::stod(text.substr(text.find("; keep ") + 7));
    EXPECT_TRUE(plan_pruning(*files, scores, {PruneMethod::kTenp, least, full, 1, 2, 8}).ok()) << text;
    EXPECT_FALSE(plan_pruning(*files, scores,
                              {PruneMethod::kTenp, least - 0.07, std::min(full, least - 0.07), 1, 2, 8})
                     .ok())
        << text;
  }
}

}  // namespace
}  // namespace moebius
