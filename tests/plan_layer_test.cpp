// plan_layer: a layer whose best cut is known, and random ones whose cuts are all tried.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "engine/plan_layer.h"

namespace moebius {
namespace {

TEST(PlanLayer, TheCutThatMakesTheSlowerSideFastest) {
  // 1 GB and 1e9 weights each: 0.1 s on the link, and 2 ms a token on the CPU, so they are equal at 50
  // tokens.
  const MachineSpeeds speeds{1000, 1e6, 10, 100, 1000, 1, 0};
  EXPECT_DOUBLE_EQ(break_even_tokens(1e9, 1e9, 0, speeds), 50);
  EXPECT_DOUBLE_EQ(break_even_tokens(1e9, 1e9, 2e7, speeds), 25);  // 2 ms a token on the link as well
  std::vector<ExpertLoad> experts;
  for (const double tokens : {200.0, 10.0, 60.0, 0.0, 20.0}) experts.push_back({tokens, 1, 1e9, 1e9});
  const LayerPlan plan = plan_layer(experts, speeds);
  // Streaming all takes 0.4 s; 10 and 20 on the CPU 0.06 beside 0.2; 60 as well 0.18 beside 0.1; all 0.58.
  EXPECT_EQ(plan.where,
            (std::vector<Where>{Where::kStreamed, Where::kCpu, Where::kCpu, Where::kIdle, Where::kCpu}));
  EXPECT_NEAR(plan.cpu_s, 0.18, 1e-12);
  EXPECT_NEAR(plan.link_s, 0.1, 1e-12);
  EXPECT_NEAR(plan.seconds, 0.18, 1e-12);

  experts[0].resident = true;  // then nothing else is worth the link
  const LayerPlan with = plan_layer(experts, speeds);
  EXPECT_EQ(with.where[0], Where::kResident);
  EXPECT_EQ(with.where[2], Where::kStreamed);
  EXPECT_NEAR(with.seconds, 0.1, 1e-12);

  LayerFrame stuck;
  stuck.can_stream = false;
  EXPECT_EQ(plan_layer(experts, speeds, stuck).streamed, 0);
  EXPECT_NEAR(plan_layer(experts, speeds, stuck).seconds, 0.18, 1e-12);
}

TEST(PlanLayer, DiskAndAttentionCount) {
  const MachineSpeeds speeds{1000, 1e6, 10, 100, 1000, 1, 0};
  std::vector<ExpertLoad> experts{{100, 1, 1e9, 1e9, false, false}, {5, 1, 1e9, 1e9}};
  EXPECT_NEAR(plan_layer(experts, speeds).disk_s, 1, 1e-12);  // 1 GB at 1 GB/s, wherever it is computed
  EXPECT_NEAR(plan_layer(experts, speeds).seconds, 1, 1e-12);
  experts[0].in_ram = true;
  LayerFrame frame;
  frame.before_s = 2, frame.device_s = 0.5;
  EXPECT_EQ(plan_layer({}, speeds, frame).seconds, 2.5);
  EXPECT_NEAR(plan_layer(experts, speeds, frame).seconds, 2.5, 0.01);
}

TEST(PlanLayer, OnlyAheadDoesTheLinkWorkBesideAttention) {
  const MachineSpeeds speeds{1e6, 1e9, 10, 1e-3, 1e-3, 1, 0};  // the CPU is of no use
  const std::vector<ExpertLoad> experts(4, {100, 1, 1e9, 1e9});
  LayerFrame frame;
  frame.before_s = 0.2;
  EXPECT_NEAR(plan_layer(experts, speeds, frame).seconds, 0.2 + 0.4, 1e-3);
  frame.ahead_s = 0.1;
  EXPECT_NEAR(plan_layer(experts, speeds, frame).seconds, 0.2 + 0.3, 1e-3);
}

TEST(PlanLayer, WhatTheCpuMakesOfTokensCrossesTheLink) {
  const MachineSpeeds speeds{1000, 1e6, 10, 100, 1000, 1, 0};
  LayerFrame frame;
  frame.vector_bytes = 1e7, frame.ask_s = 0.05;
  // 1 GB each: 0.1 s on the link. On the CPU 0.02 + 0.01 s and 0.1 + 0.05; and the CPU is asked once.
  const std::vector<ExpertLoad> experts{{10, 1, 1e9, 1e9}, {50, 1, 1e9, 1e9}};
  frame.can_stream = false;
  const LayerPlan plan = plan_layer(experts, speeds, frame);
  EXPECT_NEAR(plan.answer_s, 60 * 1e-3, 1e-12);
  EXPECT_NEAR(plan.seconds, 0.05 + 0.12 + 0.06, 1e-12);
  frame.can_stream = true;
  EXPECT_EQ(plan_layer(experts, speeds, frame).cpu, 1);  // 0.05 + 0.1 beside 0.2 and 0.23
  frame.vector_bytes = 0;
  EXPECT_NEAR(plan_layer(experts, speeds, frame).answer_s, 0, 0);
  frame.ask_s = 0.2;
  EXPECT_EQ(plan_layer(experts, speeds, frame).cpu, 0);
  EXPECT_EQ(plan_layer(experts, speeds, frame).ask_s, 0);
}

double seconds_of(const std::vector<ExpertLoad>& experts, const std::vector<bool>& on_cpu,
                  const MachineSpeeds& s, const LayerFrame& f) {
  double link = 0, device = f.device_s, cpu = f.cpu_s, disk = 0, answer = 0, ask = 0;
  for (size_t i = 0; i < experts.size(); ++i) {
    const ExpertLoad& e = experts[i];
    if (e.tokens == 0) continue;
    const double bytes = e.bytes * e.used * 1e-9, giga = 2e-9 * e.tokens * e.weights;
    const double vectors = 1e-9 * e.tokens * f.vector_bytes;
    if (on_cpu[i]) {
      cpu += std::max(bytes / s.ram_GBs, giga / s.cpu_GFLOPs);
      answer += vectors / s.link_GBs, ask = f.ask_s;
    } else {
      device += std::max((bytes + 2 * vectors) / s.device_GBs, giga / s.device_GFLOPs);
    }
    if (!on_cpu[i] && !e.resident) link += bytes / s.link_GBs;
    if (!e.in_ram && (on_cpu[i] || !e.resident)) disk += bytes / s.disk_GBs;
  }
  return f.before_s + std::max({link - f.ahead_s, ask + device, ask + cpu, disk}) + answer;
}

// Of all subsets for the CPU, those that are cuts of both queues.
TEST(PlanLayer, NoCutIsBetter) {
  std::mt19937_64 random(5);
  const auto draw = [&](double low, double high) {
    return std::exp(std::uniform_real_distribution<double>(std::log(low), std::log(high))(random));
  };
  for (int round = 0; round < 300; ++round) {
    const MachineSpeeds speeds{
        draw(50, 3000), draw(1e3, 1e5), draw(2, 60), draw(10, 500), draw(100, 5000), draw(1, 10), 0};
    LayerFrame frame;
    frame.before_s = draw(1e-6, 1e-3), frame.device_s = draw(1e-6, 1e-3);
    frame.can_stream = random() % 4 != 0;
    if (random() % 3 != 0) frame.vector_bytes = draw(1e2, 1e6), frame.ask_s = draw(1e-6, 1e-3);
    if (random() % 2 == 0) frame.ahead_s = draw(1e-7, 1e-3);
    const size_t n = 1 + random() % 10;
    std::vector<ExpertLoad> experts;
    for (size_t i = 0; i < n; ++i) {
      experts.push_back({std::floor(draw(0.5, 500)), 1, 2e7, 4e7, random() % 3 == 0, random() % 5 != 0});
    }
    const LayerPlan plan = plan_layer(experts, speeds, frame);
    std::vector<bool> on_cpu(n);
    for (size_t i = 0; i < n; ++i) on_cpu[i] = plan.where[i] == Where::kCpu;
    ASSERT_NEAR(plan.seconds, seconds_of(experts, on_cpu, speeds, frame), 1e-12);

    double best = INFINITY;
    for (size_t set = 0; set < size_t{1} << n; ++set) {
      bool allowed = true, cut = true;
      for (size_t i = 0; i < n; ++i) {
        on_cpu[i] = set >> i & 1;
        allowed = allowed && (on_cpu[i] || experts[i].resident || frame.can_stream || experts[i].tokens == 0);
      }
      for (size_t i = 0; i < n; ++i) {  // a cut takes whoever has fewer tokens first, within its queue
        for (size_t j = 0; j < n; ++j) {
          if (experts[i].resident != experts[j].resident || !on_cpu[i] || on_cpu[j]) continue;
          if (experts[i].tokens == 0 || experts[j].tokens == 0) continue;
          const bool later_i = experts[i].resident && !experts[i].in_ram,
                     later_j = experts[j].resident && !experts[j].in_ram;
          if (std::pair(later_i, experts[i].tokens) > std::pair(later_j, experts[j].tokens)) cut = false;
        }
      }
      if (allowed && cut) best = std::min(best, seconds_of(experts, on_cpu, speeds, frame));
    }
    ASSERT_NEAR(plan.seconds, best, 1e-12 + best * 1e-9) << round;
  }
}

}  // namespace
}  // namespace moebius
