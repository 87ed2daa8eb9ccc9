// Zero experts (ZEDA): routing and group balance loss against PyTorch's float64
// (tests/golden/make_zeda_golden.py), injected checkpoints against the ones they were made from, and the
// weights of on-policy steps against the log-probabilities that both models give by another path.
#include <cmath>
#include <filesystem>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/zeda/adaptation.h"
#include "engine/zeda/on_policy.h"
#include "engine/zeda/usage.h"
#include "engine/zeda/zero_experts.h"
#include "kernels/grad_ops.h"
#include "models/file_io.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;
using process::Scratch;

constexpr int64_t kReal = 6;

// A tensor of the golden file; data stays with the file.
Tensor golden(const std::string& name) {
  static const auto file = SafetensorsFile::open("tests/golden/zeda/zeda.safetensors");
  MOEBIUS_CHECK(file.ok(), file.status().message());
  for (const TensorEntry& e : (*file)->tensors()) {
    if (e.name != name) continue;
    void* data = const_cast<void*>(e.data);
    return e.shape.size() == 1 ? Tensor(data, e.dtype, {e.shape[0]})
                               : Tensor(data, e.dtype, {e.shape[0], e.shape[1]});
  }
  MOEBIUS_CHECK(false, name);
  return {};
}

class Golden : public testing::TestWithParam<const char*> {
 protected:
  Tensor at(const char* field) const { return golden(fmt::format("{}.{}", GetParam(), field)); }
  float setting(int i) const { return at("settings").f32()[i]; }
  Scoring scoring() const { return setting(0) != 0 ? Scoring::kSigmoid : Scoring::kSoftmax; }
};

// Scores come from sums of 8 float32 products and an exponential of them: some 2^-20 relative.
TEST_P(Golden, RoutesAsTheMethodSays) {
  const Tensor x = at("x"), gate = at("gate"), ids = at("ids"), chosen = at("chosen"),
               weights = at("weights");
  Matrix g;
  g.rows = gate.shape[0], g.cols = gate.shape[1], g.data = gate.data;
  const size_t slots = static_cast<size_t>(ids.numel());
  std::vector<int32_t> out_ids(slots), out_chosen(slots);
  std::vector<float> out_weights(slots);
  RouterArgs args;
  args.x = x, args.gate = g, args.bias = at("bias"), args.scoring = scoring(), args.n_experts = kReal;
  args.normalize = setting(1) != 0, args.scale = setting(2);
  args.ids = Tensor(out_ids.data(), DType::kI32, {ids.shape[0], ids.shape[1]});
  args.chosen = Tensor(out_chosen.data(), DType::kI32, {ids.shape[0], ids.shape[1]});
  args.weights = Tensor(out_weights.data(), DType::kF32, {ids.shape[0], ids.shape[1]});
  make_host_backend({1})->router(args);
  for (size_t i = 0; i < slots; ++i) {
    EXPECT_EQ(out_ids[i], ids.i32()[i]) << i;
    EXPECT_EQ(out_chosen[i], chosen.i32()[i]) << i;
    EXPECT_NEAR(out_weights[i], weights.f32()[i], 1e-5 * setting(2)) << i;
  }
}

// Computed in double from the same float32 logits, and rounded once.
TEST_P(Golden, BalancesTheGroups) {
  const Tensor logits = at("logits"), wanted = at("dlogits");
  std::vector<float> dlogits(static_cast<size_t>(logits.numel()), 0.0f);
  const std::vector<int64_t> starts{0, logits.shape[0]};
  BalanceBackwardArgs args;
  args.logits = logits, args.ids = at("chosen"), args.starts = starts, args.scoring = scoring();
  args.alpha = 0.1f, args.n_experts = kReal, args.zero_weight = setting(3);
  args.dlogits = Tensor(dlogits.data(), DType::kF32, {logits.shape[0], logits.shape[1]});
  make_host_backend({2})->balance_backward(args);
  float most = 0;
  for (int64_t i = 0; i < wanted.numel(); ++i) most = std::max(most, std::abs(wanted.f32()[i]));
  ASSERT_GT(most, 1e-4f);
  for (size_t i = 0; i < dlogits.size(); ++i) EXPECT_NEAR(dlogits[i], wanted.f32()[i], 1e-6f * most) << i;
}

INSTANTIATE_TEST_SUITE_P(Zeda, Golden, testing::Values("qwen3", "softmax_plain", "glm", "sigmoid_much"));

