// moebius merge as a user meets it: the merged checkpoint's numbers, its logits against peft's, what is left
// as it was, and everything that must be refused.
#include <fmt/format.h>
#include <sys/stat.h>

#include <map>
#include <set>

#include "kernels/half.h"
#include "models/weights.h"
#include "tests/adapter_cases.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;
using adapters::all_logits;
using adapters::kAdapters;
using adapters::kFloat32Bound;
using adapters::kModels;
using adapters::open_engine;
using adapters::random_factors;
using adapters::relative_error;
using nlohmann::json;
using process::Args;
using process::Finished;
using process::read_file;
using process::run;
using process::Scratch;

json merge(const std::string& model, const std::string& adapter, const std::string& out, Args more = {}) {
  Args args = {"merge", "-m", model, "--adapter", adapter, "-o", out, "--json"};
  args.insert(args.end(), more.begin(), more.end());
  const Finished finished = run(args);
  EXPECT_EQ(finished.code, 0) << finished.err;
  return json::parse(finished.out, nullptr, false);
}

std::unique_ptr<ModelFiles> open_files(const std::string& dir) {
  auto files = ModelFiles::open(dir);
  EXPECT_TRUE(files.ok()) << files.status().message();
  return files.ok() ? std::move(*files) : nullptr;
}

std::vector<float> numbers_of(const Matrix& w) {
  std::vector<float> numbers(static_cast<size_t>(w.rows * w.cols));
  format_kernels(w.format).back().dequantize_rows(w, 0, w.rows, numbers.data(), w.cols);
  return numbers;
}

std::map<std::string, Matrix> matrices_of(const ModelFiles& files) {
  std::map<std::string, Matrix> matrices;
  Weights weights = files.weights();
  WeightVisitor visitor;
  visitor.matrix = [&](const std::string& name, Role, int64_t, int64_t, Matrix& w) {
    matrices[name] = w;
    return Status();
  };
  visitor.vector = [](const std::string&, int64_t, Tensor&) { return Status(); };
  EXPECT_TRUE(visit_weights(files.config(), weights, visitor).ok());
  return matrices;
}

// Half a unit in the last place of a number of this type.
double half_unit(Format format, double number) {
  const bool half = format == Format::kF16;
  const int digits = format == Format::kF32 ? 24 : half ? 11 : 8, smallest = half ? -24 : -149;
  int exponent = 0;
  std::frexp(number, &exponent);
  return std::ldexp(1, std::max(exponent - digits, smallest) - 1);
}

// Every matrix of the merged model is base + delta to half a unit of its last place, plus float32's own
// rounding; all other tensors are the base's bytes.
void expect_merged(const std::string& base_dir, const std::string& out_dir,
                   const std::vector<AdapterFactors>& factors, bool widened_experts) {
  const auto base = open_files(base_dir), out = open_files(out_dir);
  ASSERT_TRUE(base && out);
  EXPECT_TRUE(out->notes() == base->notes());
  const auto before = matrices_of(*base);
  std::set<std::string> changed;
  for (const auto& [name, w] : matrices_of(*out)) {
    const Matrix& old = before.at(name);
    const auto f = std::find_if(factors.begin(), factors.end(),
                                [&, &module = name](const AdapterFactors& x) { return x.module == module; });
    const std::vector<float> was = numbers_of(old), is = numbers_of(w);
    const bool beside = widened_experts && name.find(".experts.") != name.npos && w.format != old.format;
    if (f == factors.end() && !beside) {
      EXPECT_EQ(w.format, old.format) << name;
      EXPECT_TRUE(was == is) << name;
      continue;
    }
    changed.insert(name);
    ASSERT_TRUE(w.format == Format::kF32 || w.format == Format::kBF16 || w.format == Format::kF16) << name;
    double moved = 0;
    for (int64_t i = 0; i < w.rows * w.cols; ++i) {
      const double old_number = was[static_cast<size_t>(i)];
      const double delta = f == factors.end() ? 0 : adapters::delta_at(*f, i / w.cols, i % w.cols);
      const double expected = old_number + delta;
      const double arithmetic = 0x1p-21 * (std::abs(old_number) + std::abs(delta) + 0.1);
      ASSERT_NEAR(is[static_cast<size_t>(i)], expected, half_unit(w.format, expected) + arithmetic)
          << name << " at " << i;
      moved = std::max(moved, std::abs(delta));
    }
    EXPECT_TRUE(f == factors.end() || moved > 0) << name;
  }
  EXPECT_GE(changed.size(), factors.size());
  const auto belongs_to_changed = [&](const std::string& tensor) {
    return std::any_of(changed.begin(), changed.end(), [&](const std::string& module) {
      const size_t expert = module.find(".experts.");
      const std::string fused = expert == module.npos ? "" : module.substr(0, expert + 9);
      return tensor.starts_with(module + ".") ||
             (!fused.empty() && (tensor == fused + "gate_up_proj" || tensor == fused + "down_proj"));
    });
  };
  int64_t copied = 0;
  for (const TensorEntry* tensor : base->checkpoint().tensors()) {
    if (belongs_to_changed(tensor->name)) continue;
    const TensorEntry* copy = out->checkpoint().find(tensor->name);
    ASSERT_TRUE(copy) << tensor->name;
    ASSERT_EQ(copy->dtype, tensor->dtype) << tensor->name;
    ASSERT_EQ(copy->shape, tensor->shape) << tensor->name;
    EXPECT_EQ(std::memcmp(copy->data, tensor->data, static_cast<size_t>(tensor->bytes)), 0) << tensor->name;
    ++copied;
  }
  EXPECT_GT(copied, 0);
}

