// PEFT adapters against the peft library: tests/golden/adapters holds adapters that peft made, with its
// merged deltas (make_peft_golden.py). Round trips through both layouts, and everything that must be refused.
#include "models/peft.h"

#include <gtest/gtest.h>

#include <unistd.h>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <random>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "kernels/half.h"
#include "models/file_io.h"
#include "models/peft_fused.h"
#include "models/peft_pattern.h"
#include "models/safetensors.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

const std::string kAdapters = "tests/golden/adapters/";
const std::string kModels = "tests/golden/models/";

ModelConfig model_config(const std::string& name) {
  auto config = ModelConfig::load(kModels + name);
  EXPECT_TRUE(config.ok()) << config.status().message();
  return *config;
}

Json read_json(const std::string& path) {
  auto text = read_text_file(path, 1 << 20);
  EXPECT_TRUE(text.ok()) << text.status().message();
  return Json::parse(*text);
}

// The model that a golden adapter belongs to.
std::string model_of(const std::string& adapter) {
  const std::string base = read_json(kAdapters + adapter + "/adapter_config.json")["base_model_name_or_path"];
  return base.substr(base.find('/') + 1);
}

std::vector<std::string> adapter_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kAdapters)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

Adapter read_golden(const std::string& name) {
  auto adapter = read_adapter(kAdapters + name, model_config(model_of(name)));
  EXPECT_TRUE(adapter.ok()) << adapter.status().message();
  return adapter.ok() ? *adapter : Adapter();
}

// scale * B A, in float64.
std::vector<double> delta_of(const AdapterFactors& f) {
  std::vector<double> delta(static_cast<size_t>(f.out * f.in));
  for (int64_t o = 0; o < f.out; ++o) {
    for (int64_t r = 0; r < f.rank; ++r) {
      const double b = static_cast<double>(f.scale) * f.b[static_cast<size_t>(o * f.rank + r)];
      for (int64_t i = 0; i < f.in; ++i) {
        delta[static_cast<size_t>(o * f.in + i)] += b * f.a[static_cast<size_t>(r * f.in + i)];
      }
    }
  }
  return delta;
}

const AdapterFactors* find(const Adapter& adapter, const std::string& module) {
  for (const AdapterFactors& f : adapter.factors) {
    if (f.module == module) return &f;
  }
  return nullptr;
}

std::vector<std::string> modules_of(const Adapter& adapter) {
  std::vector<std::string> names;
  for (const AdapterFactors& f : adapter.factors) names.push_back(f.module);
  return names;
}

void expect_same(const Adapter& a, const Adapter& b) {
  ASSERT_EQ(modules_of(a), modules_of(b));
  for (size_t i = 0; i < a.factors.size(); ++i) {
    const AdapterFactors &x = a.factors[i], &y = b.factors[i];
    SCOPED_TRACE(x.module);
    EXPECT_EQ(x.rank, y.rank);
    EXPECT_EQ(x.in, y.in);
    EXPECT_EQ(x.out, y.out);
    EXPECT_EQ(x.scale, y.scale);
    EXPECT_TRUE(x.a == y.a && x.b == y.b);
  }
}

class PeftTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "moebius-peft-XXXXXX";
    dir_ = mkdtemp(pattern.data());
  }
  void TearDown() override { fs::remove_all(dir_); }

  // A copy of a golden adapter, to spoil.
  void copy(const std::string& name) {
    for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
      fs::copy_file(kAdapters + name + "/" + file, dir_ + "/" + file, fs::copy_options::overwrite_existing);
    }
  }
  void edit_config(const std::function<void(Json&)>& edit) {
    Json document = read_json(dir_ + "/adapter_config.json");
    edit(document);
    ASSERT_TRUE(write_text_file(dir_ + "/adapter_config.json", document.dump()).ok());
  }
  struct Stored {
    DType dtype = DType::kF32;
    std::vector<int64_t> shape;
    std::string bytes;
  };
  using Tensors = std::map<std::string, Stored>;
  static Stored floats(std::vector<int64_t> shape, const std::vector<float>& values) {
    return {DType::kF32, std::move(shape),
            std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float))};
  }
  void write_tensors(const Tensors& tensors, const std::string& file = "adapter_model.safetensors") {
    SafetensorsWriter writer(dir_ + "/" + file);
    for (const auto& [name, t] : tensors) writer.declare(name, t.dtype, t.shape);
    for (const auto& [name, t] : tensors) ASSERT_TRUE(writer.append(t.bytes.data(), t.bytes.size()).ok());
    ASSERT_TRUE(writer.finish().ok());
  }
  void edit_tensors(const std::function<void(Tensors&)>& edit) {
    Tensors tensors;
    {
      auto file = SafetensorsFile::open(dir_ + "/adapter_model.safetensors");
      ASSERT_TRUE(file.ok());
      for (const TensorEntry& t : (*file)->tensors()) {
        tensors[t.name] = {t.dtype, t.shape,
                           std::string(static_cast<const char*>(t.data), static_cast<size_t>(t.bytes))};
      }
    }
    edit(tensors);
    write_tensors(tensors);
  }
  Result<Adapter> read(const std::string& model) const { return read_adapter(dir_, model_config(model)); }
  void expect_refused(const std::string& model, Code code, const std::string& says) const {
    auto adapter = read(model);
    ASSERT_FALSE(adapter.ok()) << "was read, but should say: " << says;
    EXPECT_EQ(adapter.status().code(), code) << adapter.status().message();
    EXPECT_NE(adapter.status().message().find(says), std::string::npos) << adapter.status().message();
  }
  std::string dir_;
};

