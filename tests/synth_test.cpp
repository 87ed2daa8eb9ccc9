// `moebius synth`, `inspect`, `doctor` and `bench`, run as a user would, and what they write, read back.
#include <array>
#include <cmath>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/engine.h"
#include "kernels/backend.h"
#include "models/geometries.h"
#include "models/tokenizer.h"
#include "models/weights.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

using nlohmann::json;
using process::Finished;

// Small, but with every kind of layer and tensor of its family; widths that are multiples of 32.
constexpr const char* kMlaConfig = R"({
  "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "attention_bias": false,
  "hidden_act": "silu", "tie_word_embeddings": false, "scoring_func": "sigmoid",
  "topk_method": "noaux_tc", "norm_topk_prob": true, "num_nextn_predict_layers": 1,
  "hidden_size": 96, "num_hidden_layers": 4, "first_k_dense_replace": 2, "num_attention_heads": 2,
  "num_key_value_heads": 2, "q_lora_rank": 64, "kv_lora_rank": 64, "qk_nope_head_dim": 32,
  "qk_rope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 8, "n_shared_experts": 2,
  "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32,
  "intermediate_size": 160, "routed_scaling_factor": 2.446, "rope_theta": 50000.0,
  "rms_norm_eps": 1e-5, "max_position_embeddings": 256, "vocab_size": 400, "bos_token_id": 390,
  "eos_token_id": 391, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})";

constexpr const char* kGqaConfig = R"({
  "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "attention_bias": true,
  "use_qk_norm": true, "partial_rotary_factor": 0.5, "hidden_act": "silu",
  "tie_word_embeddings": false, "norm_topk_prob": true, "hidden_size": 64, "num_hidden_layers": 3,
  "first_k_dense_replace": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
  "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1,
  "topk_group": 1, "moe_intermediate_size": 64, "intermediate_size": 96,
  "routed_scaling_factor": 1.0, "rope_theta": 1000000, "rms_norm_eps": 1e-5,
  "max_position_embeddings": 256, "vocab_size": 300})";

class Synth : public testing::Test {
 protected:
  std::string dir(const std::string& name) const { return scratch_.file(name); }

  // A checkpoint of config, which is written to <name>.json; more: further arguments.
  Finished synth(const std::string& name, const char* config, process::Args more) const {
    process::Args args = {"synth", "--geometry", scratch_.write(name + ".json", config), "--out", dir(name)};
    args.insert(args.end(), more.begin(), more.end());
    return process::run(args);
  }

  std::set<std::string> files_in(const std::string& path) const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path))
      names.insert(entry.path().filename().string());
    return names;
  }

  process::Scratch scratch_;
};

void expect_one_line(const Finished& run, const std::string& part) {
  EXPECT_EQ(run.code, 1) << run.out << run.err;
  EXPECT_EQ(run.out, "");
  EXPECT_NE(run.err.find(part), std::string::npos) << run.err;
  EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
}

// The format of every matrix, by the role it has.
void expect_formats(const ModelFiles& files, Format linear, Format expert) {
  Weights views = files.weights();
  int64_t matrices = 0, vectors = 0;
  WeightVisitor visitor;
  visitor.matrix = [&](const std::string& name, Role role, int64_t rows, int64_t cols, Matrix& w) {
    Format want = role == Role::kExpert ? expert : linear;
    if (role == Role::kEmbed || role == Role::kRouter) want = Format::kBF16;
    EXPECT_EQ(w.format, want) << name;
    EXPECT_EQ(w.rows, rows) << name;
    EXPECT_EQ(w.cols, cols) << name;
    EXPECT_NE(w.data, nullptr) << name;
    if (is_integer(want)) {
      EXPECT_EQ(w.group, 32) << name;
      EXPECT_EQ(w.scale_dtype, DType::kBF16) << name;
    }
    ++matrices;
    return Status();
  };
  visitor.vector = [&](const std::string& name, int64_t size, Tensor& v) {
    EXPECT_EQ(v.numel(), size) << name;
    ++vectors;
    return Status();
  };
  ASSERT_TRUE(visit_weights(files.config(), views, visitor).ok());
  EXPECT_GT(matrices, 20);
  EXPECT_GT(vectors, 8);
  EXPECT_TRUE(files.notes().empty()) << files.notes().front();  // no tensor that no role asked for
}