class GoldenAdapter : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, GoldenAdapter, testing::ValuesIn(adapters::golden_names()),
                         [](const auto& at) { return at.param; });

TEST_P(GoldenAdapter, MergedGivesPeftsLogits) {
  const Scratch scratch;
  const std::string model = adapters::model_of(GetParam()), adapter = kAdapters + GetParam();
  const std::string out = scratch.file("out");
  const json report = merge(model, adapter, out);
  const auto config = ModelConfig::load(model);
  ASSERT_TRUE(config.ok());
  const auto read = read_adapter(adapter, *config);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(report["merged"], read->factors.size());
  EXPECT_EQ(report["unpacked"], 0);
  expect_merged(model, out, read->factors, false);
  EXPECT_EQ(read_file(out + "/config.json"), read_file(model + "/config.json"));

  const adapters::Golden golden = adapters::read_golden(adapter);
  const auto merged = open_engine(out, ""), hung = open_engine(model, adapter);
  ASSERT_TRUE(merged && hung);
  const std::vector<float> logits = all_logits(*merged, golden.ids);
  EXPECT_LE(relative_error(logits, golden.logits), kFloat32Bound);
  EXPECT_LE(relative_error(logits, all_logits(*hung, golden.ids)), 1e-5);
}

struct Case {
  const char* model;
  const char* adapted;  // what a module's name must contain, or "" for all
  Args more;
  double bound;
};

// On the logits, by the type of adapted matrices: some roundings, each of half a unit in the last place, in a
// row. Logits at single positions may differ by more, where a rounding changes a choice of experts.
constexpr double kF32 = 1e-5, kF16 = 0x1p-8, kBF16 = 0x1p-5;

// The median over positions of the largest difference, over the largest magnitude.
double typical_error(const std::vector<float>& a, const std::vector<float>& b, size_t vocab) {
  std::vector<double> errors;
  for (size_t at = 0; at + vocab <= a.size(); at += vocab)
    errors.push_back(relative_error(std::span(a).subspan(at, vocab), std::span(b).subspan(at, vocab)));
  std::nth_element(errors.begin(), errors.begin() + std::ssize(errors) / 2, errors.end());
  return errors[errors.size() / 2];
}

std::string name_of(const Case& c) {
  std::string name = fmt::format("{}_{}{}", c.model, *c.adapted ? c.adapted : "all",
                                 c.more.empty() ? "" : "_" + c.more.back());
  for (char& letter : name)
    if (!std::isalnum(static_cast<unsigned char>(letter))) letter = '_';
  return name;
}

void PrintTo(const Case& c, std::ostream* out) { *out << name_of(c); }