class GoldenAdapter : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Peft, GoldenAdapter, testing::ValuesIn(adapter_names()),
                         [](const auto& at) { return at.param; });

TEST_P(GoldenAdapter, HasPeftsMergedDeltas) {
  const Adapter adapter = read_golden(GetParam());
  auto golden = SafetensorsFile::open(kAdapters + GetParam() + "/golden.safetensors");
  ASSERT_TRUE(golden.ok());
  int64_t probes = 0, deltas = 0;
  for (const TensorEntry& t : (*golden)->tensors()) {
    const bool probe = t.name.starts_with("probe.");
    if (!probe && !t.name.starts_with("delta.")) continue;
    (probe ? probes : deltas) += 1;
    const AdapterFactors* f = find(adapter, t.name.substr(6));
    ASSERT_NE(f, nullptr) << t.name;
    const std::vector<double> delta = delta_of(*f);
    const std::vector<int64_t> shape{f->out, f->in};
    EXPECT_EQ(t.shape, probe ? std::vector<int64_t>{f->out} : shape);
    for (int64_t o = 0; o < f->out; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < f->in; ++i) {
        const double d = delta[static_cast<size_t>(o * f->in + i)];
        sum += d * static_cast<double>((7919 * i) % 13 - 6) / 6;
        if (probe) continue;
        ASSERT_NEAR(d, load_unaligned<float>(t.data, o * f->in + i), 1e-6) << t.name;
      }
      if (!probe) continue;
      ASSERT_NEAR(sum, load_unaligned<float>(t.data, o), 1e-5) << t.name;
    }
  }
  EXPECT_EQ(probes, static_cast<int64_t>(adapter.factors.size()));
  EXPECT_GE(deltas, 2);
}

TEST_P(GoldenAdapter, SurvivesWritingInBothLayouts) {
  const std::string model = model_of(GetParam());
  const Adapter adapter = read_golden(GetParam());
  for (const AdapterLayout layout : {AdapterLayout::kFused, AdapterLayout::kPerExpert}) {
    std::string dir = testing::TempDir() + "moebius-peft-XXXXXX";
    dir = mkdtemp(dir.data());
    AdapterWriteOptions options;
    options.layout = layout;
    options.base_model = "golden/" + model;
    const Status written = write_adapter(dir, model_config(model), adapter.factors, options);
    ASSERT_TRUE(written.ok()) << written.message();
    auto again = read_adapter(dir, model_config(model));
    ASSERT_TRUE(again.ok()) << again.status().message();
    expect_same(adapter, *again);
    EXPECT_EQ(again->base_model, options.base_model);
    EXPECT_EQ(again->adapted, adapter.adapted);
    fs::remove_all(dir);
  }
}

TEST(Adapters, AreCountedByRole) {
  const Adapter adapter = read_golden("deepseek_v3_all");
  EXPECT_EQ(
      describe_adapter(adapter),
      "71 of 73 matrices: 12 of 12 attention, 3 of 3 dense, 6 of 6 shared, 48 of 48 expert, 2 of 2 router");
  EXPECT_EQ(adapter.tensors, 54);
}

TEST(Adapters, CoverTheLayersThatTheyName) {
  const Adapter adapter = read_golden("glm4_down");
  EXPECT_EQ(adapter.adapted[static_cast<size_t>(Role::kAttention)], 2);
  EXPECT_EQ(adapter.adapted[static_cast<size_t>(Role::kExpert)], 8);
  EXPECT_EQ(find(adapter, "model.layers.0.self_attn.o_proj"), nullptr);
}

TEST(Adapters, OfTheHeadComeWithACopyOfIt) {
  const Adapter adapter = read_golden("deepseek_v2_patterns");
  ASSERT_NE(find(adapter, "lm_head"), nullptr);
  ASSERT_EQ(adapter.notes.size(), 1u);
  EXPECT_NE(adapter.notes[0].find("lm_head.base_layer.weight"), std::string::npos);
}

TEST(Adapters, TakeRanksAndScalesFromPatterns) {
  const Adapter adapter = read_golden("deepseek_v2_patterns");
  const auto expect = [&](const std::string& module, int64_t rank, double scale) {
    const AdapterFactors* f = find(adapter, "model.layers." + module);
    ASSERT_NE(f, nullptr) << module;
    EXPECT_EQ(f->rank, rank) << module;
    EXPECT_FLOAT_EQ(f->scale, static_cast<float>(scale)) << module;
  };
  expect("0.self_attn.q_proj", 2, 1.5);
  expect("0.self_attn.o_proj", 4, 7.0 / 4);
  expect("1.self_attn.o_proj", 5, 3.0 / 5);
  expect("1.mlp.experts.3.up_proj", 6, 0.5);
  expect("1.mlp.experts.3.down_proj", 2, 0.75);
  expect("1.mlp.shared_experts.up_proj", 1, 3);
  expect("1.mlp.shared_experts.down_proj", 2, 1.5);
}