TEST(ZeroWeight, IsWhereTheLossIsLeast) {
  EXPECT_DOUBLE_EQ(zero_weight_for(0.5, 128, 64), 2);
  EXPECT_NEAR(zero_weight_for(1. / 3, 16, 8), 1, 1e-12);
  EXPECT_NEAR(zero_weight_for(2. / 3, 64, 32), 4, 1e-12);
}

// ---- inject ----

std::unique_ptr<ModelFiles> open_model(const std::string& dir) {
  auto files = ModelFiles::open(dir);
  MOEBIUS_CHECK(files.ok(), files.status().message());
  return std::move(*files);
}

float number(const TensorEntry& t, int64_t i) {
  if (t.dtype == DType::kF32) return static_cast<const float*>(t.data)[i];
  const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(t.data)[i]) << 16;
  return std::bit_cast<float>(bits);
}

class Inject : public testing::TestWithParam<const char*> {};

TEST_P(Inject, KeepsEveryTensorAndGrowsRouters) {
  const Scratch scratch;
  const std::string from = GetParam(), to = scratch.file("out");
  fs::create_directory(to);
  const auto before = open_model(from);
  ASSERT_TRUE(write_injected(*before, {}, to).ok());
  const auto after = open_model(to);
  const int64_t real = before->config().moe.n_experts, zero = real / 2;
  EXPECT_EQ(after->config().moe.zero_experts, zero);
  EXPECT_TRUE(after->config().model_type.ends_with("_plus_plus"));
  EXPECT_TRUE(is_injected(*after));
  EXPECT_FALSE(is_injected(*before));
  const auto config = nlohmann::json::parse(process::read_file(to + "/config.json"));
  EXPECT_EQ(config["zce_nums"], nlohmann::json({zero}));
  EXPECT_EQ(config["zce_types"], nlohmann::json({"zero"}));
  EXPECT_EQ(config["use_zce_mask"], true);
  ASSERT_EQ(before->checkpoint().tensors().size(), after->checkpoint().tensors().size());
  double sum = 0, squares = 0, count = 0;
  for (const TensorEntry* t : before->checkpoint().tensors()) {
    const TensorEntry* other = after->checkpoint().find(t->name);
    ASSERT_NE(other, nullptr) << t->name;
    EXPECT_EQ(std::memcmp(t->data, other->data, static_cast<size_t>(t->bytes)), 0) << t->name;
    const bool router = t->name.ends_with("mlp.gate.weight");
    if (!router && !t->name.ends_with("e_score_correction_bias")) {
      EXPECT_EQ(t->shape, other->shape) << t->name;
      continue;
    }
    EXPECT_EQ(other->shape[0], real + zero) << t->name;
    const int64_t cols = router ? t->shape[1] : 1;
    for (int64_t j = 0; j < cols && router; ++j) {
      double mean = 0, variance = 0;
      for (int64_t i = 0; i < real; ++i) mean += number(*t, i * cols + j) / static_cast<double>(real);
      for (int64_t i = 0; i < real; ++i)
        variance += std::pow(number(*t, i * cols + j) - mean, 2) / static_cast<double>(real - 1);
      for (int64_t i = real; i < real + zero; ++i, ++count) {
        const double z = (number(*other, i * cols + j) - mean) / std::sqrt(variance);
        sum += z, squares += z * z;
      }
    }
  }
  // The mean of n standard normal numbers and of their squares, within five standard errors.
  EXPECT_LT(std::abs(sum / count), 5 / std::sqrt(count));
  EXPECT_LT(std::abs(squares / count - 1), 5 * std::sqrt(2 / count));
}

INSTANTIATE_TEST_SUITE_P(Models, Inject,
                         testing::Values("models/pebble", "tests/golden/models/qwen3_moe_sharded",
                                         "tests/golden/models/glm4_moe_lite",
                                         "tests/golden/models/deepseek_v3_int4"));

TEST(Inject, RefusesWhatCannotHaveZeroExperts) {
  const auto says = [](const std::string& model) {
    const auto files = open_model("tests/golden/models/" + model);
    return check_injectable(*files, {}).message();
  };
  EXPECT_NE(says("qwen3_moe_zeda").find("zero experts a layer already"), std::string::npos);
  EXPECT_NE(says("deepseek_v2_lite").find("no layout for zero experts"), std::string::npos);
  EXPECT_NE(says("deepseek_v3_grouped").find("groups leave no place"), std::string::npos);
  InjectOptions many;
  many.zero_experts = int64_t{1} << 40;
  const auto pebble = open_model("models/pebble");
  EXPECT_NE(check_injectable(*pebble, many).message().find("out of range"), std::string::npos);
}

// ---- teacher and student ----

