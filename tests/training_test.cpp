// Training through its own interface, on models of a few thousand weights: that runs learn, what they leave
// alone, that they repeat and go on bit for bit, and that every rule that a step promises is kept.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/train/checkpoint.h"
#include "engine/train/full.h"
#include "engine/train/lora.h"
#include "engine/train/trainer.h"
#include "models/file_io.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;

const char* const kDeepseek = R"({"model_type": "deepseek_v3", "vocab_size": 64, "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 16,
    "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "intermediate_size": 64, "moe_intermediate_size": 32, "first_k_dense_replace": 1, "n_routed_experts": 4,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
    "n_group": 1, "topk_group": 1, "norm_topk_prob": true, "routed_scaling_factor": 1.0,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 256, "eos_token_id": 1})";

const char* const kQwen = R"({"model_type": "qwen3_moe", "vocab_size": 64, "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "intermediate_size": 64, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2,
    "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [], "tie_word_embeddings": true,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 256, "eos_token_id": 1})";

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  const size_t at = text.find(what);
  MOEBIUS_CHECK(at != std::string::npos, what);
  return text.replace(at, what.size(), with);
}

// One layer, so that its logits depend on its own weights and the embedding alone.
std::string shallow_mla() {
  return replaced(replaced(kDeepseek, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"),
                  "\"first_k_dense_replace\": 1", "\"first_k_dense_replace\": 0");
}
// GQA without norms of q and k.
std::string shallow_gqa() {
  std::string text = replaced(replaced(kQwen, "qwen3_moe", "glm4_moe"), "\"num_hidden_layers\": 2",
                              "\"num_hidden_layers\": 1");
  return replaced(text, "\"num_experts\": 4",
                  "\"use_qk_norm\": false, \"n_routed_experts\": 4, \"n_shared_experts\": 1, \"n_group\": 1, "
                  "\"topk_group\": 1, \"routed_scaling_factor\": 1.0, \"first_k_dense_replace\": 0");
}

ModelConfig parsed(const std::string& text) {
  auto config = ModelConfig::parse(text, "config.json");
  MOEBIUS_CHECK(config.ok(), config.status().message());
  return *config;
}

// Sequences in which a token follows from the one before it; some tokens do not count.
Dataset cycles(int64_t examples, int64_t length, int64_t vocab, int counted_percent = 100) {
  std::mt19937 random(7);
  Dataset data;
  for (int64_t i = 0; i < examples; ++i) {
    std::vector<int32_t> ids{static_cast<int32_t>(random() % static_cast<uint32_t>(vocab))};
    std::vector<uint8_t> mask{0};
    while (std::ssize(ids) < length) {
      ids.push_back(static_cast<int32_t>((5 * ids.back() + 3) % vocab));
      mask.push_back(static_cast<int>(random() % 100) < counted_percent);
    }
    mask.back() = 1;
    data.add(ids, mask);
  }
  return data;
}

TrainerOptions steps_of(int64_t steps, double lr, int64_t micro_tokens = 256) {
  TrainerOptions options;
  options.steps = steps, options.lr = lr, options.micro_tokens = micro_tokens;
  options.shape = LrShape::kConstant;
  return options;
}

// A trainer and all that it needs to stay alive.
struct Trial {
  ModelConfig config;
  RotaryTable rotary;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<ModelFiles> files;
  std::unique_ptr<FullModel> full;
  std::unique_ptr<LoraModel> lora;
  Dataset data;
  std::unique_ptr<Trainer> trainer;

  Trained& trained() const {
    if (full) return *full;
    return *lora;
  }
  StepReport step() {
    auto report = trainer->step();
    EXPECT_TRUE(report.ok()) << report.status().message();
    return report.ok() ? *report : StepReport();
  }
  std::vector<double> losses(int64_t steps) {
    std::vector<double> all;
    for (int64_t i = 0; i < steps; ++i) all.push_back(step().loss);
    return all;
  }
  std::span<float> tensor(const std::string& name) const {
    for (const optim::StateEntry& e : trained().entries())
      if (e.name == name) return {static_cast<float*>(e.data), static_cast<size_t>(e.bytes) / sizeof(float)};
    ADD_FAILURE() << "no tensor " << name;
    return {};
  }
  std::map<std::string, std::string> bytes() const {
    std::map<std::string, std::string> all;
    for (const optim::StateEntry& e : trained().entries())
      all[e.name] = std::string(static_cast<const char*>(e.data), static_cast<size_t>(e.bytes));
    return all;
  }
};

void start(Trial& run, const TrainerOptions& options, int threads, const std::string& settings) {
  const Model model{run.config, run.trained().weights(), run.rotary, *run.backend};
  auto trainer = Trainer::create(model, run.trained(), all_of(run.data), options, threads, settings);
  MOEBIUS_CHECK(trainer.ok(), trainer.status().message());
  run.trainer = std::move(*trainer);
}

std::unique_ptr<Trial> full_run(const std::string& config, const FullOptions& options, Dataset data,
                                const TrainerOptions& trainer, int threads = 2,
                                const std::string& settings = "settings") {
  auto run = std::make_unique<Trial>();
  run->config = parsed(config);
  run->rotary = rotary_table(run->config.rotary);
  run->backend = make_host_backend({threads});
  run->data = std::move(data);
  auto model = FullModel::random(run->config, options, *run->backend);
  MOEBIUS_CHECK(model.ok(), model.status().message());
  run->full = std::move(*model);
  start(*run, trainer, threads, settings);
  return run;
}

LoraOptions lora_options(std::vector<std::string> targets, LoraOptimizer optimizer = LoraOptimizer::kMuon) {
  LoraOptions options;
  options.rank = 4, options.alpha = 8;
  options.targets = std::move(targets), options.optimizer = optimizer;
  return options;
}

std::unique_ptr<Trial> lora_run(const std::string& model, const LoraOptions& options,
                                const TrainerOptions& trainer, int threads = 2) {
  auto run = std::make_unique<Trial>();
  auto files = ModelFiles::open("tests/golden/models/" + model);
  MOEBIUS_CHECK(files.ok(), files.status().message());
  run->files = std::move(*files);
  run->config = run->files->config();
  run->rotary = rotary_table(run->config.rotary);
  run->backend = make_host_backend({threads});
  run->data = cycles(24, 17, 40);
  auto lora = LoraModel::create(run->config, run->files->weights(), options);
  MOEBIUS_CHECK(lora.ok(), lora.status().message());
  run->lora = std::move(*lora);
  start(*run, trainer, threads, "settings");
  return run;
}

// Every byte of a model, by tensor.
std::map<std::string, std::string> base_bytes(const ModelFiles& files) {
  std::map<std::string, std::string> all;
  Weights tree = files.weights();
  const auto matrix = [&](const std::string& name, Role, int64_t, int64_t, Matrix& w) {
    all[name] = std::string(static_cast<const char*>(w.data), static_cast<size_t>(w.rows * w.row_bytes()));
    return Status();
  };
  const auto vector = [&](const std::string& name, int64_t size, Tensor& v) {
    all[name] = std::string(static_cast<const char*>(v.data), static_cast<size_t>(size) * sizeof(float));
    return Status();
  };
  EXPECT_TRUE(visit_weights(files.config(), tree, {matrix, vector}).ok());
  for (const TensorEntry* t : files.checkpoint().tensors())
    all["file " + t->name] = std::string(static_cast<const char*>(t->data), static_cast<size_t>(t->bytes));
  return all;
}

double mean_of_last(const std::vector<double>& losses, int64_t count) {
  return std::accumulate(losses.end() - count, losses.end(), 0.0) / static_cast<double>(count);
}

double norm_of(std::span<const optim::NamedGradient> gradients) {
  double sum = 0;
  for (const optim::NamedGradient& g : gradients)
    for (const float value : g.values.values()) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

class Scratch {
 public:
  Scratch() {
    std::string pattern = fs::temp_directory_path() / "moebius_training_XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~Scratch() { fs::remove_all(path_); }
  std::string file(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

// ---- Runs learn

struct Recipe {
  const char* name;
  optim::Recipe matrices;
  double lr;
};
void PrintTo(const Recipe& recipe, std::ostream* to) { *to << recipe.name; }
const Recipe kRecipes[] = {{"muon", optim::muon(), 0.02},
                           {"muon_polar", optim::muon(0.1, optim::polar_express()), 0.02},
                           {"adamw", optim::adamw(), 0.02}};

class Learns : public testing::TestWithParam<std::tuple<const char*, Recipe>> {};

// Guessing costs log 64 = 4.16; a model that knows the rule pays nothing.
TEST_P(Learns, FromRandomWeights) {
  const auto& [config, recipe] = GetParam();
  FullOptions options;
  options.matrices = recipe.matrices;
  const auto run = full_run(config, options, cycles(32, 17, 64), steps_of(60, recipe.lr));
  const std::vector<double> losses = run->losses(60);
  EXPECT_NEAR(losses[0], std::log(64), 0.3);
  EXPECT_LT(mean_of_last(losses, 5), 0.3);
  const auto eval = run->trainer->evaluate(all_of(run->data));
  ASSERT_TRUE(eval.ok());
  EXPECT_LT(eval->loss, 0.3);
  EXPECT_EQ(eval->tokens, 32 * 16);
}
INSTANTIATE_TEST_SUITE_P(All, Learns,
                         testing::Combine(testing::Values(kDeepseek, kQwen), testing::ValuesIn(kRecipes)),
                         [](const auto& one) {
                           const bool mla = std::get<0>(one.param) == kDeepseek;
                           return fmt::format("{}_{}", mla ? "deepseek_v3" : "qwen3_moe",
                                              std::get<1>(one.param).name);
                         });

struct Adapted {
  const char* model;
  LoraOptimizer optimizer;
  std::vector<std::string> targets;
  double below;  // of the first loss
};
std::string name_of(const Adapted& a) {
  const char* const names[] = {"muon", "lora_muon", "adamw"};
  return fmt::format("{}_{}_{}", a.model, names[static_cast<size_t>(a.optimizer)],
                     a.targets.empty() ? "all" : a.targets[0]);
}
void PrintTo(const Adapted& a, std::ostream* to) { *to << name_of(a); }

std::vector<Adapted> adapted() {
  std::vector<Adapted> all;
  using enum LoraOptimizer;
  for (const LoraOptimizer o : {kMuon, kLoraMuon, kAdamW})
    for (const char* model : {"deepseek_v3_tiny", "deepseek_v3_int4"}) all.push_back({model, o, {}, 0.8});
  all.push_back({"deepseek_v3_int8", kMuon, {}, 0.8});
  all.push_back({"deepseek_v3_fp8", kAdamW, {}, 0.8});
  all.push_back({"deepseek_v3_bf16", kLoraMuon, {}, 0.8});
  all.push_back({"qwen3_moe_int4", kLoraMuon, {}, 0.8});
  all.push_back({"glm4_moe_fp8", kMuon, {}, 0.8});
  for (const char* model : {"deepseek_v3_tiny", "deepseek_v3_int4"}) {
    all.push_back({model, LoraOptimizer::kMuon, {"kv_b_proj"}, 0.99});
    all.push_back({model, LoraOptimizer::kMuon, {"router"}, 0.999});
  }
  return all;
}

class Adapts : public testing::TestWithParam<Adapted> {};

TEST_P(Adapts, AFrozenBase) {
  const Adapted& a = GetParam();
  const double lr = a.optimizer == LoraOptimizer::kLoraMuon ? 0.05 : 0.02;
  const auto run = lora_run(a.model, lora_options(a.targets, a.optimizer), steps_of(30, lr));
  const auto before = base_bytes(*run->files);
  const std::vector<double> losses = run->losses(30);
  EXPECT_LT(mean_of_last(losses, 3), a.below * losses[0]) << losses[0];
  EXPECT_EQ(base_bytes(*run->files), before);

  size_t moved = 0;
  for (const AdapterFactors* f : run->lora->factors()) {
    for (const std::string& target : a.targets)
      EXPECT_TRUE(f->module.ends_with(target == "router" ? ".mlp.gate" : "." + target)) << f->module;
    EXPECT_EQ(f->module.ends_with(".mlp.gate"), a.targets == std::vector<std::string>{"router"});
    moved += std::ranges::any_of(f->b, [](float value) { return value != 0; });
  }
  // Experts that no token chose stay as they were.
  EXPECT_GT(moved, run->lora->factors().size() / 2);
}
INSTANTIATE_TEST_SUITE_P(All, Adapts, testing::ValuesIn(adapted()),
                         [](const auto& one) { return name_of(one.param); });

// ---- Runs repeat

TEST(Repeats, WithAnyNumberOfThreads) {
  for (const char* config : {kDeepseek, kQwen}) {
    const auto one = full_run(config, {}, cycles(32, 17, 64), steps_of(8, 0.02), 1);
    const auto two = full_run(config, {}, cycles(32, 17, 64), steps_of(8, 0.02), 2);
    EXPECT_EQ(one->losses(8), two->losses(8));
    EXPECT_EQ(one->bytes(), two->bytes());
  }
  for (const LoraOptimizer o : {LoraOptimizer::kMuon, LoraOptimizer::kLoraMuon, LoraOptimizer::kAdamW}) {
    const auto one = lora_run("deepseek_v3_int4", lora_options({}, o), steps_of(4, 0.02), 1);
    const auto two = lora_run("deepseek_v3_int4", lora_options({}, o), steps_of(4, 0.02), 2);
    EXPECT_EQ(one->losses(4), two->losses(4));
    EXPECT_EQ(one->bytes(), two->bytes());
  }
}

TEST(Repeats, FromACheckpoint) {
  const Scratch scratch;
  const std::string path = scratch.file("checkpoint-000005.safetensors");
  const auto whole = full_run(kDeepseek, {}, cycles(32, 17, 64), steps_of(12, 0.02));
  whole->losses(5);
  ASSERT_TRUE(whole->trainer->save(path).ok());
  const std::vector<double> rest = whole->losses(7);

  FullOptions others;
  others.seed = 5;  // what a checkpoint does not restore would show
  const auto resumed = full_run(kDeepseek, others, cycles(32, 17, 64), steps_of(12, 0.02));
  resumed->losses(3);
  const Status status = resumed->trainer->restore(path);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(resumed->trainer->steps_done(), 5);
  EXPECT_EQ(resumed->losses(7), rest);
  EXPECT_EQ(resumed->bytes(), whole->bytes());

  const auto adapter = lora_run("deepseek_v3_int4", lora_options({}), steps_of(6, 0.02));
  adapter->losses(2);
  ASSERT_TRUE(adapter->trainer->save(path).ok());
  const std::vector<double> adapter_rest = adapter->losses(4);
  LoraOptions other = lora_options({});
  other.seed = 5;
  const auto again = lora_run("deepseek_v3_int4", other, steps_of(6, 0.02));
  ASSERT_TRUE(again->trainer->restore(path).ok());
  EXPECT_EQ(again->losses(4), adapter_rest);
}

TEST(Checkpoints, AreRefusedByName) {
  const Scratch scratch;
  const std::string path = scratch.file("checkpoint-000001.safetensors");
  const auto run = full_run(kDeepseek, {}, cycles(8, 17, 64), steps_of(2, 0.02), 1, "data 1\nlr 0.02\n");
  run->step();
  ASSERT_TRUE(run->trainer->save(path).ok());

  const auto other = full_run(kDeepseek, {}, cycles(8, 17, 64), steps_of(2, 0.02), 1, "data 1\nlr 0.03\n");
  const auto before = other->bytes();
  const auto refused = [&](Trial& by, const std::string& text) {
    const Status status = by.trainer->restore(path);
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.message().find(text), std::string::npos) << status.message();
    EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
    EXPECT_EQ(by.trainer->steps_done(), 0);
  };
  refused(*other, R"("lr 0.02", this run has "lr 0.03")");
  EXPECT_EQ(other->bytes(), before);
  const auto wide = full_run(replaced(kDeepseek, "\"hidden_size\": 32", "\"hidden_size\": 48"), {},
                             cycles(8, 17, 64), steps_of(2, 0.02), 1, "data 1\nlr 0.02\n");
  refused(*wide, "model.embed_tokens.weight has another shape");

  // Cut short, and with a bit of its header turned.
  auto bytes = read_text_file(path, 1 << 24);
  ASSERT_TRUE(bytes.ok());
  for (const size_t length : {size_t{0}, size_t{7}, size_t{1000}, bytes->size() - 1}) {
    ASSERT_TRUE(write_text_file(path, bytes->substr(0, length)).ok());
    refused(*other, "remove it to go on from the checkpoint before it");
  }
  EXPECT_EQ(other->bytes(), before);
}

TEST(Checkpoints, AreListedByStepAndPruned) {
  const Scratch scratch;
  const std::string dir = scratch.file("checkpoints");
  fs::create_directory(dir);
  EXPECT_EQ(newest_checkpoint(dir + "/none"), "");
  EXPECT_EQ(newest_checkpoint(dir), "");
  for (const int64_t step : {9, 1000000, 20})
    ASSERT_TRUE(write_text_file(checkpoint_path(dir, step), "x").ok());
  const std::vector<std::string> others = {"checkpoint-.safetensors", "checkpoint-3x.safetensors",
                                           "checkpoint-99999999.safetensors.partial-12-0", "notes.partial-x"};
  for (const std::string& name : others) ASSERT_TRUE(write_text_file(dir + "/" + name, "x").ok());
  EXPECT_EQ(newest_checkpoint(dir), checkpoint_path(dir, 1000000));
  ASSERT_TRUE(prune_checkpoints(dir, 2).ok());
  EXPECT_FALSE(fs::exists(checkpoint_path(dir, 9)));
  EXPECT_TRUE(fs::exists(checkpoint_path(dir, 20)));
  EXPECT_TRUE(fs::exists(checkpoint_path(dir, 1000000)));
  remove_partial_files(dir);
  for (const std::string& name : others)
    EXPECT_EQ(fs::exists(dir + "/" + name), name.find("-12-0") == std::string::npos);
}

// ---- Faults

TEST(Faults, ABrokenWeightIsNamedAndNothingIsKept) {
  const Scratch scratch;
  for (const char* name : {"model.embed_tokens.weight", "model.layers.1.self_attn.o_proj.weight",
                           "model.layers.0.mlp.down_proj.weight", "lm_head.weight"}) {
    for (const float value : {NAN, INFINITY}) {
      const auto run = full_run(kDeepseek, {}, cycles(32, 17, 64), steps_of(9, 0.02));
      run->losses(2);
      const std::span<float> weights = run->tensor(name);
      std::fill_n(weights.begin(), 64, value);
      const auto before = run->bytes();
      const auto report = run->trainer->step();
      ASSERT_FALSE(report.ok()) << name;
      EXPECT_EQ(report.status().message().rfind("step 3: ", 0), 0u) << report.status().message();
      EXPECT_NE(report.status().message().find(name), std::string::npos) << report.status().message();
      EXPECT_EQ(run->trainer->steps_done(), 2);
      EXPECT_EQ(run->bytes(), before);
      const Status save = run->trainer->save(scratch.file("bad"));
      EXPECT_NE(save.message().find(name), std::string::npos) << save.message();
      EXPECT_FALSE(fs::exists(scratch.file("bad")));
      const auto eval = run->trainer->evaluate(all_of(run->data));
      ASSERT_FALSE(eval.ok());
      EXPECT_NE(eval.status().message().find("step 2"), std::string::npos) << eval.status().message();
      EXPECT_NE(eval.status().message().find(name), std::string::npos) << eval.status().message();
    }
  }
}

TEST(Faults, ABrokenAdapterIsNamed) {
  const auto run = lora_run("deepseek_v3_int4", lora_options({}), steps_of(9, 0.02));
  run->step();
  const std::string name = "model.layers.0.self_attn.o_proj.lora_B";
  run->tensor(name)[0] = NAN;
  const auto report = run->trainer->step();
  ASSERT_FALSE(report.ok());
  EXPECT_NE(report.status().message().find(name), std::string::npos) << report.status().message();
}

TEST(Faults, AnExplosionStopsTheRun) {
  const auto run = full_run(kDeepseek, {}, cycles(32, 17, 64), steps_of(200, 0.02));
  run->losses(60);
  for (float& value : run->tensor("lm_head.weight")) value *= -100;
  std::string message;
  for (int i = 0; i < 3 && message.empty(); ++i) {
    const auto report = run->trainer->step();
    if (!report.ok()) message = report.status().message();
  }
  EXPECT_NE(message.find("exploded"), std::string::npos) << message;
  EXPECT_EQ(message.rfind("step 61: ", 0), 0u) << message;
  EXPECT_NE(message.find("model."), std::string::npos) << message;
}

TEST(Faults, AdaptersThatCannotBe) {
  auto files = ModelFiles::open("tests/golden/models/qwen3_moe");
  ASSERT_TRUE(files.ok());
  const auto refusal = [&](const LoraOptions& options) {
    const auto model = LoraModel::create((*files)->config(), (*files)->weights(), options);
    return model.ok() ? std::string() : model.status().message();
  };
  EXPECT_EQ(refusal(lora_options({})), "");  // has neither dense nor shared matrices
  LoraOptions options = lora_options({});
  options.rank = 33;  // experts are 32 wide
  EXPECT_NE(refusal(options).find("--rank 33 is more than model.layers.0.mlp.experts.0.gate_proj [32, 64]"),
            std::string::npos)
      << refusal(options);
  for (const char* target : {"shared", "kv_b_proj", "nonsense", "", "embed_tokens", "proj"}) {
    const std::string text = refusal(lora_options({"o", target}));
    EXPECT_NE(text.find(fmt::format("\"{}\" names no matrix", target)), std::string::npos) << text;
  }
  for (const double alpha : {0.0, -1.0, static_cast<double>(NAN), HUGE_VAL}) {
    options = lora_options({});
    options.alpha = alpha;
    EXPECT_NE(refusal(options).find("--alpha"), std::string::npos);
  }
  options = lora_options({});
  options.rank = 0;
  EXPECT_NE(refusal(options).find("--rank"), std::string::npos);
}

TEST(Faults, OptionsThatMakeNoSense) {
  const auto run = full_run(kDeepseek, {}, cycles(4, 17, 64), steps_of(4, 0.02));
  const Model model{run->config, run->full->weights(), run->rotary, *run->backend};
  const auto refused = [&](const std::function<void(TrainerOptions&)>& edit) {
    TrainerOptions options = steps_of(4, 0.02);
    edit(options);
    return !Trainer::create(model, *run->full, all_of(run->data), options, 1, "").ok();
  };
  EXPECT_FALSE(refused([](TrainerOptions&) {}));
  EXPECT_TRUE(refused([](TrainerOptions& o) { o.steps = 0; }));
  EXPECT_TRUE(refused([](TrainerOptions& o) { o.micro_tokens = 0; }));
  EXPECT_TRUE(refused([](TrainerOptions& o) { o.micro_tokens = 15; }));  // an example has 16 rows
  EXPECT_TRUE(refused([](TrainerOptions& o) { o.accumulation = 0; }));
  EXPECT_TRUE(refused([](TrainerOptions& o) { o.lr = NAN; }));
  EXPECT_TRUE(refused([](TrainerOptions& o) { o.lr = 0; }));
  EXPECT_TRUE(refused([](TrainerOptions& o) { o.warmup = 5; }));
  EXPECT_TRUE(refused([](TrainerOptions& o) { o.floor = 1.1; }));
  EXPECT_TRUE(refused([](TrainerOptions& o) { o.decay_part = -0.1; }));
  EXPECT_TRUE(refused([](TrainerOptions& o) { o.clip = 0; }));
  EXPECT_TRUE(refused([](TrainerOptions& o) { o.clip = NAN; }));
}

// ---- What a step promises

// Half of the tokens count, so that micro-batches of equal size weigh differently.
TEST(Step, MicroBatchesAddUpToOne) {
  for (const char* config : {kDeepseek, kQwen}) {
    TrainerOptions at_once = steps_of(3, 0.02, 16 * 16), in_parts = steps_of(3, 0.02, 4 * 16);
    at_once.clip = in_parts.clip = HUGE_VAL;
    in_parts.accumulation = 4;
    const auto one = full_run(config, {}, cycles(16, 17, 64, 50), at_once);
    const auto four = full_run(config, {}, cycles(16, 17, 64, 50), in_parts);
    const StepReport a = one->step(), b = four->step();
    EXPECT_EQ(a.tokens, 256);
    EXPECT_EQ(b.tokens, 256);
    EXPECT_EQ(a.target_tokens, one->data.counted());
    EXPECT_EQ(b.target_tokens, one->data.counted());
    EXPECT_NEAR(a.loss, b.loss, 1e-6 * a.loss);
    EXPECT_NEAR(a.gradient_norm, b.gradient_norm, 1e-5 * a.gradient_norm);
    const auto ga = one->full->named_gradients(), gb = four->full->named_gradients();
    for (size_t i = 0; i < ga.size(); ++i) {
      const std::span<float> x = ga[i].values.values(), y = gb[i].values.values();
      double apart = 0, size = 0;
      for (size_t j = 0; j < x.size(); ++j)
        apart += std::pow(static_cast<double>(x[j]) - y[j], 2),
            size += std::pow(static_cast<double>(x[j]), 2);
      EXPECT_LE(std::sqrt(apart), 1e-5 * std::sqrt(size) + 1e-8) << ga[i].name;
    }
  }
}

TEST(Step, ClipsTheNormOfAllGradients) {
  const auto gradients_with = [](double clip) {
    TrainerOptions options = steps_of(1, 0.02);
    options.clip = clip;
    const auto run = full_run(kDeepseek, {}, cycles(16, 17, 64), options);
    const double norm = run->step().gradient_norm;
    return std::pair(norm, norm_of(run->full->named_gradients()));
  };
  const auto [norm, measured] = gradients_with(HUGE_VAL);
  EXPECT_GT(norm, 0.01);
  EXPECT_NEAR(measured, norm, 1e-6 * norm);
  const auto [reported, clipped] = gradients_with(norm / 3);
  EXPECT_EQ(reported, norm);
  EXPECT_NEAR(clipped, norm / 3, 1e-4 * norm);
  EXPECT_NEAR(gradients_with(norm * 3).second, norm, 1e-6 * norm);
}

TEST(Step, FollowsTheSchedule) {
  TrainerOptions o = steps_of(100, 0.5);
  o.warmup = 10, o.floor = 0.2, o.decay_part = 0.3;
  o.shape = LrShape::kCosine;
  EXPECT_EQ(learning_rate(o, 0), 0);
  EXPECT_NEAR(learning_rate(o, 5), 0.25, 1e-12);
  EXPECT_NEAR(learning_rate(o, 10), 0.5, 1e-12);
  EXPECT_NEAR(learning_rate(o, 55), 0.5 * 0.6, 1e-12);  // half way: the mean of peak and floor
  EXPECT_NEAR(learning_rate(o, 100), 0.1, 1e-12);
  o.shape = LrShape::kWsd;
  EXPECT_NEAR(learning_rate(o, 0), 0.1, 1e-12);
  for (const int64_t step : {10, 40, 69, 70}) EXPECT_NEAR(learning_rate(o, step), 0.5, 1e-12) << step;
  EXPECT_NEAR(learning_rate(o, 85), 0.3, 1e-12);
  EXPECT_NEAR(learning_rate(o, 100), 0.1, 1e-12);
  o.shape = LrShape::kLinear;
  EXPECT_NEAR(learning_rate(o, 10), 0.5, 1e-12);
  EXPECT_NEAR(learning_rate(o, 55), 0.3, 1e-12);
  EXPECT_NEAR(learning_rate(o, 100), 0.1, 1e-12);
  o.shape = LrShape::kConstant;
  EXPECT_NEAR(learning_rate(o, 4), 0.5 * 5 / 11, 1e-12);
  EXPECT_EQ(learning_rate(o, 10), 0.5);
  EXPECT_EQ(learning_rate(o, 99), 0.5);
  for (const LrShape shape : {LrShape::kCosine, LrShape::kWsd, LrShape::kLinear}) {
    o.shape = shape;
    for (int64_t step = 10; step < 100; ++step) EXPECT_GE(learning_rate(o, step), learning_rate(o, step + 1));
    for (int64_t step = 0; step < 10; ++step) EXPECT_LT(learning_rate(o, step), learning_rate(o, step + 1));
  }

  o.steps = 20, o.warmup = 4, o.shape = LrShape::kCosine, o.lr = 0.01;
  const auto run = full_run(kDeepseek, {}, cycles(8, 17, 64), o);
  for (int64_t step = 0; step < 6; ++step) EXPECT_EQ(run->step().lr, learning_rate(o, step));
}

TEST(Step, ZeroLearningRateChangesNoWeight) {
  TrainerOptions o = steps_of(10, 0.02);
  o.shape = LrShape::kCosine, o.warmup = 5;
  FullOptions options;
  options.balance_gamma = 0;
  const auto run = full_run(kDeepseek, options, cycles(8, 17, 64), o);
  const auto before = run->bytes();
  EXPECT_EQ(run->step().lr, 0);
  for (const auto& [name, bytes] : run->bytes())
    EXPECT_TRUE(name.find(".optim.") != std::string::npos || bytes == before.at(name)) << name;
}

// A bias that sends every token to two of the four experts: the fullest has twice the mean.
TEST(Step, SelectionBiasMovesTowardsBalance) {
  const std::string name = "model.layers.1.mlp.gate.e_score_correction_bias";
  FullOptions options;
  options.balance_gamma = 0.05;
  const auto run = full_run(kDeepseek, options, cycles(32, 17, 64), steps_of(60, 1e-4, 1024));
  const std::span<float> bias = run->tensor(name);
  bias[0] = bias[1] = 1;
  EXPECT_NEAR(run->step().expert_load, 2, 1e-12);
  EXPECT_FLOAT_EQ(bias[0], 0.95f);
  EXPECT_FLOAT_EQ(bias[1], 0.95f);
  EXPECT_FLOAT_EQ(bias[2], 0.05f);
  EXPECT_FLOAT_EQ(bias[3], 0.05f);
  double load = 2;
  for (int i = 0; i < 30; ++i) load = run->step().expert_load;
  EXPECT_LT(load, 1.5);

  options.balance_gamma = 0;
  const auto still = full_run(kDeepseek, options, cycles(32, 17, 64), steps_of(3, 1e-4, 1024));
  still->tensor(name)[0] = 1;
  EXPECT_GT(still->losses(2)[0], 0);
  EXPECT_EQ(still->tensor(name)[0], 1);
  EXPECT_EQ(still->tensor(name)[1], 0);
}

// A router whose rows 0 and 1 every token prefers: only the balance loss has a reason to change that.
TEST(Step, TheBalanceLossSpreadsTokens) {
  const auto load_after = [](double alpha) {
    FullOptions options;
    options.balance_gamma = 0;
    TrainerOptions steps = steps_of(40, 1e-3, 1024);
    steps.balance_loss = alpha;
    const auto run = full_run(kDeepseek, options, cycles(32, 17, 64), steps);
    const std::span<float> bias = run->tensor("model.layers.1.mlp.gate.e_score_correction_bias");
    bias[0] = bias[1] = 0.1f;
    double load = 0;
    for (int i = 0; i < 40; ++i) load = run->step().expert_load;
    return load;
  };
  const double without = load_after(0), with = load_after(1);
  EXPECT_GT(without, 1.3);
  EXPECT_LT(with, without - 0.1);
}

TEST(Step, QkClipBringsTheLargestLogitToTau) {
  constexpr double kTau = 2;
  const std::pair<std::string, std::string> cases[] = {{shallow_mla(), "q_b_proj"},
                                                       {shallow_gqa(), "q_proj"}};
  for (const auto& [config, q] : cases) {
    FullOptions options;
    options.qk_clip = kTau;
    const auto run = full_run(config, options, cycles(16, 17, 64), steps_of(5, 1e-12, 1024));
    for (float& value : run->tensor("model.layers.0.self_attn." + q + ".weight")) value *= 60;
    EXPECT_GT(run->step().max_logit, 2 * kTau) << q;
    EXPECT_GT(run->full->clipped_heads(), 0) << q;
    EXPECT_NEAR(run->step().max_logit, kTau, 1e-4 * kTau) << q;
    EXPECT_LE(run->step().max_logit, kTau * (1 + 1e-5)) << q;
    EXPECT_TRUE(run->full->notes().empty());

    options.qk_clip = 0;
    const auto off = full_run(config, options, cycles(16, 17, 64), steps_of(5, 1e-12, 1024));
    for (float& value : off->tensor("model.layers.0.self_attn." + q + ".weight")) value *= 60;
    const double first = off->step().max_logit;
    EXPECT_NEAR(off->step().max_logit, first, 1e-3 * first) << q;
  }
}

TEST(Step, QkClipSaysWhereItDoesNotApply) {
  FullOptions options;
  options.qk_clip = 0.01;
  const auto run = full_run(kQwen, options, cycles(16, 17, 64), steps_of(5, 1e-12, 1024));
  ASSERT_EQ(run->full->notes().size(), 1u);
  EXPECT_NE(run->full->notes()[0].find("QK-Clip is not applicable"), std::string::npos);
  const double first = run->step().max_logit;
  EXPECT_GT(first, 0.01);
  EXPECT_NEAR(run->step().max_logit, first, 1e-3 * first);
  EXPECT_EQ(run->full->clipped_heads(), 0);
}

TEST(Pass, WeighsTheLossOfEveryRow) {
  const auto run = full_run(kDeepseek, {}, cycles(4, 9, 64), steps_of(1, 0.02));
  const Model model{run->config, run->full->weights(), run->rotary, *run->backend};
  auto pass = TrainingPass::create(model, {32});
  ASSERT_TRUE(pass.ok());
  std::vector<int32_t> ids, targets;
  std::vector<int64_t> starts{0};
  for (int64_t i = 0; i < 4; ++i) {
    const Dataset::Example example = run->data.example(i);
    ids.insert(ids.end(), example.ids.begin(), example.ids.end() - 1);
    targets.insert(targets.end(), example.ids.begin() + 1, example.ids.end());
    starts.push_back(std::ssize(ids));
  }
  using Gradient = std::vector<float>;
  const auto train = [&](const std::vector<int32_t>& wanted, const std::vector<float>& weights) {
    run->full->zero_gradients();
    const auto loss = (*pass)->accumulate({ids, wanted, weights, starts}, 1, run->full->gradients());
    EXPECT_TRUE(loss.ok());
    Gradient all;
    for (const optim::NamedGradient& g : run->full->named_gradients())
      all.insert(all.end(), g.values.values().begin(), g.values.values().end());
    return std::pair(*loss, all);
  };
  std::vector<int32_t> some = targets;
  std::vector<float> zero_one(ids.size(), 1.0f), doubled(ids.size(), 2.0f);
  for (size_t i = 0; i < ids.size(); i += 3) some[i] = -1, zero_one[i] = 0;
  const auto plain = train(targets, {});
  EXPECT_EQ(train(targets, std::vector<float>(ids.size(), 1.0f)), plain);
  EXPECT_EQ(train(targets, zero_one), train(some, {}));
  EXPECT_LT(train(some, {}).first, plain.first);
  const auto twice = train(targets, doubled);
  EXPECT_NEAR(twice.first, 2 * plain.first, 1e-6 * plain.first);
  double apart = 0, size = 0;
  for (size_t i = 0; i < plain.second.size(); ++i) {
    apart += std::pow(twice.second[i] - 2.0 * plain.second[i], 2);
    size += std::pow(plain.second[i], 2);
  }
  EXPECT_LT(std::sqrt(apart), 1e-5 * std::sqrt(size));
}

}  // namespace
}  // namespace moebius
