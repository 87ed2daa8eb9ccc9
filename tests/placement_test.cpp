// Plans: bytes against what files hold and publishers count, hand-made machines whose best plan is known, and
// on random machines: more memory is never slower.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "engine/placement.h"
#include "kernels/staging.h"
#include "models/geometries.h"

namespace moebius {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;
constexpr MachineSpeeds kWorkstation{800, 60000, 20, 200, 2000, 5, 20};  // DDR5 on 12 channels, PCIe 4
constexpr MachineSpeeds kDesktop{450, 30000, 12, 50, 500, 3, 20};        // two channels

ModelConfig geometry(const char* name) {
  const Result<std::string> text = geometry_config(name);
  return *ModelConfig::parse(*text, name);
}

ModelBytes bytes_of(const char* name, Format format, bool experts_only) {
  return *model_bytes(geometry(name), FormatRule{format, experts_only}, DType::kBF16);
}

int64_t sum_of(const std::vector<PlaceRow>& rows, int64_t PlaceRow::*place) {
  int64_t sum = 0;
  for (const PlaceRow& row : rows) sum += row.*place;
  return sum;
}

const PlaceRow& row_of(const ModelPlan& plan, const std::string& name) {
  for (const PlaceRow& row : plan.rows) {
    if (row.name == name) return row;
  }
  static const PlaceRow kNone;
  ADD_FAILURE() << "no row " << name;
  return kNone;
}

// --- bytes

TEST(ModelBytes, AreWhatPublishersCount) {
  // moonshotai/Moonlight-16B-A3B: 15.96 billion; moonshotai/Kimi-K2-Instruct: 1.026 trillion, 32 billion
  // active (which counts the embedding's table as well); deepseek-ai/DeepSeek-V3: 671 billion without MTP.
  EXPECT_NEAR(static_cast<double>(bytes_of("moonlight-16b-a3b", Format::kBF16, false).total().weights),
              15.96e9, 0.005e9);
  const ModelBytes kimi = bytes_of("kimi-k2", Format::kInt4, true);
  EXPECT_NEAR(static_cast<double>(kimi.total().weights), 1.026e12, 0.0005e12);
  EXPECT_NEAR(static_cast<double>(kimi.per_token().weights + kimi.embedding.weights), 32.9e9, 0.3e9);
  EXPECT_NEAR(static_cast<double>(bytes_of("deepseek-v3", Format::kFp8Block, false).total().weights), 671e9,
              0.5e9);
}

TEST(ModelBytes, KimisByHand) {
  const ModelBytes kimi = bytes_of("kimi-k2", Format::kInt4, true);
  ASSERT_EQ(kimi.layers.size(), 61u);
  EXPECT_TRUE(kimi.layers[0].experts.empty());
  ASSERT_EQ(kimi.layers[1].experts.size(), 384u);
  const int64_t numbers = 3 * 7168 * 2048;  // gate, up and down
  EXPECT_EQ(kimi.layers[1].experts[7].weights, numbers);
  EXPECT_EQ(kimi.layers[1].experts[7].bytes, numbers / 2 + numbers / 32 * 2);  // nibbles, BF16 scales
  EXPECT_EQ(kimi.layers[1].shared.bytes, numbers * 2);
  EXPECT_EQ(kimi.layers[0].dense.bytes, int64_t{3} * 7168 * 18432 * 2);
  EXPECT_EQ(kimi.layers[5].attention.weights,
            7168 * 1536 + 1536 * 64 * 192 + 7168 * 576 + 512 * 64 * 256 + 64 * 128 * 7168);
  EXPECT_EQ(kimi.cache_per_token, 61 * 576 * 2);
  EXPECT_EQ(kimi.top_k, 8);
  EXPECT_EQ(kimi.head.weights, int64_t{163840} * 7168 + 7168);  // and the final norm
}

TEST(ModelBytes, FromHeadersEqualTheTensorsInTheFiles) {
  for (const char* name : {"deepseek_v3_bf16", "deepseek_v3_ragged", "deepseek_v3_zeda", "qwen3_moe_int4",
                           "qwen3_moe_bf16", "deepseek_v3_fp8", "glm4_moe_lite_int4_g64", "glm4_moe"}) {
    const auto files = ModelFiles::open(std::string("tests/golden/models/") + name);
    ASSERT_TRUE(files.ok()) << files.status().message();
    int64_t matrices = 0, vectors = 0;  // bytes; numbers
    for (const TensorEntry* t : (*files)->checkpoint().tensors()) {
      const bool vector = t->shape.size() == 1;
      if (t->name.ends_with("weight_shape") || t->name.find("inv_freq") != std::string::npos) continue;
      (vector ? vectors : matrices) += vector ? t->shape[0] : t->bytes;
    }
    const Result<ModelBytes> counted = model_bytes((*files)->config(), (*files)->weights(), DType::kBF16);
    ASSERT_TRUE(counted.ok());
    EXPECT_EQ(counted->total().bytes, matrices + vectors * 4) << name;
  }
}

void expect_same(const ClassSize& have, const ClassSize& said, const std::string& what) {
  EXPECT_EQ(have.bytes, said.bytes) << what;
  EXPECT_EQ(have.weights, said.weights) << what;
}

TEST(ModelBytes, FromTheConfigurationAloneAreTheSame) {
  for (const char* name :
       {"deepseek_v2_lite", "deepseek_v3_bf16", "deepseek_v3_f16", "deepseek_v3_fp8", "deepseek_v3_int4",
        "deepseek_v3_int8", "deepseek_v3_ragged", "deepseek_v3_tiny", "deepseek_v3_zeda", "glm4_moe",
        "glm4_moe_fp8", "glm4_moe_lite_int4_g64", "glm4_moe_lite_zeda", "qwen3_moe_bf16", "qwen3_moe_f16",
        "qwen3_moe_int4", "qwen3_moe_int8", "qwen3_moe_ragged"}) {
    const std::string dir = std::string("tests/golden/models/") + name;
    const auto files = ModelFiles::open(dir);
    ASSERT_TRUE(files.ok()) << name;
    const Result<FormatRule> rule = FormatRule::read(*geometry_config(dir), dir);
    ASSERT_TRUE(rule.ok()) << rule.status().message();
    const ModelBytes have = *model_bytes((*files)->config(), (*files)->weights(), DType::kBF16);
    const ModelBytes said = *model_bytes((*files)->config(), *rule, DType::kBF16);
    EXPECT_EQ(have.format, said.format) << name;
    expect_same(have.embedding, said.embedding, name);
    expect_same(have.head, said.head, name);
    ASSERT_EQ(have.layers.size(), said.layers.size());
    for (size_t l = 0; l < have.layers.size(); ++l) {
      const LayerBytes &h = have.layers[l], &s = said.layers[l];
      const std::string at = std::string(name) + " layer " + std::to_string(l);
      expect_same(h.attention, s.attention, at + " attention");
      expect_same(h.dense, s.dense, at + " dense");
      expect_same(h.shared, s.shared, at + " shared");
      expect_same(h.router, s.router, at + " router");
      ASSERT_EQ(h.experts.size(), s.experts.size()) << at;
      for (size_t e = 0; e < h.experts.size(); ++e)
        expect_same(h.experts[e], s.experts[e], at + " expert " + std::to_string(e));
    }
  }
}

TEST(ModelBytes, HostileConfigurationsAreRefused) {
  const std::string start = R"({"model_type": "qwen3_moe", "num_attention_heads": 65536,
      "num_key_value_heads": 65536, "head_dim": 65536, "vocab_size": 16777216,
      "max_position_embeddings": 1073741824, "num_experts_per_tok": 1, )";
  for (const std::string& rest : std::vector<std::string>{
           R"("num_hidden_layers": 4096, "hidden_size": 1048576, "intermediate_size": 16777216,
              "moe_intermediate_size": 16777216, "num_experts": 1048576})",
           R"("num_hidden_layers": 4096, "hidden_size": 1048576, "intermediate_size": 16777216,
              "moe_intermediate_size": 16777216, "num_experts": 256})",
           R"("num_hidden_layers": 4096, "hidden_size": 1048576, "intermediate_size": 16777216})"}) {
    const Result<ModelConfig> config = ModelConfig::parse(start + rest, "hostile");
    ASSERT_TRUE(config.ok()) << config.status().message();
    const Result<ModelBytes> bytes = model_bytes(*config, FormatRule{}, DType::kF32);
    ASSERT_FALSE(bytes.ok());
    EXPECT_EQ(bytes.status().code(), Code::kInvalid);
  }
  // Large but countable: the plan adds up without overflow.
  const Result<ModelConfig> config = ModelConfig::parse(
      start + R"("num_hidden_layers": 2, "hidden_size": 1048576, "intermediate_size": 16777216,
                 "moe_intermediate_size": 16777216, "num_experts": 2})",
      "large");
  ASSERT_TRUE(config.ok());
  const Result<ModelBytes> bytes = model_bytes(*config, FormatRule{}, DType::kF32);
  ASSERT_TRUE(bytes.ok()) << bytes.status().message();
  const ModelPlan plan =
      plan_model(*bytes, kWorkstation, {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX});
  for (const PlaceRow& row : plan.rows) {
    EXPECT_GE(row.device, 0);
    EXPECT_GE(row.ram, 0);
    EXPECT_GE(row.disk, 0);
  }
  EXPECT_GT(plan.decode.tokens_per_s, 0);
  EXPECT_TRUE(std::isfinite(plan.prefill.seconds));
}

