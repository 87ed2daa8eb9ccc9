// Sampler against the logits processors of Hugging Face transformers (tests/golden/make_sampler_golden.py),
// the published sequence of SplitMix64 and the statistics of its own draws.
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <random>
#include <set>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace moebius {
namespace {

using nlohmann::json;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

SamplingParams params_of(const json& fields) {
  SamplingParams params;
  params.temperature = fields.value("temperature", 1.f);
  params.top_k = fields.value("top_k", 0);
  params.top_p = fields.value("top_p", 1.f);
  params.min_p = fields.value("min_p", 0.f);
  params.repetition_penalty = fields.value("repetition_penalty", 1.f);
  return params;
}

std::vector<float> random_logits(size_t vocab, uint32_t seed, float scale = 3) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

TEST(Sampler, KeepsWhatTransformersKeepsWithTheSameProbabilities) {
  const json cases = json::parse(std::ifstream("tests/golden/sampler_golden.json"));
  ASSERT_EQ(cases.size(), 16u);
  for (const json& golden : cases) {
    SCOPED_TRACE(golden["params"].dump());
    std::vector<float> logits;
    for (int value : golden["logits_times_1024"]) logits.push_back(static_cast<float>(value) / 1024);
    Sampler sampler(params_of(golden["params"]), static_cast<int64_t>(logits.size()));
    sampler.observe_prompt(golden["prompt"].get<std::vector<int32_t>>());

    std::map<int32_t, double> expected, actual;
    for (size_t i = 0; i < golden["ids"].size(); ++i) expected[golden["ids"][i]] = golden["probabilities"][i];
    for (const auto& [probability, id] : sampler.distribution(logits)) actual[id] = probability;
    ASSERT_EQ(actual.size(), expected.size());
    for (const auto& [id, probability] : expected) {
      ASSERT_TRUE(actual.count(id)) << id;
      EXPECT_NEAR(actual[id], probability, 2e-6 * probability + 1e-9)
          << id;  // float32 exp of scores below 30
    }
    for (int32_t id = 0; id < 8; ++id) {
      const double raw = golden["raw_logprobs_0_to_7"][static_cast<size_t>(id)];
      EXPECT_NEAR(log_probability(logits, id).logprob, raw, 1e-6 * std::abs(raw));
    }
  }
}

// The first outputs for seed 1234567 as published
// (https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64); over 1024 equal tokens a draw is the first
// ten bits.
TEST(Sampler, DrawsFromThePublishedSplitMix64) {
  const std::vector<uint64_t> published = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                                           4593380528125082431u, 16408922859458223821u};
  SamplingParams params;
  params.seed = 1234567;
  Sampler sampler(params, 1024);
  const std::vector<float> logits(1024, 0.25f);
  for (uint64_t value : published) EXPECT_EQ(sampler.sample(logits), static_cast<int32_t>(value >> 54));
}

TEST(Sampler, FrequenciesFollowTheProbabilities) {
  const std::vector<float> logits = {0, -1, 1, 0.5f, -2, 0.25f, -0.5f, 1.5f, -3, 0.75f};
  for (uint64_t seed : {1u, 2u, 3u, 4u}) {
    for (bool head : {false, true}) {
      SamplingParams params;
      params.seed = seed;
      params.temperature = 0.9f;
      if (head) params.top_k = 6;
      Sampler sampler(params, 10);
      std::map<int32_t, int> counts;
      constexpr int kDraws = 40000;
      for (int i = 0; i < kDraws; ++i) ++counts[sampler.sample(logits)];
      double total = 0, chi_square = 0;
      std::map<int32_t, double> expected;
      for (int32_t id = 0; id < 10; ++id) {
        if (head && logits[static_cast<size_t>(id)] < 0) continue;  // six of the ten are not negative
        total += expected[id] = std::exp(static_cast<double>(logits[static_cast<size_t>(id)]) / 0.9f);
      }
      for (auto& [id, weight] : expected) {
        const double mean = weight / total * kDraws;
        chi_square += (counts[id] - mean) * (counts[id] - mean) / mean;
      }
      EXPECT_EQ(counts.size(), expected.size());
      // 99.9 % quantiles of chi-square with 9 and 5 degrees of freedom
      EXPECT_LT(chi_square, head ? 20.515 : 27.877) << "seed " << seed;
    }
  }
}

TEST(Sampler, SameSeedSameTokens) {
  SamplingParams params;
  params.top_p = 0.9f;
  auto answer = [&](uint64_t seed) {
    params.seed = seed;
    Sampler sampler(params, 500);
    std::vector<int32_t> ids;
    for (uint32_t step = 0; step < 40; ++step) ids.push_back(sampler.sample(random_logits(500, step)));
    return ids;
  };
  EXPECT_EQ(answer(7), answer(7));
  EXPECT_NE(answer(7), answer(8));
}