// Mean and root mean square of a matrix over its rows, in units of 1 / sqrt(cols).
std::pair<double, double> moments(const Matrix& w) {
  std::vector<float> row(static_cast<size_t>(w.cols));
  double sum = 0, squares = 0;
  for (int64_t r = 0; r < w.rows; ++r) {
    format_kernels(w.format).back().dequantize_rows(w, r, r + 1, row.data(), w.cols);
    for (const float value : row) sum += value, squares += static_cast<double>(value) * value;
  }
  const double n = static_cast<double>(w.rows * w.cols), unit = std::sqrt(static_cast<double>(w.cols));
  return {sum / n * unit, std::sqrt(squares / n) * unit};
}

Engine* open_engine(const std::string& dir, std::unique_ptr<Engine>& keep) {
  EngineOptions options;
  options.model = dir;
  options.threads = 2;
  Result<std::unique_ptr<Engine>> engine = Engine::open(options);
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  if (engine.ok()) keep = std::move(*engine);
  return keep.get();
}

void expect_working_engine(const std::string& dir) {
  std::unique_ptr<Engine> keep;
  Engine* engine = open_engine(dir, keep);
  ASSERT_NE(engine, nullptr);
  ASSERT_TRUE(engine->has_tokenizer());
  const auto prompt = engine->render_chat({{"messages", {{{"role", "user"}, {"content", "Hé, 你好!"}}}}});
  ASSERT_TRUE(prompt.ok()) << prompt.status().message();
  const auto ids = engine->tokenizer().encode(*prompt);
  ASSERT_TRUE(ids.ok());
  const auto session = engine->new_session();
  ASSERT_TRUE(session.ok());
  ASSERT_TRUE((*session)->sync(*ids).ok());
  double squares = 0;
  for (const float logit : (*session)->logits()) squares += static_cast<double>(logit) * logit;
  const double rms = std::sqrt(squares / static_cast<double>((*session)->logits().size()));
  EXPECT_GT(rms, 0.3);  // also false for NaN
  EXPECT_LT(rms, 3);
}

struct Case {
  const char* dtype;
  Format format;
  bool experts_only;
};
constexpr Case kCases[] = {{"bf16", Format::kBF16, false},   {"fp8", Format::kFp8Block, false},
                           {"int8", Format::kInt8, false},   {"int4", Format::kInt4, false},
                           {"fp8", Format::kFp8Block, true}, {"int8", Format::kInt8, true},
                           {"int4", Format::kInt4, true}};

TEST_F(Synth, EveryFormatOpensAndRuns) {
  for (const Case& c : kCases) {
    for (const char* config : {kMlaConfig, kGqaConfig}) {
      const std::string name = fmt::format("{}{}{}", c.dtype, c.experts_only, config == kMlaConfig);
      SCOPED_TRACE(name);
      process::Args more = {"--dtype", c.dtype};
      if (c.experts_only) more.push_back("--experts-only");
      const Finished run = synth(name, config, more);
      ASSERT_EQ(run.code, 0) << run.err;
      const auto files = ModelFiles::open(dir(name));
      ASSERT_TRUE(files.ok()) << files.status().message();
      EXPECT_TRUE((*files)->config().random_weights);
      EXPECT_EQ((*files)->config().mtp_layers, 0);
      expect_formats(**files, c.experts_only ? Format::kBF16 : c.format, c.format);
      const Matrix& w = (*files)->weights().layers[2].experts[1].gate;
      const auto [mean, rms] = moments(w);
      EXPECT_NEAR(mean, 0, 5 / std::sqrt(static_cast<double>(w.rows * w.cols)));  // five sigma
      EXPECT_NEAR(rms, 1, 0.1);
      expect_working_engine(dir(name));
    }
  }
}