// --- plans by hand

// Two layers, of which the second has 4 experts of 1 GB (1e9 weights), 2 picked; nothing else but attention
// of 1 GB in each and a head of 1 GB.
ModelBytes small_model() {
  ModelBytes m;
  m.layers.resize(2);
  for (LayerBytes& layer : m.layers) layer.attention = {1'000'000'000, 1'000'000'000};
  m.layers[0].dense = {2'000'000'000, 2'000'000'000};
  m.layers[1].shared = {1'000'000'000, 1'000'000'000};
  m.layers[1].experts.assign(4, {1'000'000'000, 1'000'000'000});
  m.head = {1'000'000'000, 1'000'000'000};
  m.top_k = 2;
  m.workspace = 1000, m.state_per_token = 10, m.cache_per_token = 100;
  return m;
}

TEST(PlanModel, ATokenByHand) {
  const ModelBytes m = small_model();
  // 100 GB/s on the device, 10 in RAM, operations for nothing, 10 ms of hand-off.
  const MachineSpeeds speeds{100, 1e9, 10, 10, 1e9, 1, 10000};
  const int64_t always = 6'000'000'000;  // attention, dense, shared, head
  Budgets b{0, 100'000'000'000, 640, 1, 0, 100};

  const ModelPlan host = plan_model(m, speeds, b);
  EXPECT_EQ(host.shape, PlanShape::kHost);
  EXPECT_NEAR(host.decode.seconds, (6.0 + 2.0 + 100 * 100e-9) / 10, 1e-9);

  b.device_bytes = always + 4'500'000'000;  // less the driver's sixteenth: room for 3 experts
  const ModelPlan none = plan_model(m, speeds, b);
  ASSERT_EQ(none.shape, PlanShape::kDevice);
  EXPECT_EQ(none.experts_resident, 0);  // slots to stream through come before residents
  EXPECT_EQ(none.ring_slots, 3);
  EXPECT_NEAR(none.decode.seconds, (5.0 + 100 * 100e-9) / 100 + (0.01 + 2.0 / 10), 1e-9);

  b.device_bytes = always + 9'000'000'000;
  const ModelPlan all = plan_model(m, speeds, b);
  EXPECT_EQ(all.experts_resident, 4);
  EXPECT_EQ(all.ring_slots, 0);
  EXPECT_NEAR(all.decode.seconds, (5.0 + 1.0 + 2.0 + 100 * 100e-9) / 100, 1e-9);
  EXPECT_EQ(all.decode.handoff_s, 0);
  EXPECT_EQ(all.decode.hits, 1);
}

TEST(PlanModel, MissesOverlapWithHits) {
  ModelBytes m = small_model();
  m.layers[1].experts.assign(16, {1'000'000'000, 1'000'000'000});
  m.top_k = 4;
  const MachineSpeeds speeds{100, 1e9, 10, 10, 1e9, 1, 10000};
  const Budgets b{24'000'000'000, 100'000'000'000, 640, 1, 0, 100};
  const ModelPlan plan = plan_model(m, speeds, b);
  // 24 GB less the driver's 0.54, 6 that every token reads and 8 slots: 9 of 16 experts.
  ASSERT_EQ(plan.experts_resident, 9);
  EXPECT_NEAR(plan.decode.device_s, (1 + 4 * 9.0 / 16) / 100, 1e-9);
  EXPECT_NEAR(plan.decode.cold_s, 4 * 7.0 / 16 / 10, 1e-9);
  EXPECT_NEAR(plan.decode.hits, 9.0 / 16, 1e-12);
  double expected = 0;  // every way in which four picks fall
  for (int ways = 0; ways < 16; ++ways) {
    double chance = 1, device = 0.01, cpu = 0.01;
    for (int pick = 0; pick < 4; ++pick) {
      const bool hit = ways >> pick & 1;
      chance *= hit ? 9.0 / 16 : 7.0 / 16;
      (hit ? device : cpu) += hit ? 0.01 : 0.1;
    }
    expected += chance * std::max(device, cpu);
  }
  EXPECT_NEAR(plan.decode.experts_s, expected, 1e-9);
  EXPECT_NEAR(plan.decode.seconds, 0.05 + 1e-7 + expected, 1e-9);

  ExpertHeat heat(2);
  heat[1].assign(16, 0);
  heat[1][13] = 3, heat[1][2] = 1;
  const ModelPlan hot = plan_model(m, speeds, b, heat);
  EXPECT_TRUE(hot.resident[1][13]);
  EXPECT_TRUE(hot.resident[1][2]);
  EXPECT_NEAR(hot.decode.hits, 1, 1e-12);
}

TEST(PlanModel, ADeviceAsSlowAsTheCpuSharesTheWork) {
  ModelBytes m = small_model();
  m.layers[1].experts.assign(16, {1'000'000'000, 1'000'000'000});
  m.layers[1].shared = {};
  m.top_k = 4;
  const MachineSpeeds speeds{10, 1e9, 10, 10, 1e9, 1, 0};
  const ModelPlan plan = plan_model(m, speeds, {200'000'000'000, 100'000'000'000, 640, 1, 0, 100});
  EXPECT_EQ(plan.experts_resident, 8);
  // Of 16 ways for four picks, 2 are 4:0, 8 are 3:1 and 6 are 2:2; the longer side counts, 0.1 s a pick.
  EXPECT_NEAR(plan.decode.experts_s, (2 * 0.4 + 8 * 0.3 + 6 * 0.2) / 16, 1e-9);
}

TEST(PlanModel, ADeviceThatOnlyCostsHandOffsIsLeftOut) {
  const MachineSpeeds speeds{11, 1e9, 10, 10, 1e9, 1, 1e7};
  ModelBytes m = small_model();
  m.layers[1].experts.assign(64, {1'000'000'000, 1'000'000'000});
  const ModelPlan plan = plan_model(m, speeds, {8'000'000'000, 100'000'000'000, 640, 1, 0, 100});
  EXPECT_EQ(plan.shape, PlanShape::kHost);
  EXPECT_NE(plan.reasons[0].find("slower"), std::string::npos) << plan.reasons[0];
}

TEST(PlanModel, RamIsForWhatIsNotOnTheDevice) {
  ModelBytes m = small_model();
  m.layers[1].experts.assign(16, {1'000'000'000, 1'000'000'000});
  m.top_k = 4;
  Budgets b{24'000'000'000, 0, 640, 1, 0, 100};  // 9 residents, 7 cold
  b.ram_bytes = 5'000'000'000;                   // 4.69 of them to use
  ModelPlan plan = plan_model(m, kWorkstation, b);
  EXPECT_EQ(plan.experts_on_disk, 3);
  EXPECT_EQ(plan.experts_released, 9);
  EXPECT_EQ(row_of(plan, "routed experts").disk, 3'000'000'000);
  EXPECT_EQ(row_of(plan, "slots to stream").ram, kStagingBytes);
  EXPECT_EQ(plan.ram_used, sum_of(plan.rows, &PlaceRow::ram));
  EXPECT_NEAR(plan.decode.disk_s, 4 * 3.0 / 16 / 5, 1e-9);
  b.ram_bytes = plan.ram_for_all;
  plan = plan_model(m, kWorkstation, b);
  EXPECT_EQ(plan.experts_on_disk, 0);
  EXPECT_EQ(plan.experts_released, 9);
  b.ram_bytes -= 2;
  EXPECT_EQ(plan_model(m, kWorkstation, b).experts_on_disk, 1);
  b.ram_bytes = 100'000'000'000;
  EXPECT_EQ(plan_model(m, kWorkstation, b).experts_released, 0);

  b.device_bytes = 0;  // what every token reads does not fit: it is read from disk each time
  b.ram_bytes = 3'200'000'000 + kStagingBytes * 16 / 15;
  plan = plan_model(m, kWorkstation, b);
  EXPECT_NEAR(static_cast<double>(plan.ram_missing), 3e9, 1e6);
  EXPECT_NEAR(plan.decode.disk_s, (3.0 + 4.0) / 5, 1e-3);
}

TEST(PlanModel, WhatDoesNotFitIsToldWithTheNumberThatWould) {
  const ModelBytes moonlight = bytes_of("moonlight-16b-a3b", Format::kBF16, false);
  Budgets b{4 * kGiB, 64 * kGiB, 8192, 16, 0, 2048};
  const ModelPlan plan = plan_model(moonlight, kDesktop, b);
  EXPECT_EQ(plan.shape, PlanShape::kHost);
  EXPECT_GT(plan.device_needed, b.device_bytes);
  EXPECT_NE(plan.reasons[0].find(gib_text(plan.device_needed)), std::string::npos) << plan.reasons[0];
  EXPECT_NE(plan.reasons[0].find(std::to_string(plan.context_that_fits)), std::string::npos)
      << plan.reasons[0];
  ASSERT_GT(plan.context_that_fits, 0);
  Budgets less = b;
  less.context = plan.context_that_fits;
  EXPECT_NE(plan_model(moonlight, kDesktop, less).shape, PlanShape::kHost);
  less.context += 64;
  EXPECT_EQ(plan_model(moonlight, kDesktop, less).shape, PlanShape::kHost);
  b.device_bytes = plan.device_needed;
  EXPECT_NE(plan_model(moonlight, kDesktop, b).shape, PlanShape::kHost);
  b.device_bytes -= 2;
  EXPECT_EQ(plan_model(moonlight, kDesktop, b).shape, PlanShape::kHost);
  b.device_bytes = plan.device_for_all;
  EXPECT_EQ(plan_model(moonlight, kDesktop, b).experts_resident, plan.experts);
  b.device_bytes -= 2;
  EXPECT_LT(plan_model(moonlight, kDesktop, b).experts_resident, plan.experts);
}

// --- the models that people have

TEST(PlanModel, KimiOn24And768GiBNeedsNoDisk) {
  const ModelBytes kimi = bytes_of("kimi-k2", Format::kInt4, true);
  const ModelPlan plan = plan_model(kimi, kWorkstation, {24 * kGiB, 768 * kGiB, 16384, 1, 0, 4096});
  EXPECT_EQ(plan.shape, PlanShape::kDevice);
  EXPECT_EQ(plan.experts, 60 * 384);
  EXPECT_EQ(plan.experts_on_disk, 0);
  // By hand: attention 61 x 101.2e6 and router 60 x 384 x 7168 weights, dense 3 x 7168 x 18432, shared 60
  // x 44.0e6, head 1.174e9, all in BF16: 21.1 GB; the cache 16384 x 70272 bytes.
  double fixed = 0;
  for (const char* name : {"attention", "routers, norms", "dense layers", "shared experts", "head"})
    fixed += static_cast<double>(row_of(plan, name).device);
  const double attention = 7168.0 * 1536 + 1536 * 64 * 192 + 7168 * 576 + 512 * 64 * 256 + 64 * 128 * 7168;
  const double by_hand = 2 * (61 * attention + 60.0 * 384 * 7168 + 3.0 * 7168 * 18432 +
                              60 * 3.0 * 7168 * 2048 + 163840.0 * 7168);
  EXPECT_NEAR(fixed, by_hand, 0.01e9);
  EXPECT_NEAR(by_hand, 21.1e9, 0.1e9);
  EXPECT_EQ(row_of(plan, "cache").device, int64_t{16384} * 70272);
  // A token reads 8 of 384 experts of 24.8 MB in 60 layers from RAM: 11.9 GB at 200 GB/s, less the hits.
  EXPECT_NEAR(plan.decode.cold_s, 60 * 8 * 24.772608e-3 / 200 * (1 - plan.decode.hits), 1e-6);
  EXPECT_LE(plan.device_used, 24 * kGiB);
}

TEST(PlanModel, KimiOn24And512GiBReadsFromDisk) {
  const ModelBytes kimi = bytes_of("kimi-k2", Format::kInt4, true);
  const ModelPlan plan = plan_model(kimi, kWorkstation, {24 * kGiB, 512 * kGiB, 16384, 1, 0, 4096});
  // 570.8 GB of experts, 504 GiB of RAM less the embedding's 2.3 GB, and 16384 tokens' vectors on their way.
  const double room = 504.0 * kGiB - 163840.0 * 7168 * 2 - 16384.0 * 4 * (9 * 7168 + 8);
  const double cold = 60 * 384 * 24772608.0 - static_cast<double>(row_of(plan, "routed experts").device);
  EXPECT_NEAR(static_cast<double>(row_of(plan, "routed experts").disk), cold - room, 24772608);
  EXPECT_GT(plan.experts_on_disk, 1000);
  const double share = static_cast<double>(plan.experts_on_disk) / (60 * 384);
  EXPECT_NEAR(plan.decode.disk_s, 60 * 8 * 24.772608e-3 * share / 5, 1e-6);
  EXPECT_EQ(plan.experts_released, plan.experts_resident);
  const ModelPlan more = plan_model(kimi, kWorkstation, {24 * kGiB, 768 * kGiB, 16384, 1, 0, 4096});
  EXPECT_GT(more.decode.tokens_per_s, 1.2 * plan.decode.tokens_per_s);
}

// A longer pass takes what would hold so few experts that nobody feels it; else an eighth of what experts
// could have, and none where they all fit.
TEST(PlanModel, ALongPromptPassesTogether) {
  const ModelBytes kimi = bytes_of("kimi-k2", Format::kInt4, true);
  const ModelPlan plan = plan_model(kimi, kWorkstation, {24 * kGiB, 768 * kGiB, 16384, 1, 0, 15872});
  const ModelPlan few = plan_model(kimi, kWorkstation, {24 * kGiB, 768 * kGiB, 4096, 1, 0, 4096});
  EXPECT_EQ(few.pass_tokens, kPassTokens);
  EXPECT_GT(plan.pass_tokens, 15872 / 2);  // two passes
  EXPECT_EQ(plan.experts_resident, 0);     // 45 of 23040 there are in `few`
  EXPECT_GT(plan.prefill.tokens_per_s, 1.5 * few.prefill.tokens_per_s);
  EXPECT_GT(plan.decode.tokens_per_s, 0.98 * few.decode.tokens_per_s);
  const ModelPlan large = plan_model(kimi, kWorkstation, {80 * kGiB, 768 * kGiB, 32768, 1, 0, 16384});
  EXPECT_NEAR(static_cast<double>((large.pass_tokens - kPassTokens) * kimi.state_per_token),
              static_cast<double>(row_of(large, "routed experts").device) / 7, 30e6);
  // What is left over takes a pass of its own, and no more.
  const auto seconds = [&](int64_t prompt) {
    const ModelPlan p = plan_model(kimi, kWorkstation, {24 * kGiB, 768 * kGiB, 16384, 1, 0, prompt});
    return p.prefill.seconds;
  };
  const double one = seconds(plan.pass_tokens / 2);
  EXPECT_GT(seconds(2 * plan.pass_tokens + 400), plan.prefill.seconds + 0.1 * one);
  EXPECT_LT(seconds(2 * plan.pass_tokens + 400), plan.prefill.seconds + one);
  const ModelBytes moonlight = bytes_of("moonlight-16b-a3b", Format::kInt4, false);
  const ModelPlan whole = plan_model(moonlight, kDesktop, {24 * kGiB, 32 * kGiB, 8192, 1, 0, 8192});
  EXPECT_EQ(whole.pass_tokens, kPassTokens);
}

TEST(PlanModel, MoonlightOn12GiB) {
  const ModelBytes moonlight = bytes_of("moonlight-16b-a3b", Format::kInt4, false);
  const ModelPlan whole = plan_model(moonlight, kDesktop, {12 * kGiB, 32 * kGiB, 8192, 1, 0, 2048});
  EXPECT_EQ(whole.experts_resident, 26 * 64);  // 9.1 GB of int4: all of it fits
  const ModelBytes wide = bytes_of("moonlight-16b-a3b", Format::kBF16, false);
  const ModelPlan part = plan_model(wide, kDesktop, {12 * kGiB, 64 * kGiB, 8192, 1, 0, 2048});
  EXPECT_GT(part.decode.hits, 0.15);
  EXPECT_LT(part.decode.hits, 0.5);
  for (size_t l = 1; l < 27; ++l) {  // spread evenly
    const auto n = std::count(part.resident[l].begin(), part.resident[l].end(), true);
    EXPECT_NEAR(static_cast<double>(n), static_cast<double>(part.experts_resident) / 26, 1) << l;
  }
  EXPECT_GT(whole.decode.tokens_per_s, part.decode.tokens_per_s);
}

// --- more memory is never slower

class Machines {
 public:
  explicit Machines(uint64_t seed) : random_(seed) {}

  double draw(double low, double high) {
    return std::exp(std::uniform_real_distribution<double>(std::log(low), std::log(high))(random_));
  }
  int64_t whole(double low, double high) { return static_cast<int64_t>(draw(low, high)); }

  MachineSpeeds speeds() {  // a device that is no slower than the CPU
    MachineSpeeds s;
    s.ram_GBs = draw(5, 500), s.cpu_GFLOPs = draw(50, 5000), s.link_GBs = draw(1, 100);
    s.disk_GBs = draw(0.5, 20), s.handoff_us = draw(0.1, 300);
    s.device_GBs = s.ram_GBs * draw(1, 40), s.device_GFLOPs = s.cpu_GFLOPs * draw(1, 200);
    return s;
  }

  ClassSize size(double low, double high) {
    const int64_t weights = whole(low, high);
    return {weights * 2, weights};
  }

  ModelBytes model() {
    ModelBytes m;
    m.layers.resize(static_cast<size_t>(whole(1, 40)));
    const ClassSize attention = size(1e4, 1e8), shared = size(1e3, 1e8), router = size(1e3, 1e6),
                    dense = size(1e4, 1e8);
    ClassSize expert = size(1e4, 1e8);
    expert.bytes = expert.weights * 9 / 16;
    const size_t experts = static_cast<size_t>(whole(2, 100));
    m.top_k = whole(1, static_cast<double>(std::min<size_t>(experts, 20)));
    m.zero_experts = random_() % 4 == 0 ? whole(1, 64) : 0;
    for (LayerBytes& layer : m.layers) {
      layer.attention = attention, layer.router = router;
      const bool sparse = random_() % 8 != 0;
      if (!sparse) layer.dense = dense;
      if (sparse && random_() % 4 != 0) layer.shared = shared;
      if (sparse) layer.experts.assign(experts, expert);
    }
    m.head = size(1e4, 1e9);
    m.tied_head = random_() % 2 == 0;
    if (!m.tied_head) m.embedding = m.head;
    m.cache_per_token = whole(100, 1e5), m.workspace = whole(1e4, 1e8), m.state_per_token = whole(100, 1e5);
    m.mail_per_token = whole(100, 1e5), m.vector_bytes = m.mail_per_token / (1 + m.top_k);
    m.operations_per_pair = draw(10, 1e6);
    return m;
  }

 private:
  std::mt19937_64 random_;
};

void expect_sound(const ModelPlan& plan, const Budgets& b) {
  EXPECT_LE(plan.device_used, b.device_bytes);
  EXPECT_LE(plan.ram_used, b.ram_bytes + plan.ram_missing);
  EXPECT_EQ(plan.device_used, sum_of(plan.rows, &PlaceRow::device));
  EXPECT_FALSE(plan.reasons.empty());
  EXPECT_TRUE(std::isfinite(plan.decode.seconds) && plan.decode.seconds > 0);
  EXPECT_TRUE(std::isfinite(plan.prefill.seconds) && plan.prefill.seconds > 0);
}

TEST(PlanModel, MoreMemoryIsNeverSlower) {
  int64_t hybrid = 0, with_disk = 0, partly = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Machines machines(seed);
    const ModelBytes m = machines.model();
    const MachineSpeeds speeds = machines.speeds();
    const double all = static_cast<double>(m.total().bytes);
    Budgets b;
    b.context = machines.whole(64, 40000), b.sequences = machines.whole(1, 8),
    b.prompt = machines.whole(1, 20000);
    b.adapter_bytes = seed % 3 == 0 ? machines.whole(1, 1e7) : 0;
    ExpertHeat heat;
    if (seed % 4 == 0) {
      heat.resize(m.layers.size());
      for (size_t l = 0; l < heat.size(); ++l) {
        for (size_t e = 0; e < m.layers[l].experts.size(); ++e) heat[l].push_back(machines.draw(1e-3, 1));
      }
    }
    std::vector<int64_t> memory{0};
    for (int i = 0; i < 14; ++i) memory.push_back(machines.whole(all * 0.01, all * 4));
    std::sort(memory.begin(), memory.end());
    std::vector<std::vector<ModelPlan>> plans(memory.size());
    for (size_t d = 0; d < memory.size(); ++d) {
      for (const int64_t ram : memory) {
        b.device_bytes = memory[d], b.ram_bytes = ram;
        plans[d].push_back(plan_model(m, speeds, b, heat));
        expect_sound(plans[d].back(), b);
        hybrid += plans[d].back().shape == PlanShape::kDevice;
        with_disk += plans[d].back().experts_on_disk > 0;
        partly += plans[d].back().decode.hits > 0 && plans[d].back().decode.hits < 1;
      }
    }
    const auto expect_no_slower = [&](const ModelPlan& more, const ModelPlan& less, const char* what) {
      ASSERT_LE(more.decode.seconds, less.decode.seconds * (1 + 1e-9)) << what << seed;
      if (!heat.empty()) return;
      // Tokens' vectors cross the link; where all experts fit, none is streamed.
      if (less.shape == PlanShape::kHost && more.shape != less.shape) return;
      if (more.pass_tokens < less.pass_tokens) return;
      ASSERT_LE(more.prefill.seconds, less.prefill.seconds * (1 + 1e-9)) << what << seed;
    };
    for (size_t d = 0; d < memory.size(); ++d) {
      for (size_t r = 0; r < memory.size(); ++r) {
        if (d > 0) expect_no_slower(plans[d][r], plans[d - 1][r], "device, seed ");
        if (r > 0) expect_no_slower(plans[d][r], plans[d][r - 1], "RAM, seed ");
        if (HasFatalFailure()) return;
      }
    }
  }
  EXPECT_GT(hybrid, 1000);  // the machines drawn are of all kinds
  EXPECT_GT(with_disk, 1000);
  EXPECT_GT(partly, 500);
}

}  // namespace
}  // namespace moebius