class OtherBases : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    All, OtherBases,
    testing::Values(Case{"deepseek_v3_bf16", "", {}, kBF16}, Case{"deepseek_v3_f16", "", {}, kF16},
                    Case{"qwen3_moe_f16", "", {}, kF16},  // head and embedding tied
                    Case{"qwen3_moe_sharded", "", {}, kBF16}, Case{"deepseek_v3_grouped", "", {}, kF32},
                    Case{"deepseek_v2_fused", "", {}, kBF16},
                    Case{"glm4_moe_fused", "experts.3.up", {}, kBF16},
                    Case{"deepseek_v3_ragged", "", {}, kBF16}, Case{"qwen3_moe_zeda", "", {}, kBF16},
                    Case{"deepseek_v3_bf16", "", {"--dtype", "f32"}, kF32},
                    Case{"deepseek_v2_fused", "", {"--dtype", "f32"}, kF32},
                    Case{"qwen3_moe", "self_attn", {"--dtype", "bf16"}, kBF16},
                    Case{"deepseek_v3_int4", "", {}, kBF16}, Case{"deepseek_v3_int4", "self_attn", {}, kBF16},
                    Case{"deepseek_v3_int4", "experts.5.down", {"--dtype", "f32"}, kF32},
                    Case{"deepseek_v3_int8", "", {}, kBF16}, Case{"deepseek_v3_int8", "o_proj", {}, kBF16},
                    Case{"qwen3_moe_int4", "experts", {"--dtype", "f32"}, kF32},
                    Case{"qwen3_moe_int8", "q_proj", {}, kBF16},
                    Case{"glm4_moe_lite_int4_g64", "kv_b", {"--dtype", "f32"}, kF32},
                    Case{"deepseek_v3_fp8", "", {}, kBF16}, Case{"deepseek_v3_fp8", "experts.2.", {}, kBF16},
                    Case{"glm4_moe_fp8", "o_proj", {"--dtype", "f32"}, kF32}),
    [](const auto& at) { return name_of(at.param); });

TEST_P(OtherBases, HoldTheAdapter) {
  const Scratch scratch;
  const std::string model = kModels + GetParam().model, adapter = scratch.file("adapter");
  const auto config = ModelConfig::load(model);
  ASSERT_TRUE(config.ok());
  const auto factors = random_factors(
      *config, [&](const ModelMatrix& m) { return m.name.find(GetParam().adapted) != m.name.npos; }, 0.2f);
  ASSERT_FALSE(factors.empty());
  const Status written =
      write_adapter(adapter, *config, factors, {AdapterLayout::kPerExpert, "", "", "", ""});
  ASSERT_TRUE(written.ok()) << written.message();
  const std::string out = scratch.file("out");
  const json report = merge(model, adapter, out, GetParam().more);
  EXPECT_EQ(report["merged"], factors.size());
  expect_merged(model, out, factors, true);

  const std::vector<int32_t> ids = adapters::read_golden(model).ids;
  const auto merged = open_engine(out, ""), hung = open_engine(model, adapter);
  ASSERT_TRUE(merged && hung);
  const std::vector<float> ours = all_logits(*merged, ids), expected = all_logits(*hung, ids);
  const bool exact = GetParam().bound == kF32;
  const double error = exact ? relative_error(ours, expected)
                             : typical_error(ours, expected, static_cast<size_t>(config->vocab));
  RecordProperty("relative_error", fmt::format("{:.2e}", error));
  EXPECT_LE(error, GetParam().bound);
}

TEST(Merge, KeepsShardsAndTheirNames) {
  const Scratch scratch;
  const std::string model = kModels + "qwen3_moe_sharded";
  const auto config = ModelConfig::load(model);
  const auto factors = random_factors(
      *config, [](const ModelMatrix& m) { return m.name.ends_with("o_proj"); }, 0.2f);
  ASSERT_TRUE(write_adapter(scratch.file("adapter"), *config, factors, {}).ok());
  EXPECT_EQ(merge(model, scratch.file("adapter"), scratch.file("out"))["files"], 3);
  const auto map = [](const std::string& dir) {
    return json::parse(read_file(dir + "/model.safetensors.index.json"))["weight_map"];
  };
  EXPECT_EQ(map(scratch.file("out")), map(model));
}