// A sort of everything is the oracle for the heap, the partition and the growing head.
TEST(Sampler, LargeVocabularyEqualsAFullSort) {
  constexpr size_t kVocab = 163840;
  const std::vector<float> logits = random_logits(kVocab, 99);
  std::vector<std::pair<float, int32_t>> sorted;
  for (size_t i = 0; i < kVocab; ++i) sorted.emplace_back(-logits[i], static_cast<int32_t>(i));
  std::sort(sorted.begin(), sorted.end());
  for (const auto& [top_k, top_p] : std::vector<std::pair<int64_t, float>>{
           {0, 0.1f}, {0, 0.7f}, {0, 0.9999f}, {20, 1}, {1000, 0.95f}, {5000, 0.99f}, {5000, 1}}) {
    SamplingParams params;
    params.top_k = top_k;
    params.top_p = top_p;
    double total = 0, sum = 0;
    const size_t head = top_k > 0 ? static_cast<size_t>(top_k) : kVocab;
    for (size_t i = 0; i < head; ++i)
      total += std::exp(static_cast<double>(sorted[0].first - sorted[i].first));
    size_t count = 0;
    while (count < head && (top_p == 1 || sum < top_p * total)) {
      sum += std::exp(static_cast<double>(sorted[0].first - sorted[count++].first));
    }
    Sampler sampler(params, kVocab);
    const auto actual = sampler.distribution(logits);
    // float32 weights may move the boundary by a token where a token's share is that small
    ASSERT_NEAR(static_cast<double>(actual.size()), static_cast<double>(count),
                top_p > 0.999f && top_p < 1 ? 2 : 0);
    for (size_t i = 0; i < std::min(count, actual.size());
         ++i) {  // arguments of exp near 16 are rounded to 2^-20
      ASSERT_NEAR(logits[static_cast<size_t>(actual[i].second)], -sorted[i].first, 3e-6) << i;
    }
  }
}

TEST(Sampler, GreedyTakesTheLowestIdOnTies) {
  SamplingParams params;
  params.temperature = 0;
  Sampler sampler(params, 6);
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 3, 2, 3, 3, -1}), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{-5, -5, -5, -5, -5, -5}), 0);
  params.temperature = 1;
  params.top_k = 2;
  Sampler two(params, 6);
  std::set<int32_t> ids;
  for (const auto& [probability, id] : two.distribution(std::vector<float>{1, 3, 2, 3, 3, -1}))
    ids.insert(id);
  EXPECT_EQ(ids, (std::set<int32_t>{1, 3}));
}

TEST(Sampler, NeverLeavesTheVocabularyWhateverTheLogits) {
  const std::vector<std::vector<float>> rows = {{kNan, kNan, kNan, kNan},     {-kInf, -kInf, -kInf, -kInf},
                                                {kNan, 1, kInf, -kInf},       {kInf, kInf, kNan, 0},
                                                {3e38f, -3e38f, 3e38f, 0},    {kNan, -kInf, 2, kNan},
                                                {-3e38f, -3e38f, kNan, -kInf}};
  for (float temperature : {0.f, 1e-30f, 1.f, 100.f}) {
    for (int64_t top_k : {0, 1, 3, 100}) {
      for (float top_p : {1e-6f, 0.5f, 1.f}) {
        for (float penalty : {1.f, 1e-3f, 10.f}) {
          SamplingParams params;
          params.temperature = temperature;
          params.top_k = top_k;
          params.top_p = top_p;
          params.min_p = 0.1f;
          params.repetition_penalty = penalty;
          params.frequency_penalty = -2;
          params.logit_bias = {{3, 100.f}};
          ASSERT_TRUE(params.validate(4).ok());
          Sampler sampler(params, 4);
          sampler.observe_prompt(std::vector<int32_t>{-1, 0, 3, 4, 1 << 30});
          for (const auto& row : rows) {
            const int32_t id = sampler.sample(row);
            ASSERT_GE(id, 0);
            ASSERT_LT(id, 4);
          }
        }
      }
    }
  }
  SamplingParams coldest;
  coldest.temperature = 0;
  Sampler greedy(coldest, 4), drawn({}, 4);
  EXPECT_EQ(greedy.sample(rows[2]), 2);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(drawn.sample(rows[2]), 2);
    EXPECT_EQ(drawn.sample(rows[5]), 2);  // NaN and -inf are impossible
    EXPECT_LT(drawn.sample(rows[3]), 2);
  }
}

// OpenAI's formula: logit[j] -= count[j] * frequency_penalty + (count[j] > 0) * presence_penalty.
TEST(Sampler, PenaltiesAndBiasCountTheAnswerOnly) {
  SamplingParams params;
  params.temperature = 0;
  params.presence_penalty = 1;
  params.frequency_penalty = 0.5f;
  params.logit_bias = {{2, 0.75f}};
  Sampler sampler(params, 3);
  sampler.observe_prompt(std::vector<int32_t>{0, 0, 0});
  const std::vector<float> logits = {4, 3, 1};
  // [4, 3, 1.75] -> 0; [2.5, 3, ..] -> 1; [2.5, 1.5, 1.75] -> 0; [2, ..] -> 0; [1.5, 1.5, 1.75] -> 2;
  // [1.5, 1.5, .25] -> 0 by the lower id
  for (int32_t expected : {0, 1, 0, 0, 2, 0}) EXPECT_EQ(sampler.sample(logits), expected);
}

