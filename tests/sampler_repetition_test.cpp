// DRY and XTC against a reading of their descriptions in Python (tests/golden/make_dry_xtc_golden.py).
#include <array>
#include <cmath>
#include <fstream>
#include <map>
#include <set>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "engine/sampler.h"

namespace moebius {
namespace {

using nlohmann::json;

json golden() { return json::parse(std::ifstream("tests/golden/dry_xtc_golden.json")); }

TEST(Dry, PunishesWhatTheReferenceDoes) {
  const json cases = golden()["dry"];
  ASSERT_EQ(cases.size(), 40u);
  int punished = 0;
  for (const json& c : cases) {
    SCOPED_TRACE(c.dump());
    SamplingParams params;
    params.dry_multiplier = c["multiplier"];
    params.dry_base = c["base"];
    params.dry_allowed_length = c["allowed"];
    params.dry_last = c["last"];
    params.dry_breakers = c["breakers"].get<std::vector<int32_t>>();
    const auto vocab = c["vocab"].get<size_t>();
    const std::vector<double> penalties = c["penalties"];
    Sampler sampler(params, static_cast<int64_t>(vocab));
    sampler.observe_prompt(c["history"].get<std::vector<int32_t>>());
    double sum = 0;
    for (const double penalty : penalties) {
      sum += std::exp(-penalty);
      punished += penalty > 0;
    }
    std::map<int32_t, double> actual;
    for (const auto& [probability, id] : sampler.distribution(std::vector<float>(vocab, 0.f)))
      actual[id] = probability;
    for (size_t id = 0; id < vocab; ++id) {
      // Penalties in float32: pow and the product are exact to 3 units in the last place, and exp magnifies
      // what is wrong in its argument; below e^-87 nothing is left of a probability.
      const double expected = std::exp(-penalties[id]) / sum, slack = 4 * 6e-8 * (1 + penalties[id]) + 1e-6;
      EXPECT_NEAR(actual[static_cast<int32_t>(id)], expected, slack * expected + 1e-37) << id;
    }
  }
  EXPECT_GT(punished, 30);
}

TEST(Dry, CountsTheAnswerAsItGrows) {
  SamplingParams params;
  params.temperature = 0;
  params.dry_multiplier = 10;
  Sampler sampler(params, 3);
  sampler.observe_prompt(std::vector<int32_t>{0, 1, 2, 0, 1});  // "2" would repeat "0 1 2"
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 2, 3}), 1);
  params.dry_multiplier = 0;
  Sampler plain(params, 3);
  params.dry_multiplier = 10;
  EXPECT_EQ(plain.sample(std::vector<float>{1, 2, 3}), 2);
  // A model that would say 0 for ever: 0 0 0, until the loss outweighs the logit.
  Sampler looping(params, 3);
  std::vector<int32_t> said;
  for (int i = 0; i < 5; ++i) said.push_back(looping.sample(std::vector<float>{5, 2, 1}));
  EXPECT_EQ(said, (std::vector<int32_t>{0, 0, 0, 1, 0}));
}

TEST(Xtc, LeavesWhatTheReferenceDoes) {
  const json cases = golden()["xtc"];
  ASSERT_EQ(cases.size(), 20u);
  for (const json& c : cases) {
    SCOPED_TRACE(c.dump());
    SamplingParams params;
    params.xtc_probability = 1;
    params.xtc_threshold = c["threshold"];
    std::vector<float> logits;
    for (const int value : c["logits_times_1024"]) logits.push_back(static_cast<float>(value) / 1024);
    Sampler sampler(params, static_cast<int64_t>(logits.size()));
    std::map<int32_t, double> actual;
    for (const auto& [probability, id] : sampler.distribution(logits)) actual[id] = probability;
    ASSERT_EQ(actual.size(), c["ids"].size());
    for (size_t i = 0; i < actual.size(); ++i) {
      const double expected = c["probabilities"][i];
      EXPECT_NEAR(actual[c["ids"][i]], expected, 2e-6 * expected);  // float32 exp of scores below 8
    }
  }
}

TEST(Xtc, IsAppliedAsOftenAsItsProbabilitySays) {
  SamplingParams params;
  params.xtc_probability = 0.25f;
  params.seed = 5;
  const std::vector<float> logits = {std::log(0.6f), std::log(0.3f), std::log(0.1f)};
  Sampler sampler(params, 3);
  constexpr int kDraws = 40'000;
  std::array<int, 3> counts = {};
  for (int i = 0; i < kDraws; ++i) {
    std::set<int32_t> next;
    for (const auto& [probability, id] : sampler.distribution(logits)) next.insert(id);
    const int32_t id = sampler.sample(logits);
    EXPECT_TRUE(next.contains(id));
    ++counts[static_cast<size_t>(id)];
  }
  // Applied, tokens 0 and 1 go and 2 stays alone (its share is at the threshold, give or take rounding: it is
  // in float32 below 0.1 or not, so either 1 or 2 is the least likely top choice).
  const double expected = 0.75 * 0.6 * kDraws;
  EXPECT_NEAR(counts[0], expected, 5 * std::sqrt(expected * (1 - 0.45)));
}

}  // namespace
}  // namespace moebius