TEST(Merge, CopiesWhatBelongsToTheModelAndNothingElse) {
  const Scratch scratch;
  const std::string model = scratch.file("model"), out = scratch.file("out");
  fs::copy(kModels + "deepseek_v3_tiny", model);
  scratch.write("model/LICENSE.txt", "licence");
  scratch.write("model/chat_template.jinja", "{{ messages }}");
  scratch.write("model/.env", "secret");
  scratch.write("model/README.md", "of another model");
  scratch.write("model/optimizer.pt", "x");
  fs::create_directory(model + "/checkpoints");
  merge(model, kAdapters + "deepseek_v3_all", out);
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(out)) names.insert(entry.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{"LICENSE.txt", "chat_template.jinja", "config.json",
                                          "generation_config.json", "model.safetensors", "tokenizer.json",
                                          "tokenizer_config.json"}));
  for (const char* name : {"LICENSE.txt", "chat_template.jinja", "tokenizer.json", "generation_config.json"})
    EXPECT_EQ(read_file(out + "/" + name), read_file(model + "/" + name));
  EXPECT_FALSE(fs::exists(out + ".partial"));
}

// Merges random factors on the chosen matrices and returns the new config.json.
json config_after(const std::string& model, const std::string& adapted, const Args& more = {},
                  json edit = json::object()) {
  const Scratch scratch;
  const std::string base = scratch.file("base");
  fs::copy(kModels + model, base);
  json config = json::parse(read_file(base + "/config.json"));
  config.merge_patch(edit);
  scratch.write("base/config.json", config.dump());
  const auto parsed = ModelConfig::load(base);
  EXPECT_TRUE(parsed.ok()) << parsed.status().message();
  const auto factors = random_factors(
      *parsed, [&](const ModelMatrix& m) { return m.name.find(adapted) != m.name.npos; }, 0.2f);
  const Status written =
      write_adapter(scratch.file("a"), *parsed, factors, {AdapterLayout::kPerExpert, "", "", "", ""});
  EXPECT_TRUE(written.ok()) << written.message();
  merge(base, scratch.file("a"), scratch.file("out"), more);
  json after = json::parse(read_file(scratch.file("out") + "/config.json"));
  json rest = after, before = config;
  for (json* each : {&rest, &before}) {
    each->erase("quantization_config"), each->erase("torch_dtype"), each->erase("dtype");
  }
  EXPECT_EQ(rest, before);
  return after;
}

TEST(Merge, ConfigListsPlainModulesOfPackedModels) {
  const json config = config_after("deepseek_v3_int8", "self_attn.o_proj");
  const json ignore = config["quantization_config"]["ignore"];
  EXPECT_EQ(ignore, json({"lm_head", "re:.*mlp\\.gate$", "model.layers.0.self_attn.o_proj",
                          "model.layers.1.self_attn.o_proj"}));
  const json experts = config_after("deepseek_v3_int8", "experts.3.up_proj");
  EXPECT_EQ(experts["quantization_config"]["ignore"].back(), "re:model\\.layers\\.1\\.mlp\\.experts\\.");
}

TEST(Merge, ConfigForgetsTheQuantizationThatNoWeightHas) {
  EXPECT_FALSE(config_after("deepseek_v3_int4", "experts").contains("quantization_config"));
  EXPECT_TRUE(config_after("deepseek_v3_int4", "self_attn").contains("quantization_config"));
}

TEST(Merge, ConfigListsPlainModulesOfFp8Models) {
  const json fresh = config_after("deepseek_v3_fp8", "o_proj")["quantization_config"];
  EXPECT_EQ(fresh["modules_to_not_convert"],
            json({"lm_head", "model.layers.1.mlp.gate", "model.layers.0.self_attn.o_proj",
                  "model.layers.1.self_attn.o_proj"}));
  EXPECT_FALSE(fresh.contains("ignored_layers"));
  const json more = config_after(
      "deepseek_v3_fp8", "experts.1.down_proj", {},
      {{"quantization_config", {{"modules_to_not_convert", {"lm_head"}}, {"ignored_layers", {"lm_head"}}}}});
  const json expected = {"lm_head", "model.layers.1.mlp.experts"};
  EXPECT_EQ(more["quantization_config"]["modules_to_not_convert"], expected);
  EXPECT_EQ(more["quantization_config"]["ignored_layers"], expected);
}

