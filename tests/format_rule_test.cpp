// What a config.json says of formats: lists of published checkpoints, and those that programs write.
#include <gtest/gtest.h>

#include <fmt/format.h>

#include "models/format_rule.h"

namespace moebius {
namespace {

FormatRule rule_of(const std::string& quantization, const std::string& dtype = "bfloat16") {
  const Result<FormatRule> rule = FormatRule::read(
      fmt::format(R"({{"torch_dtype": "{}", "quantization_config": {}}})", dtype, quantization), "config");
  EXPECT_TRUE(rule.ok()) << rule.status().message();
  return rule.ok() ? *rule : FormatRule();
}

std::string packed(const std::string& ignore, const std::string& targets = R"(["Linear"])") {
  return fmt::format(R"({{"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": {},
      "config_groups": {{"group_0": {{"targets": {},
        "weights": {{"num_bits": 4, "group_size": 32, "strategy": "group"}}}}}}}})",
                     ignore, targets);
}

std::string fp8(const std::string& left_out) {
  return fmt::format(R"({{"quant_method": "fp8", "weight_block_size": [128, 128],
      "modules_to_not_convert": {}}})",
                     left_out);
}

Role role_of(const std::string& module) {
  if (module == "lm_head") return Role::kHead;
  if (module.find("self_attn") != std::string::npos) return Role::kAttention;
  if (module.find("shared_experts") != std::string::npos) return Role::kShared;
  if (module.find(".experts.") != std::string::npos) return Role::kExpert;
  return module.ends_with(".gate") ? Role::kRouter : Role::kDense;
}

const std::string kAttention = "model.layers.1.self_attn.o_proj", kDense = "model.layers.0.mlp.gate_proj",
                  kShared = "model.layers.1.mlp.shared_experts.up_proj",
                  kExpert = "model.layers.1.mlp.experts.0.gate_proj", kRouter = "model.layers.1.mlp.gate",
                  kHead = "lm_head";

Format format_in(const FormatRule& rule, const std::string& module) {
  const Result<Matrix> w = rule.stored(module, role_of(module), 256, 256);
  EXPECT_TRUE(w.ok());
  return w.ok() ? w->format : Format::kF32;
}

// In the order of attention, dense, shared, expert, router, head: q quantised, - not.
std::string formats(const FormatRule& rule) {
  std::string text;
  for (const std::string& module : {kAttention, kDense, kShared, kExpert, kRouter, kHead})
    text += format_in(rule, module) == Format::kBF16 ? '-' : 'q';
  return text;
}

TEST(FormatRule, OfPublishedCheckpoints) {
  // DeepSeek-V3 says nothing of its head, which is BF16 as in all of FP8.
  EXPECT_EQ(formats(rule_of(R"({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]})")),
            "qqqq--");
  EXPECT_EQ(formats(rule_of(fp8("null"))), "qqqq--");
  // Qwen3-30B-A3B-FP8, as far as it goes.
  EXPECT_EQ(formats(rule_of(fp8(R"(["lm_head", "model.layers.1.input_layernorm", "model.layers.1.mlp.gate",
                                    "model.layers.1.post_attention_layernorm"])"))),
            "qqqq--");
  // Kimi-K2-Thinking.
  EXPECT_EQ(formats(rule_of(packed(R"(["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*",
                                       "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"])"))),
            "---q--");
  EXPECT_EQ(formats(rule_of("null")), "------");
}

TEST(FormatRule, WhatIsLeftOutIsNamedByPartsOrExpressions) {
  EXPECT_EQ(formats(rule_of(packed("[]"))), "qqqq-q");  // `moebius quantize` packs heads
  EXPECT_EQ(formats(rule_of(packed(R"(["lm_head"])"))), "qqqq--");
  EXPECT_EQ(formats(rule_of(fp8(R"(["self_attn"])"))), "-qqq--");
  EXPECT_EQ(formats(rule_of(fp8(R"(["mlp.gate", "shared_experts"])"))), "qq-q--");
  EXPECT_EQ(formats(rule_of(packed(R"(["gate", "model.layers.0"])"))), "q-qq-q");
  EXPECT_EQ(
      formats(rule_of(packed(R"(["self_att", "o_pro", "layers.10", "model.layers.1.mlp.experts.00"])"))),
      "qqqq-q");
  EXPECT_EQ(formats(rule_of(packed(R"(["re:self_attn", "re:model\\.layers\\.1\\.mlp\\.experts\\."])"))),
            "qqq--q");
}

TEST(FormatRule, GroupsHaveTargets) {
  EXPECT_EQ(formats(rule_of(packed("[]", R"(["re:.*\\.experts\\..*"])"))), "---q--");
  const FormatRule mixed = rule_of(R"({"quant_method": "compressed-tensors", "format": "pack-quantized",
      "config_groups": {
        "group_0": {"targets": ["re:.*self_attn.*"], "weights": {"num_bits": 8, "strategy": "channel"}},
        "group_1": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 64}}}})");
  EXPECT_EQ(format_in(mixed, kAttention), Format::kInt8);
  EXPECT_EQ(format_in(mixed, kExpert), Format::kInt4);
  const Matrix w = *mixed.stored(kExpert, Role::kExpert, 2, 256),
               o = *mixed.stored(kAttention, Role::kAttention, 2, 256);
  EXPECT_EQ(w.bytes(), 2 * (128 + 4 * 2));  // nibbles, and a BF16 scale for 64 columns
  EXPECT_EQ(o.bytes(), 2 * (256 + 2));
}

TEST(FormatRule, WhatIsNotQuantisedHasTheTypeOfTheModel) {
  EXPECT_EQ(format_in(rule_of("null", "float32"), kAttention), Format::kF32);
  EXPECT_EQ(format_in(rule_of("null", "float16"), kRouter), Format::kF16);
  const FormatRule half = rule_of(packed(R"(["lm_head"])"), "float16");
  EXPECT_EQ(format_in(half, kHead), Format::kF16);
  EXPECT_EQ(half.stored(kExpert, Role::kExpert, 2, 256)->scale_dtype, DType::kF16);
  EXPECT_EQ(formats(FormatRule(Format::kInt4, true)), "---q--");
  EXPECT_EQ(formats(FormatRule(Format::kInt4, false)), "qqqq-q");
  EXPECT_EQ(formats(FormatRule(Format::kFp8Block, false)), "qqqq--");
}

TEST(FormatRule, BadListsAreRefused) {
  std::string many = "\"re:a\"";
  for (int i = 0; i < 2000; ++i) many += ", \"re:a\"";
  for (const std::string& ignore : {std::string(R"(["re:("])"), std::string("7"), "[" + many + "]"}) {
    const auto rule =
        FormatRule::read(fmt::format(R"({{"quantization_config": {}}})", packed(ignore)), "config.json");
    ASSERT_FALSE(rule.ok()) << ignore.substr(0, 20);
    EXPECT_EQ(rule.status().code(), Code::kInvalid);
    EXPECT_NE(rule.status().message().find("config.json"), std::string::npos);
  }
}

}  // namespace
}  // namespace moebius
