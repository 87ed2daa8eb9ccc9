// Where experts go and what is known of their use: the pure parts, and the file.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "engine/expert_store.h"
#include "engine/heat_file.h"
#include "models/weights.h"

namespace moebius {
namespace {

TEST(ExpertMoves, TheMostUsedTakeThePlacesOfTheLeastUsed) {
  const Residency residency = {{}, {true, true, false, false, false}};
  const ExpertBytes bytes = {{}, {10, 10, 10, 10, 10}};
  const auto moves = [&](std::vector<double> heat, int64_t most = 1000) {
    std::vector<std::pair<int64_t, int64_t>> found;
    for (const ExpertMove& m : plan_moves(residency, {{}, std::move(heat)}, bytes, most)) {
      EXPECT_EQ(m.layer, 1);
      found.emplace_back(m.out, m.in);
    }
    return found;
  };
  using Moves = std::vector<std::pair<int64_t, int64_t>>;
  EXPECT_EQ(moves({5, 6, 5, 6, 5}), Moves{});
  EXPECT_EQ(moves({5, 50, 5, 100, 5}), (Moves{{0, 3}}));
  EXPECT_EQ(moves({5, 50, 90, 100, 5}), (Moves{{0, 3}, {1, 2}}));
  EXPECT_EQ(moves({5, 50, 90, 100, 5}, 19), (Moves{{0, 3}}));
  EXPECT_EQ(moves({0, 0, 3, 0, 0}), Moves{});  // too few uses to say anything
  EXPECT_EQ(moves({0, 9, 10, 0, 0}), (Moves{{0, 2}}));
}

TEST(ExpertMoves, AnExpertFitsThePlaceItTakes) {
  const std::vector<ExpertMove> moves =
      plan_moves({{true, true, false}}, {{0, 1, 100}}, {{10, 20, 15}}, 1000);
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_EQ(moves[0].out, 1);
  EXPECT_EQ(moves[0].in, 2);
}

// Applied again and again to steady use, moves come to an end, with the most used on the device.
TEST(ExpertMoves, SteadyUseComesToRest) {
  std::mt19937 random(5);
  for (int round = 0; round < 50; ++round) {
    Residency residency(3, std::vector<bool>(12));
    ExpertHeat heat(3, std::vector<double>(12));
    for (size_t l = 0; l < 3; ++l)
      for (size_t e = 0; e < 12; ++e)
        residency[l][e] = random() % 3 == 0, heat[l][e] = static_cast<double>(random() % 100);
    const ExpertBytes bytes(3, std::vector<int64_t>(12, 1));
    int steps = 0;
    for (std::vector<ExpertMove> moves; !(moves = plan_moves(residency, heat, bytes, 2)).empty(); ++steps) {
      ASSERT_LT(steps, 40);
      ASSERT_LE(moves.size(), 2u);
      for (const ExpertMove& m : moves) {
        std::vector<bool>& layer = residency[static_cast<size_t>(m.layer)];
        const size_t out = static_cast<size_t>(m.out), in = static_cast<size_t>(m.in);
        ASSERT_TRUE(layer[out] && !layer[in]);
        layer[out] = false, layer[in] = true;
      }
    }
    for (size_t l = 0; l < 3; ++l)
      for (size_t in = 0; in < 12; ++in)
        for (size_t out = 0; out < 12; ++out)
          if (residency[l][out] && !residency[l][in]) {
            EXPECT_LT(heat[l][in], kMoveFactor * heat[l][out] + kMoveUses);
          }
  }
}

TEST(ExpertStore, SpreadsExpertsEvenlyOverTheLayers) {
  auto files = ModelFiles::open("tests/golden/models/deepseek_v3_tiny");
  ASSERT_TRUE(files.ok());
  const ModelConfig& config = (*files)->config();
  const Weights& weights = (*files)->weights();
  int64_t total = 0, layers = 0;
  for (const LayerWeights& layer : weights.layers) {
    layers += !layer.experts.empty();
    for (const ExpertWeights& e : layer.experts) total += expert_bytes(e);
  }
  for (const int64_t bytes : {int64_t{0}, total / 3, total / 2, total - 1, total}) {
    const Residency residency = hottest_first(weights, no_heat(weights), bytes);
    int64_t used = 0, most = 0, least = config.moe.n_experts;
    for (size_t l = 0; l < residency.size(); ++l) {
      if (residency[l].empty()) continue;
      const int64_t count = std::count(residency[l].begin(), residency[l].end(), true);
      most = std::max(most, count), least = std::min(least, count);
      for (size_t e = 0; e < residency[l].size(); ++e)
        if (residency[l][e]) used += expert_bytes(weights.layers[l].experts[e]);
    }
    EXPECT_LE(used, bytes);
    EXPECT_GT(used, bytes - expert_bytes(weights.layers.back().experts[0]) - 1);
    EXPECT_LE(most - least, 1);
  }
}

TEST(HeatFile, ForeignNumbersAreRefused) {
  const auto files = ModelFiles::open("tests/golden/models/deepseek_v3_tiny");
  ASSERT_TRUE(files.ok());
  const Weights& weights = (*files)->weights();
  const std::string path = testing::TempDir() + "heat/file.safetensors";
  ExpertHeat heat = no_heat(weights);
  heat.back()[3] = 7;
  ASSERT_TRUE(write_heat(path, "a", heat).ok());
  const Result<ExpertHeat> again = read_heat(path, "a", weights);
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(*again, heat);
  EXPECT_EQ(read_heat(path, "b", weights).status().code(), Code::kInvalid);
  EXPECT_EQ(read_heat(path + "x", "a", weights).status().code(), Code::kNotFound);
  for (const double wrong : {-1.0, static_cast<double>(INFINITY), static_cast<double>(NAN)}) {
    heat.back()[3] = wrong;
    ASSERT_TRUE(write_heat(path, "a", heat).ok());
    EXPECT_EQ(read_heat(path, "a", weights).status().code(), Code::kInvalid) << wrong;
  }
  heat.back() = {1, 2};
  ASSERT_TRUE(write_heat(path, "a", heat).ok());
  EXPECT_EQ(read_heat(path, "a", weights).status().code(), Code::kInvalid);
}

}  // namespace
}  // namespace moebius