TEST(Merge, ConfigTellsOfFloat32OnlyWhereItWasAskedFor) {
  EXPECT_EQ(config_after("deepseek_v3_bf16", "o_proj")["torch_dtype"], "bfloat16");
  EXPECT_EQ(config_after("deepseek_v3_bf16", "o_proj", {"--dtype", "f32"})["torch_dtype"], "float32");
  EXPECT_EQ(config_after("deepseek_v2_fused", "o_proj", {"--dtype", "f32"})["dtype"], "float32");
}

void expect_one_line(const Finished& finished, const std::string& says) {
  EXPECT_EQ(finished.code, 1) << finished.out << finished.err;
  EXPECT_EQ(finished.err.rfind("moebius: ", 0), 0u) << finished.err;
  EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
  EXPECT_NE(finished.err.find(says), std::string::npos) << finished.err;
}

TEST(Merge, RefusesWhatItCannotDo) {
  const Scratch scratch;
  const std::string model = kModels + "deepseek_v3_tiny", adapter = kAdapters + "deepseek_v3_all";
  const auto attempt = [&](const std::string& m, const std::string& a, const std::string& out) {
    return run({"merge", "-m", m, "--adapter", a, "-o", out});
  };
  const std::string out = scratch.file("out");
  expect_one_line(attempt(kModels + "none", adapter, out), "none");
  expect_one_line(attempt(model, kAdapters + "none", out), "adapter_config.json");
  expect_one_line(attempt(kModels + "qwen3_moe", adapter, out), "the adapter is for another model");
  EXPECT_FALSE(fs::exists(out));
  const std::string full = scratch.file("full");
  fs::create_directory(full);
  scratch.write("full/precious", "x");
  expect_one_line(attempt(model, adapter, full), "is not empty; choose another --out\n");
  expect_one_line(attempt(model, adapter, scratch.write("file", "x")), "not a folder");
  // The base itself is never written over.
  fs::copy(model, scratch.file("base"));
  const std::string before = read_file(scratch.file("base") + "/model.safetensors");
  expect_one_line(attempt(scratch.file("base"), adapter, scratch.file("base")), "is not empty");
  EXPECT_EQ(read_file(scratch.file("base") + "/model.safetensors"), before);
  for (const Args& args : std::vector<Args>{{"merge"},
                                            {"merge", "--adapter", adapter},
                                            {"merge", "-o", out},
                                            {"merge", "--adapter", adapter, "-o", out, "--dtype", "f16"}}) {
    EXPECT_EQ(run(args).code, 2);
  }
  EXPECT_EQ(run({"merge", "--help"}).code, 0);
}

TEST(Merge, RefusesNumbersThatDoNotFit) {
  const Scratch scratch;
  const std::string model = kModels + "deepseek_v3_f16";
  const auto config = ModelConfig::load(model);
  auto factors = random_factors(
      *config, [](const ModelMatrix& m) { return m.name == "model.layers.1.self_attn.o_proj"; }, 0.2f);
  factors[0].b[7] = 1e7f;
  ASSERT_TRUE(write_adapter(scratch.file("a"), *config, factors, {}).ok());
  const Finished finished =
      run({"merge", "-m", model, "--adapter", scratch.file("a"), "-o", scratch.file("out")});
  expect_one_line(finished, "model.layers.1.self_attn.o_proj: merged numbers do not fit F16");
  EXPECT_FALSE(fs::exists(scratch.file("out")));
  for (const auto& entry : fs::directory_iterator(scratch.file(""))) {
    EXPECT_EQ(entry.path().string().find(".partial"), std::string::npos) << "left behind: " << entry.path();
  }
  EXPECT_EQ(merge(model, scratch.file("a"), scratch.file("wide"), {"--dtype", "f32"})["merged"], 1);
}

}  // namespace
}  // namespace moebius