TEST_F(Synth, BytesDependOnTheSeedAlone) {
  ASSERT_EQ(synth("one", kMlaConfig, {"-t", "1"}).code, 0);
  ASSERT_EQ(synth("three", kMlaConfig, {"-t", "3"}).code, 0);
  ASSERT_EQ(synth("other", kMlaConfig, {"--seed", "1"}).code, 0);
  const std::set<std::string> names = files_in(dir("one"));
  EXPECT_TRUE(names.contains("model.safetensors"));
  for (const std::string& name : names) {
    EXPECT_EQ(process::read_file(dir("one") + "/" + name), process::read_file(dir("three") + "/" + name))
        << name;
  }
  EXPECT_NE(process::read_file(dir("one") + "/model.safetensors"),
            process::read_file(dir("other") + "/model.safetensors"));
}

TEST_F(Synth, ShardsHoldTheSameTensors) {
  // A vocabulary large enough for several shards of the least size, 1 MB.
  json config = json::parse(kGqaConfig);
  config["vocab_size"] = 12000;
  const std::string text = config.dump();
  ASSERT_EQ(synth("whole", text.c_str(), {"--dtype", "bf16"}).code, 0);
  ASSERT_EQ(synth("parts", text.c_str(), {"--dtype", "bf16", "--max-shard-size", "0.001"}).code, 0);
  EXPECT_TRUE(files_in(dir("parts")).contains("model.safetensors.index.json"));
  EXPECT_TRUE(files_in(dir("parts")).contains("model-00001-of-00003.safetensors"));
  const auto whole = Checkpoint::open(dir("whole")), parts = Checkpoint::open(dir("parts"));
  ASSERT_TRUE(whole.ok() && parts.ok()) << parts.status().message();
  ASSERT_EQ((*whole)->tensors().size(), (*parts)->tensors().size());
  for (const TensorEntry* t : (*whole)->tensors()) {
    const TensorEntry* same = (*parts)->find(t->name);
    ASSERT_TRUE(same && same->bytes == t->bytes) << t->name;
    EXPECT_EQ(std::memcmp(same->data, t->data, static_cast<size_t>(t->bytes)), 0) << t->name;
  }
  const json index = json::parse(process::read_file(dir("parts") + "/model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], (*whole)->total_bytes());
}

TEST_F(Synth, FewerLayersKeepAnExpertLayer) {
  for (const auto& [layers, dense] : {std::pair{1, 0}, {2, 1}, {3, 2}, {6, 2}}) {
    const std::string name = fmt::format("layers{}", layers);
    ASSERT_EQ(synth(name, kMlaConfig, {"--layers", std::to_string(layers)}).code, 0);
    const auto files = ModelFiles::open(dir(name));
    ASSERT_TRUE(files.ok()) << files.status().message();
    const std::vector<bool>& moe = (*files)->config().moe_layer;
    EXPECT_EQ(static_cast<int>(moe.size()), layers);
    EXPECT_EQ(std::count(moe.begin(), moe.end(), false), dense) << layers;
  }
}

TEST_F(Synth, TokenizerRoundTripsAndEveryIdDecodes) {
  ASSERT_EQ(synth("mla", kMlaConfig, {}).code, 0);
  const auto tokenizer = Tokenizer::open(dir("mla"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  const Tokenizer& t = **tokenizer;
  EXPECT_EQ(t.vocab_size(), 400);
  EXPECT_EQ(t.id_of("[BOS]"), 390);
  EXPECT_EQ(t.id_of("[EOS]"), 391);
  std::string text = "tabs\t, Ünïcode 漢字 🙂, \"quotes\" \\ and\r\n\n";
  for (char c = 1; c < 127; ++c) text += c;
  const auto ids = t.encode(text);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(*t.decode(*ids), text);
  const auto special = t.encode("<|im_user|>a<|im_end|>");
  ASSERT_EQ(special->size(), 3u);
  EXPECT_TRUE(t.is_special((*special)[0]) && t.is_special((*special)[2]));
  std::set<std::string> texts;
  for (int32_t id = 0; id < t.vocab_size(); ++id) texts.insert(t.token_text(id));
  // Hugging Face's `tokenizers` takes the id of an added token from the vocabulary, or makes up another.
  const json file = json::parse(process::read_file(dir("mla") + "/tokenizer.json"));
  for (const json& token : file["added_tokens"])
    EXPECT_EQ(file["model"]["vocab"][token["content"].get<std::string>()], token["id"]) << token;
  EXPECT_EQ(texts.size(), 400u);
  EXPECT_FALSE(texts.contains(""));
}

// Ids of the built-in configurations: in the middle of the vocabulary, at its beginning, at its end, none.
TEST_F(Synth, TokenizersOfTheBuiltInGeometries) {
  for (const Geometry& g : geometries()) {
    json config = json::parse(g.config);
    const json small = json::parse(R"({"hidden_size": 64, "num_hidden_layers": 2,
           "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32,
           "moe_intermediate_size": 32, "n_routed_experts": 8, "num_experts": 8, "num_experts_per_tok": 2,
           "n_group": 1, "topk_group": 1})");
    for (const auto& [field, value] : small.items()) {
      if (config.contains(field)) config[field] = value;
    }
    ASSERT_EQ(synth(std::string(g.name), config.dump().c_str(), {}).code, 0) << g.name;
    const auto files = ModelFiles::open(dir(std::string(g.name)));
    ASSERT_TRUE(files.ok()) << files.status().message();
    const auto tokenizer = Tokenizer::open(dir(std::string(g.name)));
    ASSERT_TRUE(tokenizer.ok()) << g.name << ": " << tokenizer.status().message();
    EXPECT_EQ((*tokenizer)->vocab_size(), config["vocab_size"]) << g.name;
    if (config.contains("eos_token_id")) {
      EXPECT_EQ((*tokenizer)->eos_id(), config["eos_token_id"]) << g.name;
    }
    const auto generation = GenerationConfig::load(dir(std::string(g.name)), (*files)->config());
    ASSERT_TRUE(generation.ok());
    EXPECT_EQ(generation->eos_ids.size(), 2u) << g.name;
    EXPECT_EQ(generation->eos_ids.back(), (*tokenizer)->id_of("<|im_end|>")) << g.name;
  }
}

TEST_F(Synth, TokensSpreadOverExperts) {
  json config = json::parse(kMlaConfig);
  config["n_routed_experts"] = 32, config["num_experts_per_tok"] = 4, config["vocab_size"] = 2048;
  ASSERT_EQ(synth("spread", config.dump().c_str(), {}).code, 0);
  const auto files = ModelFiles::open(dir("spread"));
  ASSERT_TRUE(files.ok());
  const Weights& w = (*files)->weights();
  const int64_t n = 2048, hidden = 96, k = 4;
  std::vector<int32_t> tokens(n), chosen(n * k);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i);
  std::vector<float> x(n * hidden), weights(n * k);
  const auto backend = make_host_backend({});
  const Tensor rows = f32_tensor(x.data(), {n, hidden});
  backend->embed({w.embed, Tensor(tokens.data(), DType::kI32, {n}), rows});
  backend->rms_norm({rows, w.layers[2].ffn_norm, 1e-5f, rows});
  RouterArgs router;
  router.x = rows, router.gate = w.layers[2].router, router.bias = w.layers[2].router_bias;
  router.scoring = Scoring::kSigmoid;
  router.n_experts = 32;
  router.ids = Tensor(chosen.data(), DType::kI32, {n, k});
  router.weights = f32_tensor(weights.data(), {n, k});
  backend->router(router);
  std::array<int, 32> counts{};
  for (const int32_t id : chosen) ++counts[static_cast<size_t>(id)];
  for (const int count : counts) {  // 256 if all were alike
    EXPECT_GT(count, 256 / 4);
    EXPECT_LT(count, 256 * 3);
  }
}

TEST_F(Synth, RefusesWhatItCannotDo) {
  expect_one_line(process::run({"synth", "--geometry", "gpt-2", "--out", dir("x")}), "moonlight-16b-a3b");
  expect_one_line(process::run({"synth", "--geometry", dir("none.json"), "--out", dir("x")}), "none.json");
  expect_one_line(synth("odd", R"({"model_type": "llama"})", {}), "model_type");
  EXPECT_EQ(process::run({"synth", "--geometry", "qwen3-30b-a3b", "--dtype", "int5", "--out", dir("x")}).code,
            2);
  EXPECT_EQ(process::run({"synth", "--geometry", "qwen3-30b-a3b"}).code, 2);
  json config = json::parse(kGqaConfig);
  config["hidden_size"] = 48;
  expect_one_line(synth("ragged", config.dump().c_str(), {}), "groups of 32");
  config = json::parse(kGqaConfig);
  config["hidden_size"] = 1 << 20, config["num_hidden_layers"] = 4096;
  config["intermediate_size"] = 1 << 20, config["first_k_dense_replace"] = 4096;
  expect_one_line(synth("huge", config.dump().c_str(), {}), "GB are needed");
  for (const std::string& name : files_in(dir("."))) {
    EXPECT_TRUE(name.ends_with(".json")) << name << " was left behind";
  }
}

TEST_F(Synth, ReplacesOnlyItsOwnFolders) {
  ASSERT_EQ(synth("mine", kGqaConfig, {}).code, 0);
  const std::string before = process::read_file(dir("mine") + "/model.safetensors");
  expect_one_line(synth("mine", kGqaConfig, {"--seed", "5"}), "--force");
  EXPECT_EQ(process::read_file(dir("mine") + "/model.safetensors"), before);
  ASSERT_EQ(synth("mine", kGqaConfig, {"--seed", "5", "--force"}).code, 0);
  EXPECT_NE(process::read_file(dir("mine") + "/model.safetensors"), before);

  std::filesystem::create_directory(dir("yours"));
  ASSERT_EQ(synth("yours", kGqaConfig, {}).code, 0);  // empty
  std::filesystem::remove_all(dir("yours"));
  std::filesystem::create_directory(dir("yours"));
  const std::string thesis = scratch_.write("yours/thesis.txt", "years of work");
  expect_one_line(synth("yours", kGqaConfig, {"--force"}), "not written by synth");
  EXPECT_EQ(process::read_file(thesis), "years of work");
  scratch_.write("file", "");
  expect_one_line(synth("file", kGqaConfig, {"--force"}), "not a folder");
  EXPECT_EQ(files_in(dir(".")),
            (std::set<std::string>{"file", "file.json", "mine", "mine.json", "yours", "yours.json"}));
}

TEST(Geometries, ParseAndAreListed) {
  ASSERT_EQ(geometries().size(), 7u);
  std::string names;
  for (const Geometry& g : geometries()) {
    const auto config = ModelConfig::parse(g.config, std::string(g.name));
    EXPECT_TRUE(config.ok()) << config.status().message();
    names += fmt::format("{}\n", g.name);
  }
  const Finished list = process::run({"synth", "--geometry", "list"});
  EXPECT_EQ(list.code, 0);
  EXPECT_EQ(list.out, names);
}

TEST_F(Synth, InspectCountsWhatAsTokenReads) {
  ASSERT_EQ(synth("mla", kMlaConfig, {"--dtype", "int4"}).code, 0);
  const Finished run = process::run({"inspect", "-m", dir("mla"), "--json", "--tensors"});
  ASSERT_EQ(run.code, 0) << run.err;
  const json facts = json::parse(run.out);
  const auto files = ModelFiles::open(dir("mla"));
  ASSERT_TRUE(files.ok());
  // By hand from kMlaConfig: q_a, q_b, kv_a, kv_b, o; two dense layers; shared; router; two experts; head.
  const int64_t attention = 64 * 96 + 2 * 48 * 64 + (64 + 16) * 96 + 2 * 64 * 64 + 96 * 64;
  const int64_t expert = 3 * 96 * 32, dense = 3 * 96 * 160, router = 8 * 96, head = 400 * 96;
  const int64_t packed = 4 * attention + 2 * dense + 2 * (2 * expert + 2 * expert) + head;
  EXPECT_EQ(facts["active_weights_per_token"], packed + 2 * router);
  // int4 with a BF16 scale per 32 is 18 bytes for 32; router and one embedding row are BF16.
  EXPECT_EQ(facts["active_bytes_per_token"], packed / 32 * 18 + 2 * router * 2 + 96 * 2);
  EXPECT_EQ(facts["cache_bytes_per_token_bf16"], 4 * (64 + 16) * 2);
  EXPECT_EQ(facts["bytes"], (*files)->checkpoint().total_bytes());
  EXPECT_EQ(facts["tensors"].size(), (*files)->checkpoint().tensors().size());
  EXPECT_EQ(facts["moe"]["layers"], 2);

  const Finished text = process::run({"inspect", "-m", dir("mla")});
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.out.find("routed experts"), std::string::npos) << text.out;
  expect_one_line(process::run({"inspect", "-m", dir("absent")}), "absent");
}

TEST_F(Synth, BenchAndDoctorReportEveryFigure) {
  const std::string config = scratch_.write("tiny.json", kMlaConfig);
  const Finished run = process::run(
      {"bench", "--geometry", config,  "--quant",       "int8",  "--temporary", dir("."), "-p",
       "20",    "-n",         "3",     "--depth",       "5",     "--batch",     "1,4",    "--repeats",
       "2",     "--ops",      "--csv", dir("rows.csv"), "--json"});
  ASSERT_EQ(run.code, 0) << run.err;
  const json rows = json::parse(run.out);
  ASSERT_EQ(rows.size(), 3u);
  for (const json& row : rows) {
    EXPECT_EQ(row["quant"], "int8");
    EXPECT_EQ(row["runs_s"].size(), 2u);
    for (const char* name : {"tok_s", "bytes_per_token", "limit_share", "memory_read_GBs", "resident_GB"})
      EXPECT_GT(row[name], 0.0) << name;
    double share = 0;
    for (const json& op : row["ops"]) share += op["share_of_time"].get<double>();
    EXPECT_NEAR(share, 1, 1e-9);
  }
  EXPECT_EQ(rows[0]["test"], "prefill");
  EXPECT_EQ(rows[0]["tokens"], 20);
  for (const size_t i : {1, 2}) {
    EXPECT_EQ(rows[i]["test"], "decode");
    EXPECT_EQ(rows[i]["depth"], 5);
    EXPECT_EQ(rows[i]["batch"], i == 1 ? 1 : 4);
  }
  // Four sequences share what is not an expert's, and of experts what they choose alike.
  EXPECT_LT(rows[2]["bytes_per_token"], rows[1]["bytes_per_token"]);
  EXPECT_GT(4 * rows[2]["bytes_per_token"].get<double>(), rows[1]["bytes_per_token"].get<double>());
  const std::string table = process::read_file(dir("rows.csv"));
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 4);
  std::filesystem::remove(dir("rows.csv"));
  EXPECT_EQ(files_in(dir(".")), std::set<std::string>{"tiny.json"});
  EXPECT_EQ(process::run({"bench", "--geometry", config, "-m", "x"}).code, 2);

  const Finished doctor = process::run({"doctor", "--json"});
  ASSERT_EQ(doctor.code, 0) << doctor.err;
  const json machine = json::parse(doctor.out);
  EXPECT_GT(machine["memory_read_GBs"], 0.0);
  EXPECT_GT(machine["float32_GFLOPs"], 0.0);
  EXPECT_GE(machine["self_check"].size(), 8u);
  for (const json& check : machine["self_check"]) EXPECT_TRUE(check["ok"]) << check;
  const json& cuda = machine["cuda"];
  EXPECT_EQ(cuda["devices"].empty(), cuda["note"] != "") << "what is missing, or what is there: " << cuda;
  for (const json& gpu : cuda["devices"]) {
    EXPECT_NE(gpu["name"], "");
    for (const char* fact : {"memory_bytes", "to_device_GBs", "to_host_GBs", "memory_GBs"})
      EXPECT_GT(gpu[fact], 0) << fact << " of " << gpu;
  }
  const std::string text = process::run({"doctor"}).out;
  EXPECT_NE(text.find("\nCUDA            "), std::string::npos) << text;
  EXPECT_EQ(text.find("\nGPU 0 ") == std::string::npos, cuda["devices"].empty()) << text;
  EXPECT_EQ(text.find("on the CPU only"), std::string::npos) << text;
}

}  // namespace
}  // namespace moebius