class OnPebble : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(scratch_.file("injected"));
    const auto pebble = open_model("models/pebble");
    ASSERT_TRUE(write_injected(*pebble, {}, scratch_.file("injected")).ok());
    student_ = open_model(scratch_.file("injected"));
    config_ = without_zero_experts(student_->config());
    weights_ = without_zero_experts(student_->config(), student_->weights());
  }

  EngineOptions options(const std::string& model) const {
    EngineOptions o;
    o.model = model, o.context = 160, o.sessions = 4, o.threads = 2, o.cache = CacheType::kF32;
    return o;
  }
  static std::vector<float> logits_of(Engine& engine, std::span<const int32_t> ids) {
    auto session = engine.new_session();
    std::vector<float> all;
    const Status status = (*session)->sync_all(ids, [&](int64_t, std::span<const float> logits) {
      all.insert(all.end(), logits.begin(), logits.end());
      return Status();
    });
    MOEBIUS_CHECK(status.ok(), status.message());
    return all;
  }

  const Scratch scratch_;
  std::unique_ptr<ModelFiles> student_;
  ModelConfig config_;
  Weights weights_;
};

TEST_F(OnPebble, TheTeacherIsTheModelAsItWas) {
  const std::vector<int32_t> ids{1, 40, 300, 7, 512, 99};
  const auto lent = Engine::open(options(scratch_.file("injected")), config_, weights_);
  const auto original = Engine::open(options("models/pebble"));
  const auto injected = Engine::open(options(scratch_.file("injected")));
  ASSERT_TRUE(lent.ok() && original.ok() && injected.ok());
  EXPECT_EQ(logits_of(**lent, ids), logits_of(**original, ids));
  EXPECT_NE(logits_of(**injected, ids), logits_of(**original, ids));
}

TEST_F(OnPebble, TokensWeighWhatTheTeacherThinksMoreOfThem) {
  const auto teacher = Engine::open(options(scratch_.file("injected")), config_, weights_);
  RoutingLog routing(student_->config());
  EngineOptions how = options(scratch_.file("injected"));
  how.routing = &routing;
  const auto student = Engine::open(how);
  ASSERT_TRUE(teacher.ok() && student.ok());
  const auto backend = make_host_backend({2});
  const RotaryTable rotary = rotary_table(config_.rotary);
  auto pass = TrainingPass::create({config_, weights_, rotary, *backend}, {256, 0});
  ASSERT_TRUE(pass.ok());
  const std::vector<std::vector<int32_t>> prompts{{1, 40, 300}, {1, 77, 500, 9, 13}, {1, 260}};
  OnPolicySteps steps(prompts, **student, routing, **pass, {2, 2, 24, 256, 1, 5});
  BatchPosition at;
  const auto micro = steps.next(at);
  ASSERT_TRUE(micro.ok()) << micro.status().message();
  int64_t tokens = 0;
  double divergence = 0, reported = 0;
  for (const MicroBatch& m : *micro) {
    reported += *m.reported;
    for (size_t s = 0; s + 1 < m.starts.size(); ++s) {
      const auto begin = static_cast<size_t>(m.starts[s]), end = static_cast<size_t>(m.starts[s + 1]);
      const std::span ids(m.ids.data() + begin, end - begin);
      const std::vector<float> by_teacher = logits_of(**teacher, ids), by_student = logits_of(**student, ids);
      const size_t vocab = static_cast<size_t>(config_.vocab);
      for (size_t t = 0; t < ids.size(); ++t) {
        const int32_t target = m.targets[begin + t];
        if (target < 0) {
          EXPECT_EQ(m.weights[begin + t], 0);
          continue;
        }
        const double p = log_probability({by_teacher.data() + t * vocab, vocab}, target).logprob;
        const double q = log_probability({by_student.data() + t * vocab, vocab}, target).logprob;
        EXPECT_NEAR(m.weights[begin + t], p - q, 2e-3) << t;
        divergence += q - p, ++tokens;
      }
    }
  }
  EXPECT_GT(tokens, 8);
  EXPECT_NEAR(reported, divergence, 2e-3 * static_cast<double>(tokens));
  EXPECT_GT(std::abs(divergence), 0.1) << "an injected model that is not adapted differs";
}