TEST(Sampler, RepetitionPenaltyCountsAnswersToo) {
  SamplingParams params;
  params.temperature = 0;
  params.repetition_penalty = 2;
  Sampler sampler(params, 3);
  const std::vector<float> logits = {4, 3, -0.5f};
  for (int32_t expected : {0, 1, 0, 0}) EXPECT_EQ(sampler.sample(logits), expected);
}

TEST(Sampler, TopLogProbabilities) {
  const std::vector<float> logits = {0, std::log(2.f), std::log(5.f), -kInf, std::log(2.f), kNan};
  const auto top = top_log_probabilities(logits, 9);
  ASSERT_EQ(top.size(), 6u);
  const std::vector<int32_t> ids = {2, 1, 4, 0, 3, 5};
  const std::vector<double> shares = {0.5, 0.2, 0.2, 0.1};
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(top[i].id, ids[i]);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(top[i].logprob, std::log(shares[i]), 1e-6);
  EXPECT_EQ(top[4].logprob, kImpossible);
  EXPECT_EQ(log_probability(logits, 3).logprob, kImpossible);
  EXPECT_EQ(top_log_probabilities(logits, 2).size(), 2u);
  EXPECT_TRUE(top_log_probabilities(logits, 0).empty());
  EXPECT_NEAR(log_probability(std::vector<float>{3e38f, 3e38f}, 1).logprob, std::log(0.5), 1e-6);
  EXPECT_NEAR(log_probability(std::vector<float>{-1e4f, -1e4f}, 0).logprob, std::log(0.5), 1e-6);
}

TEST(SamplingParams, ValidateNamesTheField) {
  EXPECT_TRUE(SamplingParams{}.validate(10).ok());
  const auto message = [](auto change) {
    SamplingParams params;
    change(params);
    const Status status = params.validate(10);
    EXPECT_EQ(status.code(), Code::kInvalid);
    return status.message();
  };
  const auto names = [](const std::string& text, const char* field) {
    EXPECT_EQ(text.rfind(field, 0), 0u) << text;
  };
  for (float bad : {-0.1f, 100.5f, kNan, kInf}) {
    names(message([&](auto& p) { p.temperature = bad; }), "temperature");
    names(message([&](auto& p) { p.top_p = bad; }), "top_p");
    names(message([&](auto& p) { p.min_p = bad; }), "min_p");
    names(message([&](auto& p) { p.repetition_penalty = bad; }), "repetition_penalty");
    names(message([&](auto& p) { p.presence_penalty = bad * 30; }), "presence_penalty");
    names(message([&](auto& p) { p.frequency_penalty = bad * 30; }), "frequency_penalty");
    names(message([&](auto& p) { p.logit_bias = {{1, bad * 2000}}; }), "logit_bias");
  }
  names(message([](auto& p) { p.top_p = 0; }), "top_p");
  names(message([](auto& p) { p.repetition_penalty = 0; }), "repetition_penalty");
  names(message([](auto& p) { p.top_k = -1; }), "top_k");
  names(message([](auto& p) { p.logit_bias = {{10, 0.f}}; }), "logit_bias");
  names(message([](auto& p) { p.logit_bias = {{-1, 0.f}}; }), "logit_bias");
}

TEST(Sampler, KeepsToAMask) {
  const std::vector<float> logits = random_logits(200, 3);
  std::vector<uint64_t> mask((200 + 63) / 64);
  std::set<int32_t> allowed;
  for (int32_t id = 5; id < 200; id += 7) {
    mask[static_cast<size_t>(id) / 64] |= uint64_t{1} << (id % 64);
    allowed.insert(id);
  }
  SamplingParams greedy;
  greedy.temperature = 0;
  const auto better = [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] < logits[static_cast<size_t>(b)];
  };
  EXPECT_EQ(Sampler(greedy, 200).sample(logits, mask),
            *std::max_element(allowed.begin(), allowed.end(), better));
  SamplingParams params;
  params.temperature = 2;
  params.repetition_penalty = 1.3f;
  Sampler sampler(params, 200);
  std::set<int32_t> drawn;
  for (int i = 0; i < 3000; ++i) drawn.insert(sampler.sample(logits, mask));
  EXPECT_TRUE(std::includes(allowed.begin(), allowed.end(), drawn.begin(), drawn.end()));
  EXPECT_GT(drawn.size(), allowed.size() / 2);
  // Where all that is allowed is impossible, the lowest of it; ids beyond a short mask are not allowed.
  EXPECT_EQ(Sampler(params, 200).sample(std::vector<float>(200, -kInf), mask), 5);
  EXPECT_EQ(Sampler(greedy, 200).sample(std::vector<float>(200, kNan), mask), 5);
  EXPECT_EQ(Sampler(greedy, 200).sample(logits, std::vector<uint64_t>{8}), 3);
}

}  // namespace
}  // namespace moebius