// Halves of gate_up that share nothing come back apart: what per-expert training needs.
TEST_F(PeftTest, FusedLayoutStoresGateAndUpBlockDiagonally) {
  const ModelConfig model = model_config("deepseek_v2_lite");
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<AdapterFactors> factors;
  const auto add = [&](const std::string& module, int64_t rank, int64_t out, int64_t in, float scale) {
    AdapterFactors f{module, rank, in, out, {}, {}, scale};
    for (int64_t i = 0; i < rank * in; ++i) f.a.push_back(normal(random));
    for (int64_t i = 0; i < rank * out; ++i) f.b.push_back(normal(random));
    factors.push_back(std::move(f));
  };
  add("model.layers.0.self_attn.q_proj", 3, 128, 64, 0.3f);
  for (int e = 0; e < 8; ++e) {
    const std::string at = fmt::format("model.layers.1.mlp.experts.{}.", e);
    add(at + "gate_proj", 3, 24, 64, 0.3f);
    add(at + "up_proj", 3, 24, 64, 0.3f);
    add(at + "down_proj", 3, 64, 24, 0.3f);
  }
  ASSERT_TRUE(write_adapter(dir_, model, factors, {}).ok());
  const Json config = read_json(dir_ + "/adapter_config.json");
  EXPECT_EQ(config["r"], 3);
  EXPECT_EQ(config["target_modules"], Json({"model.layers.0.self_attn.q_proj"}));
  EXPECT_EQ(config["target_parameters"], Json({"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}));
  EXPECT_EQ(config["rank_pattern"], Json({{"mlp\\.experts\\.gate_up_proj", 6}}));
  EXPECT_NEAR(config["alpha_pattern"]["mlp\\.experts\\.gate_up_proj"].get<double>(), 1.8, 1e-6);
  auto file = SafetensorsFile::open(dir_ + "/adapter_model.safetensors");
  ASSERT_TRUE(file.ok());
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const TensorEntry& t : (*file)->tensors()) shapes[t.name] = t.shape;
  const std::string experts = "base_model.model.model.layers.1.mlp.experts.";
  EXPECT_EQ(shapes[experts + "base_layer.lora_A.weight"], (std::vector<int64_t>{48, 64}));
  EXPECT_EQ(shapes[experts + "base_layer.lora_B.weight"], (std::vector<int64_t>{48, 48}));
  EXPECT_EQ(shapes[experts + "lora_A.weight"], (std::vector<int64_t>{24, 24}));
  EXPECT_EQ(shapes[experts + "lora_B.weight"], (std::vector<int64_t>{64, 24}));
  auto again = read_adapter(dir_, model);
  ASSERT_TRUE(again.ok()) << again.status().message();
  Adapter expected;
  expected.factors = factors;
  expect_same(expected, *again);
}

// An expert without factors, smaller ranks and other scales: the same deltas after the fused layout.
TEST_F(PeftTest, FusedLayoutEvensOutExperts) {
  const std::string name = "per_expert";
  const ModelConfig model = model_config(model_of(name));
  Adapter adapter = read_golden(name);
  std::erase_if(adapter.factors, [](const AdapterFactors& f) {
    return f.module.find("experts.2.") != std::string::npos || f.module.ends_with("experts.4.gate_proj");
  });
  for (AdapterFactors& f : adapter.factors) {
    if (f.module.find("experts.5.") == std::string::npos) continue;
    f.scale *= 2.5f;
    f.rank = 1;
    f.a.resize(static_cast<size_t>(f.in));
    f.b.resize(static_cast<size_t>(f.out));
  }
  ASSERT_TRUE(write_adapter(dir_, model, adapter.factors, {}).ok());
  auto again = read_adapter(dir_, model);
  ASSERT_TRUE(again.ok()) << again.status().message();
  for (const AdapterFactors& f : again->factors) {
    const AdapterFactors* before = find(adapter, f.module);
    const std::vector<double> delta = delta_of(f);
    const std::vector<double> expected = before ? delta_of(*before) : std::vector<double>(delta.size());
    for (size_t i = 0; i < delta.size(); ++i) ASSERT_NEAR(delta[i], expected[i], 1e-6) << f.module;
  }
  for (const AdapterFactors& f : adapter.factors) EXPECT_NE(find(*again, f.module), nullptr) << f.module;
}

// Only up: the fused pair is read without a gate.
TEST_F(PeftTest, FusedLayoutHoldsUpAlone) {
  const std::string name = "per_expert";
  const ModelConfig model = model_config(model_of(name));
  Adapter adapter = read_golden(name);
  std::erase_if(adapter.factors, [](const AdapterFactors& f) { return !f.module.ends_with(".up_proj"); });
  ASSERT_TRUE(write_adapter(dir_, model, adapter.factors, {}).ok());
  auto again = read_adapter(dir_, model);
  ASSERT_TRUE(again.ok()) << again.status().message();
  expect_same(adapter, *again);
}

TEST_F(PeftTest, PeftBefore0191PackedTheTransposedWeight) {
  const Adapter adapter = read_golden("glm4_down");
  const ModelConfig model = model_config("glm4_moe");
  const std::string key = "base_model.model.model.layers.1.mlp.experts.";
  const int64_t experts = 8, rank = 3, in = 32, out = 64;
  std::vector<float> a(static_cast<size_t>(experts * rank * out)),
      b(static_cast<size_t>(in * rank * experts));
  for (int64_t e = 0; e < experts; ++e) {
    const AdapterFactors* f = find(adapter, fmt::format("model.layers.1.mlp.experts.{}.down_proj", e));
    for (int64_t r = 0; r < rank; ++r) {
      for (int64_t o = 0; o < out; ++o) {
        a[static_cast<size_t>((e * rank + r) * out + o)] = f->b[static_cast<size_t>(o * rank + r)];
      }
      for (int64_t i = 0; i < in; ++i) {
        b[static_cast<size_t>((i * rank + r) * experts + e)] = f->a[static_cast<size_t>(r * in + i)];
      }
    }
  }
  copy("glm4_down");
  edit_tensors([&](Tensors& tensors) {
    tensors[key + "lora_A.weight"] = floats({experts * rank, out}, a);
    tensors[key + "lora_B.weight"] = floats({in, rank * experts}, b);
  });
  auto again = read_adapter(dir_, model);
  ASSERT_TRUE(again.ok()) << again.status().message();
  expect_same(adapter, *again);
}

// gate_up of [2 * 32, 64] looks the same both ways; then the version decides, and without it nothing does.
TEST_F(PeftTest, SquareFusedFactorsNeedTheVersion) {
  copy("deepseek_v3_all");
  edit_config([](Json& config) { config.erase("peft_version"); });
  expect_refused("deepseek_v3_tiny", Code::kInvalid, "peft_version");
  const auto gate = [&](const char* version) {
    edit_config([&](Json& config) { config["peft_version"] = version; });
    auto adapter = read("deepseek_v3_tiny");
    EXPECT_TRUE(adapter.ok()) << adapter.status().message();
    return delta_of(*find(*adapter, "model.layers.2.mlp.experts.1.gate_proj"));
  };
  const std::vector<double> now = gate("0.19.1"), newer = gate("1.2"), before = gate("0.19.0");
  EXPECT_EQ(now, newer);
  EXPECT_NE(now, before);
}

TEST_F(PeftTest, ReadsKTransformersExperts) {
  const ModelConfig model = model_config("deepseek_v2_lite");
  Adapter expected = read_golden("per_expert");
  copy("per_expert");
  Tensors fused;
  for (const AdapterFactors& f : expected.factors) {
    const size_t mark = f.module.find(".mlp.experts.");
    if (mark == std::string::npos) continue;
    const std::string part = f.module.substr(f.module.rfind('.') + 1);
    const std::string at =
        f.module.substr(6, mark - 6) + ".experts." + part.substr(0, part.find('_')) + "_lora_";
    const Stored a = floats({8, f.rank, f.in}, f.a), b = floats({8, f.out, f.rank}, f.b);
    fused[at + "a"].shape = a.shape, fused[at + "a"].bytes += a.bytes;
    fused[at + "b"].shape = b.shape, fused[at + "b"].bytes += b.bytes;
  }
  ASSERT_EQ(fused.size(), 6u);
  ASSERT_TRUE(fused.contains("layers.1.experts.gate_lora_a"));
  write_tensors(fused, "fused_expert_lora.safetensors");
  expect_refused("deepseek_v2_lite", Code::kInvalid, "twice");
  edit_tensors([](Tensors& t) {
    std::erase_if(t, [](const auto& x) { return x.first.find(".experts.") != x.first.npos; });
  });
  auto adapter = read("deepseek_v2_lite");
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  expect_same(expected, *adapter);

  AdapterWriteOptions options;
  EXPECT_EQ(write_adapter(dir_, model, expected.factors, options).code(), Code::kInvalid);
  fused["layers.1.experts.gate_lora_a"].shape = {8, 64, 3};
  write_tensors(fused, "fused_expert_lora.safetensors");
  expect_refused("deepseek_v2_lite", Code::kInvalid, "do not fit 8 experts of [24, 64]");
}

TEST_F(PeftTest, ReadsHalfPrecisionAndAdapterNames) {
  copy("per_expert");
  edit_tensors([](Tensors& tensors) {
    Tensors renamed;
    bool half = false;
    for (auto& [name, t] : tensors) {
      const size_t at = name.find(".weight");
      std::string bits;
      for (size_t i = 0; i < t.bytes.size() / 4; ++i) {
        const float value = load_unaligned<float>(t.bytes.data(), static_cast<int64_t>(i));
        const uint16_t word = half ? f32_to_f16(value) : f32_to_bf16(value);
        bits.append(reinterpret_cast<const char*>(&word), 2);
      }
      renamed[name.substr(0, at) + ".default.weight"] = {half ? DType::kF16 : DType::kBF16, t.shape, bits};
      half = !half;
    }
    tensors = renamed;
  });
  auto adapter = read("deepseek_v2_lite");
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  const Adapter exact = read_golden("per_expert");
  ASSERT_EQ(modules_of(exact), modules_of(*adapter));
  for (size_t i = 0; i < exact.factors.size(); ++i) {
    const auto &x = exact.factors[i], &y = adapter->factors[i];
    for (size_t j = 0; j < x.a.size(); ++j) ASSERT_NEAR(x.a[j], y.a[j], 0.004 * std::abs(x.a[j]) + 1e-7);
    for (size_t j = 0; j < x.b.size(); ++j) ASSERT_NEAR(x.b[j], y.b[j], 0.004 * std::abs(x.b[j]) + 1e-7);
  }
}

TEST_F(PeftTest, RefusesOptionsThatChangeTheResult) {
  const std::vector<std::pair<const char*, Json>> options = {
      {"use_dora", true},
      {"lora_bias", true},
      {"fan_in_fan_out", true},
      {"use_qalora", true},
      {"modules_to_save", {"lm_head"}},
      {"alora_invocation_tokens", {1, 2}},
      {"trainable_token_indices", {1}},
      {"megatron_config", {{"a", 1}}},
      {"layer_replication", {{0, 1}}},
      {"use_bdlora", {{"nblocks", 2}}},
      {"arrow_config", {{"top_k", 3}}},
      {"ensure_weight_tying", true},
      {"an_option_of_the_future", 1},
      {"bias", "lora_only"},
      {"init_lora_weights", "pissa_niter_4"},
      {"peft_type", "LOHA"},
      {"task_type", "SEQ_CLS"},
      {"layers_pattern", {"blocks"}},
  };
  for (const auto& [name, value] : options) {
    copy("per_expert");
    edit_config([&, key = name, set = value](Json& config) { config[key] = set; });
    expect_refused("deepseek_v2_lite", Code::kUnsupported, name);
  }
  copy("per_expert");
  edit_config([](Json& config) {
    config["an_option_of_the_future"] = false, config["another"] = Json::array();
    config["eva_config"] = {{"rho", 2.0}}, config["init_lora_weights"] = "eva";
  });
  EXPECT_TRUE(read("deepseek_v2_lite").ok());
}

TEST_F(PeftTest, RefusesConfigurationsThatMakeNoSense) {
  const std::vector<std::pair<std::function<void(Json&)>, const char*>> cases = {
      {[](Json& c) { c["r"] = 4; }, "lora_A has rank 3, but adapter_config.json says 4"},
      {[](Json& c) { c["r"] = "three"; }, "field r: must be an integer"},
      {[](Json& c) { c["r"] = -1; }, "field r"},
      {[](Json& c) {
         c["lora_alpha"] = Json();
         c["alpha_pattern"] = {{"q_proj", "x"}};
       },
       "alpha_pattern"},
      {[](Json& c) {
         c["rank_pattern"] = {{"q_proj", 2.5}};
       },
       "rank_pattern"},
      {[](Json& c) {
         c["rank_pattern"] = {{"(q_proj", 3}};
       },
       "does not compile"},
      {[](Json& c) { c["rank_pattern"] = {3}; }, "rank_pattern"},
      {[](Json& c) { c["target_modules"] = {"q_proj"}; }, "does not target it"},
      {[](Json& c) { c["target_modules"] = ".*self_attn.*"; }, "does not target it"},
      {[](Json& c) { c["target_modules"] = 3; }, "target_modules"},
      {[](Json& c) { c["target_modules"] = {1}; }, "target_modules"},
      {[](Json& c) { c["exclude_modules"] = {"experts.3.up_proj"}; }, "experts.3.up_proj: has tensors"},
      {[](Json& c) { c["layers_to_transform"] = 1; }, "model.layers.0.self_attn"},
      {[](Json& c) {
         c["target_modules"] = "all-linear";
         c["layers_to_transform"] = {1};
       },
       "as a list"},
      {[](Json& c) {
         c["auto_mapping"] = {{"base_model_class", "Qwen3MoeForCausalLM"}};
       },
       "deepseek_v2"},
      {[](Json& c) {
         for (int i = 0; i < 9000; ++i) c["rank_pattern"][std::to_string(i)] = 1;
       },
       "more than"},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(i);
    copy("per_expert");
    edit_config(cases[i].first);
    expect_refused("deepseek_v2_lite", Code::kInvalid, cases[i].second);
  }
  for (const char* text : {"", "[]", "{", "{\"peft_type\": \"LORA\""}) {
    ASSERT_TRUE(write_text_file(dir_ + "/adapter_config.json", text).ok());
    expect_refused("deepseek_v2_lite", Code::kInvalid, "not a JSON object");
  }
}

TEST_F(PeftTest, TargetsFollowPeft) {
  const std::vector<std::function<void(Json&)>> accepted = {
      [](Json& c) { c["target_modules"] = "all-linear"; },
      [](Json& c) { c["target_modules"] = "ALL-LINEAR"; },
      [](Json& c) { c["target_modules"] = R"(model\.layers\.\d+\.(self_attn|mlp\.experts\.\d+)\.\w+)"; },
      [](Json& c) { c["target_modules"] = Json(); },
      [](Json& c) {
        c["layers_to_transform"] = {0, 1};
        c["layers_pattern"] = "layers";
      },
      [](Json& c) { c["exclude_modules"] = ".*lm_head"; },
      [](Json& c) {
        c["auto_mapping"] = {{"base_model_class", "DeepseekV2ForCausalLM"}};
      },
      [](Json& c) {
        c["rank_pattern"] = {{"model", 9}, {"proj", 9}, {"elf_attn.q_proj", 9}, {"q.proj", 3}};
      },
  };
  for (size_t i = 0; i < accepted.size(); ++i) {
    SCOPED_TRACE(i);
    copy("per_expert");
    edit_config(accepted[i]);
    auto adapter = read("deepseek_v2_lite");
    EXPECT_TRUE(adapter.ok()) << adapter.status().message();
  }
}

TEST_F(PeftTest, RefusesTensorsThatDoNotFit) {
  const std::string q = "base_model.model.model.layers.0.self_attn.q_proj.";
  const auto move = [](Tensors& t, const std::string& from, const std::string& to) {
    t[to] = t[from];
    t.erase(from);
  };
  const auto rename_pair = [&](const std::string& module) {
    return [&move, q, module](Tensors& t) {
      for (const char* side : {"lora_A.weight", "lora_B.weight"}) move(t, q + side, module + side);
    };
  };
  const float nan = std::nanf(""), infinity = INFINITY;
  const std::vector<std::tuple<std::function<void(Tensors&)>, Code, const char*>> cases = {
      {[&](Tensors& t) { t.erase(q + "lora_A.weight"); }, Code::kInvalid, "its lora_A is missing"},
      {[&](Tensors& t) { t.erase(q + "lora_B.weight"); }, Code::kInvalid, "its lora_B is missing"},
      {rename_pair("base_model.model.model.layers.9.self_attn.q_proj."), Code::kInvalid, "layers.9"},
      {rename_pair("base_model.model.model.layers.0.self_attn.k_proj."), Code::kInvalid, "matches no matrix"},
      {rename_pair("base_model.model.model.layers.0.mlp.experts."), Code::kInvalid, "none of one width here"},
      {rename_pair("base_model.model.model.layers.1.mlp.experts."), Code::kInvalid, "fit neither"},
      {rename_pair("base_model.model.model.layers.1.mlp.experts.8.gate_proj."), Code::kInvalid, "experts.8"},
      {[&](Tensors& t) { t[q + "lora_A.other.weight"] = t[q + "lora_A.weight"]; }, Code::kInvalid, "second"},
      {[&](Tensors& t) { move(t, q + "lora_A.weight", q + "lora_A.bias"); }, Code::kUnsupported, "lora_bias"},
      {[&](Tensors& t) { move(t, q + "lora_A.weight", q + "lora_A.alpha"); }, Code::kInvalid, "must end in"},
      {[&](Tensors& t) { t[q + "lora_magnitude_vector"] = floats({1}, {1}); }, Code::kUnsupported,
       "magnitude"},
      {[&](Tensors& t) { t["base_model.model.model.embed_tokens.lora_embedding_A"] = floats({1}, {1}); },
       Code::kUnsupported, "lora_embedding_"},
      {[&](Tensors& t) { t["base_model.model.lm_head.weight"] = floats({1}, {1}); }, Code::kInvalid,
       "lm_head"},
      {[&](Tensors& t) {
         t["base_model.model.lm_head.base_layer.weight"] = floats({1, 1}, {1});
       },
       Code::kInvalid, "not this model's"},
      {[&](Tensors& t) {
         t[q + "base_layer.weight"] = floats({1, 1}, {1});
       },
       Code::kInvalid, "not this model's"},
      {[&](Tensors& t) { t[q + "lora_A.weight"].shape = {3 * 64}; }, Code::kInvalid, "is not a matrix"},
      {[&](Tensors& t) {
         t[q + "lora_A.weight"].shape = {64, 3};
       },
       Code::kInvalid, "do not fit"},
      {[&](Tensors& t) {
         t[q + "lora_A.weight"] = floats({0, 64}, {}), t[q + "lora_B.weight"] = floats({128, 0}, {});
       },
       Code::kInvalid, "rank 0"},
      {[&](Tensors& t) { t[q + "lora_A.weight"].dtype = DType::kI32; }, Code::kUnsupported, "I32"},
      {[&](Tensors& t) { std::memcpy(t[q + "lora_B.weight"].bytes.data() + 8, &nan, 4); }, Code::kInvalid,
       "finite"},
      {[&](Tensors& t) { std::memcpy(t[q + "lora_A.weight"].bytes.data(), &infinity, 4); }, Code::kInvalid,
       "finite"},
      {[&](Tensors& t) { t.clear(); }, Code::kInvalid, "no LoRA factors"},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(i);
    copy("per_expert");
    edit_tensors(std::get<0>(cases[i]));
    expect_refused("deepseek_v2_lite", std::get<1>(cases[i]), std::get<2>(cases[i]));
  }
}

TEST_F(PeftTest, RefusesRanksAboveTheSmallerSide) {
  copy("glm4_down");
  edit_config([](Json& c) { c["rank_pattern"] = {{"mlp.gate.weight", 9}}; });
  edit_tensors([](Tensors& t) {
    const std::string gate = "base_model.model.model.layers.1.mlp.gate.";
    t[gate + "lora_A.weight"] = floats({9, 64}, std::vector<float>(9 * 64, 1.0f));
    t[gate + "lora_B.weight"] = floats({8, 9}, std::vector<float>(8 * 9, 1.0f));
  });
  expect_refused("glm4_moe", Code::kInvalid, "rank 9 is larger than the smaller side");
}

TEST_F(PeftTest, RefusesAdaptersOfOtherModels) {
  for (const char* name : {"deepseek_v3_all", "qwen3_converted", "glm4_lite_all_linear"}) {
    copy(name);
    expect_refused("deepseek_v2_lite", Code::kInvalid, "another model");
  }
  copy("deepseek_v2_patterns");
  expect_refused("deepseek_v3_ragged", Code::kInvalid, "model");
}

TEST_F(PeftTest, SaysWhatIsMissing) {
  expect_refused("deepseek_v2_lite", Code::kNotFound, "adapter_config.json");
  copy("per_expert");
  fs::remove(dir_ + "/adapter_model.safetensors");
  expect_refused("deepseek_v2_lite", Code::kNotFound, "adapter_model.safetensors is missing");
  ASSERT_TRUE(write_text_file(dir_ + "/adapter_model.bin", "x").ok());
  expect_refused("deepseek_v2_lite", Code::kUnsupported, "pickle");
}

TEST_F(PeftTest, PatternsAreBounded) {
  copy("per_expert");
  edit_config([](Json& c) { c["target_modules"] = "((a|b|m|.)*)*[!?]"; });
  expect_refused("deepseek_v2_lite", Code::kInvalid, "too many steps");
  edit_config([](Json& c) { c["target_modules"] = std::string(5000, '(') + std::string(5000, ')'); });
  expect_refused("deepseek_v2_lite", Code::kInvalid, "does not compile");
  edit_config([](Json& c) { c["target_modules"] = std::string(100'000, 'a'); });
  expect_refused("deepseek_v2_lite", Code::kInvalid, "longer than");
}

// re.match(r"(.*\.)?(KEY)$", name), with what Python answers.
TEST(NamePatterns, EndAsPeftsDo) {
  const std::vector<std::tuple<const char*, const char*, bool>> cases = {
      {"q_proj", "model.layers.0.self_attn.q_proj", true},
      {"q_proj", "q_proj", true},
      {"proj", "self_attn.q_proj", false},
      {"self_attn.q_proj", "x.self_attn.q_proj", true},
      {"self_attn.q_proj", "x.self_attn_q_proj", true},
      {"self_attn.q_proj", "x_self_attn.q_proj", false},
      {"q_proj", "q_proj.weight", false},
      {"^model.norm", "model.norm", true},
      {"^norm", "model.norm", false},
      {".*norm", "model.norm", true},
      {"a|b", "x.b", true},
      {"layers\\.1\\..*", "model.layers.1.x.y", true},
      {"layers\\.1\\..*", "model.layers.11.x.y", false},
      {"", "model.", true},
      {"", "model", false},
      {"model.layers.0.q", "layers.0.q", false},
  };
  for (const auto& [pattern, name, matches] : cases) {
    auto compiled = NamePattern::ending(pattern, "test");
    ASSERT_TRUE(compiled.ok());
    EXPECT_EQ(*compiled->matches(name), matches) << pattern << " on " << name;
  }
}

TEST_F(PeftTest, WritingReplacesAnAdapterAndNothingElse) {
  const std::string name = "per_expert";
  const ModelConfig model = model_config(model_of(name));
  const Adapter adapter = read_golden(name);
  copy("glm4_down");
  ASSERT_TRUE(write_text_file(dir_ + "/trainer_state.json", "{}").ok());
  AdapterWriteOptions options;
  options.base_model = "some/base`model\n";
  options.method = "LoRA with Muon";
  options.data_file = "/secret/place/chat.jsonl";
  ASSERT_TRUE(write_adapter(dir_, model, adapter.factors, options).ok());
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(dir_)) files.push_back(entry.path().filename());
  std::sort(files.begin(), files.end());
  EXPECT_EQ(files, (std::vector<std::string>{"README.md", "adapter_config.json", "adapter_model.safetensors",
                                             "trainer_state.json"}));
  auto again = read_adapter(dir_, model);
  ASSERT_TRUE(again.ok()) << again.status().message();
  expect_same(adapter, *again);
  auto card = read_text_file(dir_ + "/README.md", 1 << 16);
  ASSERT_TRUE(card.ok());
  for (const char* part : {"library_name: peft", "LoRA with Muon", "`chat.jsonl`", "some/base'model",
                           kPeftVersion, kPeftTransformersVersion}) {
    EXPECT_NE(card->find(part), std::string::npos) << part;
  }
  EXPECT_EQ(card->find("secret"), std::string::npos);
  EXPECT_EQ(card->find("base_model:"), std::string::npos);
}

// A folder in the place of the weights stops the writer halfway: the old configuration must not stay beside
// weights that are not its own.
TEST_F(PeftTest, HalfWrittenIsNoAdapter) {
  const Adapter adapter = read_golden("per_expert");
  copy("per_expert");
  fs::remove(dir_ + "/adapter_model.safetensors");
  fs::create_directories(dir_ + "/adapter_model.safetensors/full");
  EXPECT_FALSE(write_adapter(dir_, model_config("deepseek_v2_lite"), adapter.factors, {}).ok());
  EXPECT_FALSE(fs::exists(dir_ + "/adapter_config.json"));
  EXPECT_FALSE(fs::exists(dir_ + "/adapter_model.new.safetensors"));
}

TEST_F(PeftTest, WriterRefusesWhatTheReaderWould) {
  const ModelConfig model = model_config("deepseek_v2_lite");
  const AdapterFactors good{"model.layers.0.self_attn.q_proj", 1,   64, 128, std::vector<float>(64, 1.0f),
                            std::vector<float>(128, 1.0f),     1.0f};
  const auto refused = [&](const std::vector<AdapterFactors>& factors, Code code, const std::string& says) {
    const Status status = write_adapter(dir_ + "/new", model, factors, {});
    EXPECT_EQ(status.code(), code) << status.message();
    EXPECT_NE(status.message().find(says), std::string::npos) << status.message();
    EXPECT_FALSE(fs::exists(dir_ + "/new"));
  };
  const auto spoiled = [&](const std::function<void(AdapterFactors&)>& spoil) {
    AdapterFactors bad = good;
    spoil(bad);
    return std::vector<AdapterFactors>{bad};
  };
  refused({}, Code::kInvalid, "without factors");
  refused({good, good}, Code::kInvalid, "two adapters");
  refused(spoiled([](auto& f) { f.module = "model.layers.7.self_attn.q_proj"; }), Code::kInvalid, "no such");
  refused(spoiled([](auto& f) { std::swap(f.in, f.out); }), Code::kInvalid, "is not the matrix's");
  refused(spoiled([](auto& f) { f.rank = 65; }), Code::kInvalid, "rank 65");
  refused(spoiled([](auto& f) { f.rank = 0; }), Code::kInvalid, "rank 0");
  refused(spoiled([](auto& f) { f.a.pop_back(); }), Code::kInvalid, "sizes");
  refused(spoiled([](auto& f) { f.b[7] = NAN; }), Code::kInvalid, "finite");
  refused(spoiled([](auto& f) { f.scale = INFINITY; }), Code::kInvalid, "finite");
  refused(spoiled([](auto& f) { f.module = "model.embed_tokens", f.out = 128; }), Code::kUnsupported,
          "embedding");
}

TEST_F(PeftTest, ExpertsWithoutAFusedLayoutAreWrittenOneByOne) {
  for (const char* name : {"deepseek_v3_ragged", "qwen3_moe_zeda"}) {
    const ModelConfig model = model_config(name);
    int64_t layer = 0;
    while (!model.moe_layer[static_cast<size_t>(layer)]) ++layer;
    std::vector<AdapterFactors> factors;
    Weights weights;
    WeightVisitor visitor;
    visitor.vector = [](const std::string&, int64_t, Tensor&) { return Status(); };
    visitor.matrix = [&](const std::string& module, Role role, int64_t rows, int64_t cols, Matrix&) {
      if (role == Role::kEmbed || role == Role::kHead) return Status();
      std::vector<float> a(static_cast<size_t>(2 * cols)), b(static_cast<size_t>(2 * rows));
      for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(factors.size() + i);
      for (size_t i = 0; i < b.size(); ++i) b[i] = -static_cast<float>(factors.size() + i);
      factors.push_back({module, 2, cols, rows, a, b, 0.5f});
      return Status();
    };
    ASSERT_TRUE(visit_weights(model, weights, visitor).ok());
    EXPECT_EQ(write_adapter(dir_, model, factors, {}).code(), Code::kUnsupported);
    AdapterWriteOptions options;
    options.layout = AdapterLayout::kPerExpert;
    ASSERT_TRUE(write_adapter(dir_, model, factors, options).ok());
    auto again = read_adapter(dir_, model);
    ASSERT_TRUE(again.ok()) << again.status().message();
    Adapter expected;
    expected.factors = factors;
    expect_same(expected, *again);
    const Json config = read_json(dir_ + "/adapter_config.json");
    for (const Json& target : config["target_parameters"]) {
      EXPECT_EQ(target.get<std::string>().find(".experts."), std::string::npos) << target;
    }
    EXPECT_EQ(config["r"], 2);
    EXPECT_EQ(config["lora_alpha"], 1);
  }
}

// Not a test: leaves what we write for tests/golden/check_peft.py, in TempDir()/moebius-adapters.
TEST(Written, DISABLED_FoldersForPeft) {
  for (const std::string& name : adapter_names()) {
    const std::string model = model_of(name);
    for (const AdapterLayout layout : {AdapterLayout::kFused, AdapterLayout::kPerExpert}) {
      AdapterWriteOptions options;
      options.layout = layout;
      const std::string dir = testing::TempDir() + "moebius-adapters/" + name +
                              (layout == AdapterLayout::kFused ? "-fused" : "-per-expert");
      ASSERT_TRUE(write_adapter(dir, model_config(model), read_golden(name).factors, options).ok());
    }
  }
}

}  // namespace
}  // namespace moebius