// What was chosen when the answers were sampled is chosen again, whatever has become of the router; and where
// nothing has, it is what would be chosen anyway, up to scores that are equal within rounding.
TEST_F(OnPebble, TheTrainingPassReplaysTheAnswersRouting) {
  RoutingLog routing(student_->config());
  EngineOptions how = options(scratch_.file("injected"));
  how.routing = &routing;
  const auto student = Engine::open(how);
  ASSERT_TRUE(student.ok());
  const auto backend = make_host_backend({2});
  const ModelConfig& config = student_->config();
  const RotaryTable rotary = rotary_table(config.rotary);
  auto teacher = TrainingPass::create({config_, weights_, rotary, *backend}, {256, 0});
  const std::vector<std::vector<int32_t>> prompts{{1, 40, 300}, {1, 40, 300, 9, 13}, {1, 260}};
  OnPolicySteps steps(prompts, **student, routing, **teacher, {3, 2, 24, 256, 1, 5});
  BatchPosition at;
  const auto micro = steps.next(at);
  ASSERT_TRUE(micro.ok()) << micro.status().message();

  Weights weights = student_->weights();
  const int64_t k = config.moe.top_k, layers = 5;
  // The share of slots of a pass that are not what was sampled.
  const auto differ = [&](bool replay) {
    auto pass = TrainingPass::create({config, weights, rotary, *backend}, {256, 0});
    int64_t slots = 0, other = 0;
    for (const MicroBatch& m : *micro) {
      EXPECT_EQ(std::ssize(m.routing), std::ssize(m.ids) * layers * k);
      const std::span<const int32_t> forced = replay ? m.routing : std::span<const int32_t>();
      EXPECT_TRUE((*pass)->evaluate({m.ids, m.targets, m.weights, m.starts, forced}).ok());
      for (int64_t l = 0; l < layers; ++l) {
        const Tensor& ids = (*pass)->expert_ids(1 + l);
        for (int64_t t = 0; t < std::ssize(m.ids); ++t) {
          std::multiset<int32_t> sampled, now;
          for (int64_t s = 0; s < k; ++s) {
            const int32_t row = m.routing[static_cast<size_t>((t * layers + l) * k + s)];
            sampled.insert(row < config.moe.n_experts ? row : -1);
            now.insert(ids.i32()[t * ids.stride[0] + s]);
          }
          slots += k, other += sampled == now ? 0 : k;
        }
      }
    }
    return static_cast<double>(other) / static_cast<double>(slots);
  };
  EXPECT_EQ(differ(true), 0);
  EXPECT_LT(differ(false), 0.02);
  std::vector<std::vector<float>> routers;
  for (LayerWeights& layer : weights.layers) {
    if (layer.experts.empty()) continue;
    Matrix& w = layer.router;
    std::vector<float>& values = routers.emplace_back(static_cast<size_t>(w.rows * w.cols));
    format_kernels(w.format).back().dequantize_rows(w, 0, w.rows, values.data(), w.cols);
    for (float& value : values) value = -value;
    const int64_t rows = w.rows, cols = w.cols;
    w = Matrix();
    w.rows = rows, w.cols = cols, w.data = values.data();
  }
  EXPECT_EQ(differ(true), 0);
  EXPECT_GT(differ(false), 0.9);
}

TEST_F(OnPebble, CountsWhatIsLeftOut) {
  Dataset data;
  const std::vector<int32_t> ids{1, 40, 300, 7, 512, 99, 4};
  const std::vector<uint8_t> mask{0, 0, 0, 1, 1, 1, 1};
  data.add(ids, mask);
  const auto tokenizer = Tokenizer::open("models/pebble");
  ASSERT_TRUE(tokenizer.ok());
  const auto all = count_slots(*open_model("models/pebble"), data, **tokenizer, {});
  const auto some = count_slots(*student_, data, **tokenizer, {});
  ASSERT_TRUE(all.ok() && some.ok());
  EXPECT_EQ(all->tokens, 6);
  EXPECT_EQ(all->all.slots, 6 * 5 * 4);
  EXPECT_EQ(all->all.skipped, 0);
  EXPECT_DOUBLE_EQ(all->expert_bytes, 5 * 4 * 3 * 64 * 192 * 2.0);
  EXPECT_GT(some->all.skipped, 0);
  EXPECT_DOUBLE_EQ(some->expert_bytes, all->expert_bytes * (1 - some->all.rate()));
  int64_t by_layer = 0, by_kind = 0;
  for (const SlotCount& c : some->layers) by_layer += c.skipped;
  for (const SlotCount& c : some->kinds) by_kind += c.skipped;
  EXPECT_EQ(by_layer, some->all.skipped);
  EXPECT_EQ(by_kind, some->all.skipped);
  EXPECT_EQ(some->kinds[static_cast<size_t>(TokenKind::kPrompt)].slots, 3 * 5 * 4);
}

}  // namespace
}  // namespace moebius
