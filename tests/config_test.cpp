// config.json and the binding of tensors: what is read, and what is refused with which words.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "models/weights.h"

namespace moebius {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

const std::string kModels = "tests/golden/models/";

Json config_of(const std::string& model) {
  std::ifstream file(kModels + model + "/config.json");
  return Json::parse(file);
}

Result<ModelConfig> parse(const Json& json) { return ModelConfig::parse(json.dump(), "config.json"); }

TEST(Config, ReadsEveryGoldenArchitecture) {
  for (const auto& entry : fs::directory_iterator(kModels)) {
    const auto config = ModelConfig::load(entry.path());
    EXPECT_TRUE(config.ok()) << entry.path() << ": " << config.status().message();
  }
}

TEST(Config, ReadsTheFieldsOfMla) {
  Json json = config_of("deepseek_v3_grouped");
  const auto c = parse(json);
  ASSERT_TRUE(c.ok());
  EXPECT_EQ(c->attention, AttentionKind::kMla);
  EXPECT_EQ(c->q_lora, json["q_lora_rank"].get<int64_t>());
  EXPECT_EQ(c->cache_width(), json["kv_lora_rank"].get<int64_t>() + json["qk_rope_head_dim"].get<int64_t>());
  EXPECT_EQ(c->moe.group_score, GroupScore::kTop2Sum);
  EXPECT_EQ(c->moe.scoring, Scoring::kSigmoid);
  EXPECT_FALSE(c->moe_layer[0]);
  EXPECT_TRUE(c->moe_layer[1]);
}

struct Refused {
  const char* field;
  Json value;
  const char* words;  // in the message
};

TEST(Config, RefusesWhatItCannotCompute) {
  const Refused cases[] = {
      {"model_type", "llama", "deepseek_v3"},
      {"hidden_act", "gelu", "silu"},
      {"hidden_size", 0, "hidden_size"},
      {"hidden_size", "64", "must be an integer"},
      {"hidden_size", 1e300, "must be an integer"},
      {"hidden_size", nullptr, "missing"},
      {"num_hidden_layers", -1, "num_hidden_layers"},
      {"num_experts_per_tok", 4096, "num_experts_per_tok"},
      {"n_group", 3, "n_group"},
      {"topk_group", 64, "n_group"},
      {"rms_norm_eps", "x", "rms_norm_eps"},
      {"rope_scaling", Json{{"type", "longrope"}}, "longrope"},
      {"rope_scaling", 3, "rope_scaling"},
      {"qk_rope_head_dim", 7, "even"},
      {"kv_lora_rank", int64_t{1} << 62, "kv_lora_rank"},
      {"quantization_config", Json{{"quant_method", "gptq"}}, "gptq"},
      {"quantization_config", Json{{"quant_method", "fp8"}, {"weight_block_size", {64, 64}}}, "128 x 128"},
      {"quantization_config", Json{{"quant_method", "compressed-tensors"}, {"format", "marlin"}}, "marlin"},
      {"moe_intermediate_sizes", Json{{1, 2}}, "moe_intermediate_sizes"},
      {"mlp_layer_types", Json{"sparse"}, "mlp_layer_types"},
      {"eos_token_id", -3, "eos_token_id"},
  };
  for (const Refused& c : cases) {
    Json json = config_of("deepseek_v3_grouped");
    json[c.field] = c.value;
    const auto config = parse(json);
    ASSERT_FALSE(config.ok()) << c.field << " = " << c.value;
    const std::string& message = config.status().message();
    EXPECT_NE(message.find(c.words), std::string::npos) << message;
    EXPECT_NE(message.find("config.json"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
}

TEST(Config, RefusesOtherZeroExpertsByName) {
  Json json = config_of("deepseek_v3_zeda");
  json["zce_types"] = {"copy"};
  const auto config = parse(json);
  ASSERT_FALSE(config.ok());
  EXPECT_NE(config.status().message().find("copy"), std::string::npos);
}

TEST(Config, RefusesTextThatIsNotAnObject) {
  std::string deep(100000, '[');
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{"), std::string("nul"), deep}) {
    EXPECT_FALSE(ModelConfig::parse(text, "config.json").ok());
  }
}

// YaRN's formulas (arXiv 2309.00071 and interfaces of the DeepSeek models), restated for one case by hand:
// theta 10000, dim 64, factor 40, original context 4096. Pair 0 turns 4096 / 2 pi = 651 times: kept. Pair 31
// never: slowed by 40.
TEST(Rotary, YarnKeepsFastPairsAndSlowsSlowOnes) {
  RotaryConfig r;
  r.dim = 64, r.yarn = true, r.factor = 40, r.original_context = 4096;
  r.mscale = 0.707, r.mscale_all_dim = 0.707;
  const RotaryTable table = rotary_table(r);
  ASSERT_EQ(table.inverse_frequency.size(), 32u);
  EXPECT_FLOAT_EQ(table.inverse_frequency[0], 1.0f);
  EXPECT_FLOAT_EQ(table.inverse_frequency[31], static_cast<float>(std::pow(10000.0, -62.0 / 64) / 40));
  EXPECT_FLOAT_EQ(table.magnitude, 1.0f);
  r.mscale_all_dim = 0;
  EXPECT_FLOAT_EQ(rotary_table(r).magnitude, static_cast<float>(0.1 * std::log(40.0) + 1));
}

// A copy of a golden model with one tensor changed, in a folder of its own.
class Altered {
 public:
  using Change = std::function<bool(TensorEntry&)>;  // false: leave the tensor out

  Altered(const std::string& model, const Change& change) {
    dir_ = testing::TempDir() + "/moebius_altered";
    fs::create_directories(dir_);
    fs::copy_file(kModels + model + "/config.json", dir_ + "/config.json",
                  fs::copy_options::overwrite_existing);
    auto checkpoint = Checkpoint::open(kModels + model);
    std::vector<TensorEntry> kept;
    for (const TensorEntry* entry : (*checkpoint)->tensors()) {
      TensorEntry copy = *entry;
      if (change(copy)) kept.push_back(copy);
    }
    SafetensorsWriter writer(dir_ + "/model.safetensors");
    for (const TensorEntry& t : kept) writer.declare(t.name, t.dtype, t.shape);
    for (const TensorEntry& t : kept) EXPECT_TRUE(writer.append(t.data, static_cast<size_t>(t.bytes)).ok());
    EXPECT_TRUE(writer.finish().ok());
  }
  ~Altered() { fs::remove_all(dir_); }

  std::string error() const {
    const auto files = ModelFiles::open(dir_);
    return files.ok() ? "" : files.status().message();
  }

 private:
  std::string dir_;
};

void expect_refused(const std::string& model, const Altered::Change& change, const std::string& words) {
  const Altered altered(model, change);
  const std::string message = altered.error();
  EXPECT_NE(message.find(words), std::string::npos) << "expected \"" << words << "\" in: " << message;
}

TEST(Weights, NamesAMissingTensor) {
  const std::string name = "model.layers.1.mlp.experts.2.down_proj.weight";
  expect_refused(
      "deepseek_v3_grouped", [&](TensorEntry& t) { return t.name != name; }, name);
  const std::string norm = "model.layers.0.self_attn.kv_a_layernorm.weight";
  expect_refused(
      "deepseek_v3_grouped", [&](TensorEntry& t) { return t.name != norm; }, norm);
}

TEST(Weights, NamesAWrongShape) {
  expect_refused(
      "deepseek_v3_grouped",
      [](TensorEntry& t) {
        if (t.name == "model.layers.0.self_attn.kv_b_proj.weight") std::swap(t.shape[0], t.shape[1]);
        return true;
      },
      "model.layers.0.self_attn.kv_b_proj");
}

TEST(Weights, NamesAWrongDtype) {
  expect_refused(
      "deepseek_v3_grouped",
      [](TensorEntry& t) {
        if (t.name == "lm_head.weight") t.dtype = DType::kI32;
        return true;
      },
      "I32");
}

TEST(Weights, NamesMissingOrWrongScales) {
  const auto without = [](const char* end) {
    return [end](TensorEntry& t) { return !t.name.ends_with(end); };
  };
  expect_refused("deepseek_v3_fp8", without(".weight_scale_inv"), "weight_scale_inv");
  expect_refused("deepseek_v3_int4", without(".weight_scale"), "weight_scale");
  expect_refused("deepseek_v3_int4", without(".weight_shape"), "weight_shape");
  expect_refused(
      "deepseek_v3_int8",
      [](TensorEntry& t) {
        if (t.name.ends_with(".weight_packed")) t.shape = {t.shape[1], t.shape[0]};
        return true;
      },
      "weight_packed");
}

TEST(Weights, NotesSkippedPredictionLayers) {
  const auto files = ModelFiles::open(kModels + "deepseek_v3_grouped");
  ASSERT_TRUE(files.ok());
  ASSERT_EQ((*files)->notes().size(), 1u);
  EXPECT_NE((*files)->notes()[0].find("multi-token-prediction"), std::string::npos);
}

TEST(Weights, RaggedWidthsComeFromTheFile) {
  const auto files = ModelFiles::open(kModels + "deepseek_v3_ragged");
  ASSERT_TRUE(files.ok()) << files.status().message();
  bool differ = false;
  for (const LayerWeights& layer : (*files)->weights().layers) {
    for (const ExpertWeights& e : layer.experts) {
      EXPECT_EQ(e.gate.rows, e.down.cols);
      differ |= e.gate.rows != layer.experts[0].gate.rows;
    }
  }
  EXPECT_TRUE(differ);
}

}  // namespace
}  // namespace moebius
