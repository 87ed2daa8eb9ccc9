// Running a model with an adapter: against the logits that peft computes, and against merged weights.
#include <fmt/format.h>

#include "engine/adapted_weights.h"
#include "engine/forward.h"
#include "tests/adapter_cases.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

using adapters::all_logits;
using adapters::Golden;
using adapters::kAdapters;
using adapters::kFloat32Bound;
using adapters::kModels;
using adapters::open_engine;
using adapters::random_factors;
using adapters::relative_error;
using process::Scratch;

class GoldenAdapter : public testing::TestWithParam<std::string> {
 protected:
  std::string dir() const { return kAdapters + GetParam(); }
  std::string model() const { return adapters::model_of(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(All, GoldenAdapter, testing::ValuesIn(adapters::golden_names()),
                         [](const auto& at) { return at.param; });

TEST_P(GoldenAdapter, GivesPeftsLogits) {
  const Golden golden = adapters::read_golden(dir());
  const auto engine = open_engine(model(), dir());
  ASSERT_TRUE(engine);
  const double error = relative_error(all_logits(*engine, golden.ids), golden.logits);
  RecordProperty("relative_error", fmt::format("{:.2e}", error));
  EXPECT_LE(error, kFloat32Bound);
  // The adapter is no small matter: without it the bound is far away.
  const auto base = open_engine(model(), "");
  ASSERT_TRUE(base);
  EXPECT_GE(relative_error(all_logits(*base, golden.ids), golden.logits), 100 * kFloat32Bound);
}

// Short chunks take absorbed MLA, longer ones the expanded form, and few tokens the kernels for few tokens.
TEST_P(GoldenAdapter, GivesThemInChunksOfAnySize) {
  const Golden golden = adapters::read_golden(dir());
  for (const int64_t chunk : {1, 2, 3, 4, 5, 11, 23}) {
    const auto engine = open_engine(model(), dir(), chunk);
    ASSERT_TRUE(engine);
    EXPECT_LE(relative_error(all_logits(*engine, golden.ids), golden.logits), kFloat32Bound)
        << "chunks of " << chunk;
  }
}

// Three timelines at different positions, decoded together one token each.
TEST_P(GoldenAdapter, GivesThemInABatchOfSequences) {
  const Golden golden = adapters::read_golden(dir());
  auto files = ModelFiles::open(model());
  ASSERT_TRUE(files.ok()) << files.status().message();
  const ModelConfig& config = (*files)->config();
  auto adapter = read_adapter(dir(), config);
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  auto adapted =
      AdaptedWeights::create(config, (*files)->weights(), std::move(adapter->factors), /*gradients=*/false);
  ASSERT_TRUE(adapted.ok()) << adapted.status().message();
  const auto backend = make_host_backend({.threads = 2, .exact_activations = true});
  const RotaryTable rotary = rotary_table(config.rotary);
  const Model adapted_model{config, (*adapted)->weights(), rotary, *backend};
  auto cache = KvCache::create(config, DType::kF32, 512, *backend);
  auto memory = WorkspaceMemory::create(config, 64, *backend);
  ASSERT_TRUE(cache.ok() && memory.ok());

  const std::span<const int32_t> ids(golden.ids);
  const int64_t n = std::ssize(golden.ids), vocab = config.vocab;
  PageTable tables[3];
  int64_t at[3] = {3, 9, 20};
  for (int s = 0; s < 3; ++s) {
    ASSERT_TRUE(cache->reserve(tables[s], 0, n).ok());
    const Segment prompt{&tables[s], 0, at[s], 0};
    forward(adapted_model, {ids.first(static_cast<size_t>(at[s])), {&prompt, 1}}, *cache,
            memory->view(at[s]));
  }
  const auto expect_row = [&](const Workspace& ws, int64_t row, int64_t position) {
    const Tensor logits = *head_forward(adapted_model, ws, row, 1);
    const std::span<const float> expected(golden.logits.data() + position * vocab,
                                          static_cast<size_t>(vocab));
    EXPECT_LE(relative_error({logits.f32(), static_cast<size_t>(vocab)}, expected), 2 * kFloat32Bound)
        << "row " << row << " at " << position;
  };
  while (at[2] < n) {
    int32_t batch_ids[3];
    Segment segments[3];
    for (int s = 0; s < 3; ++s) {
      batch_ids[s] = golden.ids[static_cast<size_t>(at[s])];
      segments[s] = {&tables[s], s, 1, at[s]};
    }
    const Workspace ws = memory->view(3);
    forward(adapted_model, {batch_ids, segments}, *cache, ws);
    for (int s = 0; s < 3; ++s) expect_row(ws, s, at[s]++);
  }
}

// A float32 model that holds base + scale B A, added in float64 and rounded once.
class MergedInFloat {
 public:
  MergedInFloat(const ModelConfig& config, const Weights& base, std::span<const AdapterFactors> factors)
      : weights_(base) {
    WeightVisitor visitor;
    visitor.matrix = [&](const std::string& name, Role, int64_t rows, int64_t cols, Matrix& w) {
      std::vector<float>& numbers = numbers_.emplace_back(static_cast<size_t>(rows * cols));
      format_kernels(w.format).back().dequantize_rows(w, 0, rows, numbers.data(), cols);
      for (const AdapterFactors& f : factors) {
        if (f.module != name) continue;
        for (int64_t i = 0; i < rows * cols; ++i)
          numbers[static_cast<size_t>(i)] =
              static_cast<float>(numbers[static_cast<size_t>(i)] + adapters::delta_at(f, i / cols, i % cols));
      }
      w = Matrix();
      w.rows = rows, w.cols = cols, w.data = numbers.data();
      return Status();
    };
    visitor.vector = [](const std::string&, int64_t, Tensor&) { return Status(); };
    EXPECT_TRUE(visit_weights(config, weights_, visitor).ok());
  }
  const Weights& weights() const { return weights_; }

 private:
  Weights weights_;
  std::deque<std::vector<float>> numbers_;
};

std::vector<float> logits_of(const ModelConfig& config, const Weights& weights,
                             std::span<const int32_t> ids) {
  const auto backend = make_host_backend({.threads = 2, .exact_activations = true});
  const RotaryTable rotary = rotary_table(config.rotary);
  const Model model{config, weights, rotary, *backend};
  const int64_t n = std::ssize(ids);
  auto cache = KvCache::create(config, DType::kF32, n, *backend);
  auto memory = WorkspaceMemory::create(config, n, *backend);
  EXPECT_TRUE(cache.ok() && memory.ok());
  PageTable table;
  EXPECT_TRUE(cache->reserve(table, 0, n).ok());
  const Segment segment{&table, 0, n, 0};
  const Workspace ws = memory->view(n);
  forward(model, {ids, {&segment, 1}}, *cache, ws);
  std::vector<float> logits;
  for (int64_t i = 0; i < n; ++i) {
    const Tensor row = *head_forward(model, ws, i, 1);
    logits.insert(logits.end(), row.f32(), row.f32() + row.numel());
  }
  return logits;
}

class QuantizedBase : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, QuantizedBase,
                         testing::Values("deepseek_v3_int4", "deepseek_v3_int8", "qwen3_moe_int4",
                                         "qwen3_moe_int8", "glm4_moe_lite_int4_g64", "deepseek_v3_fp8",
                                         "glm4_moe_fp8"),
                         [](const auto& at) { return std::string(at.param); });

TEST_P(QuantizedBase, WithAnAdapterGivesTheLogitsOfMergedFloats) {
  const std::string dir = kModels + GetParam();
  auto files = ModelFiles::open(dir);
  ASSERT_TRUE(files.ok()) << files.status().message();
  const ModelConfig& config = (*files)->config();
  const auto factors = random_factors(
      config, [](const ModelMatrix&) { return true; }, 0.2f);
  const Scratch scratch;
  const std::string adapter = scratch.file("adapter");
  const Status written = write_adapter(adapter, config, factors, {AdapterLayout::kPerExpert, "", "", "", ""});
  ASSERT_TRUE(written.ok()) << written.message();

  const std::vector<int32_t> ids = adapters::read_golden(dir).ids;
  const MergedInFloat merged(config, (*files)->weights(), factors);
  const std::vector<float> expected = logits_of(config, merged.weights(), ids);
  const MergedInFloat plain(config, (*files)->weights(), {});
  EXPECT_GE(relative_error(logits_of(config, plain.weights(), ids), expected), 100 * kFloat32Bound);
  for (const int64_t chunk : {1, 3, 512}) {
    const auto engine = open_engine(dir, adapter, chunk);
    ASSERT_TRUE(engine);
    EXPECT_LE(relative_error(all_logits(*engine, ids), expected), kFloat32Bound) << "chunks of " << chunk;
  }
}

// One error of one line that says which adapter, and that it is for another model.
void expect_refused(const std::string& model, const std::string& adapter, const std::string& says) {
  EngineOptions options;
  options.model = model;
  options.adapter = adapter;
  const auto engine = Engine::open(options);
  ASSERT_FALSE(engine.ok()) << model << " took " << adapter;
  const std::string& message = engine.status().message();
  EXPECT_NE(message.find(says), std::string::npos) << message;
  EXPECT_NE(message.find(adapter), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

TEST(Adapter, OfAnotherModelIsRefused) {
  expect_refused(kModels + "qwen3_moe", kAdapters + "deepseek_v3_all", "the adapter is for another model");
  expect_refused(kModels + "deepseek_v3_tiny", kAdapters + "qwen3_converted",
                 "the adapter is for another model");
  // The same architecture in another size.
  expect_refused(kModels + "deepseek_v3_bf16", kAdapters + "deepseek_v3_all",
                 "the adapter is for another model");
  expect_refused(kModels + "deepseek_v3_tiny", kAdapters + "none", "adapter_config.json");
}

TEST(Adapter, TwoEnginesWithDifferentOnesDoNotMeet) {
  const std::string model = kModels + "deepseek_v2_lite";
  const auto one = open_engine(model, kAdapters + "deepseek_v2_patterns");
  const auto two = open_engine(model, kAdapters + "per_expert");
  const auto none = open_engine(model, "");
  ASSERT_TRUE(one && two && none);
  const Golden first = adapters::read_golden(kAdapters + "deepseek_v2_patterns");
  const Golden second = adapters::read_golden(kAdapters + "per_expert");
  const Golden base = adapters::read_golden(model);
  auto a = one->new_session(), b = two->new_session(), c = none->new_session();
  ASSERT_TRUE(a.ok() && b.ok() && c.ok());
  const size_t vocab = static_cast<size_t>(one->config().vocab);
  const size_t n = std::min({first.ids.size(), second.ids.size(), base.ids.size()});
  for (size_t i = 0; i < n; ++i) {
    ASSERT_TRUE((*a)->append(first.ids[i]).ok());
    ASSERT_TRUE((*b)->append(second.ids[i]).ok());
    ASSERT_TRUE((*c)->append(base.ids[i]).ok());
    const auto row = [&](const Golden& g) { return std::span(g.logits).subspan(i * vocab, vocab); };
    ASSERT_LE(relative_error((*a)->logits(), row(first)), 2 * kFloat32Bound) << i;
    ASSERT_LE(relative_error((*b)->logits(), row(second)), 2 * kFloat32Bound) << i;
    ASSERT_LE(relative_error((*c)->logits(), row(base)), 2 * kFloat32Bound) << i;
  }
}

// What a session remembers depends on every part of an adapter: its numbers, its scale, its places.
TEST(Adapter, SavedSessionsAreOfOneAdapter) {
  const std::string model = kModels + "deepseek_v3_tiny";
  auto config = ModelConfig::load(model);
  ASSERT_TRUE(config.ok());
  const auto of_layer = [&](int layer, uint32_t seed, float scale) {
    const std::string name = fmt::format("model.layers.{}.self_attn.o_proj", layer);
    auto factors = random_factors(
        *config, [&](const ModelMatrix& m) { return m.name == name; }, 0.2f, seed);
    for (AdapterFactors& f : factors) f.scale = scale;
    return factors;
  };
  const Scratch scratch;
  const auto write = [&](const std::string& name, const std::vector<AdapterFactors>& factors) {
    const Status status = write_adapter(scratch.file(name), *config, factors, {});
    EXPECT_TRUE(status.ok()) << status.message();
    return scratch.file(name);
  };
  const std::string mine = write("mine", of_layer(1, 1, 0.5f));
  const auto engine = open_engine(model, mine);
  ASSERT_TRUE(engine);
  auto session = engine->new_session();
  ASSERT_TRUE((*session)->sync(std::vector<int32_t>{5, 6, 7}).ok());
  const std::string saved = scratch.file("session");
  ASSERT_TRUE((*session)->save(saved).ok());

  const std::vector<std::pair<std::string, std::string>> others = {
      {"no adapter", ""},
      {"other numbers", write("numbers", of_layer(1, 2, 0.5f))},
      {"another scale", write("scale", of_layer(1, 1, 0.75f))},
      {"another place", write("place", of_layer(0, 1, 0.5f))}};
  for (const auto& [what, adapter] : others) {
    const auto other = open_engine(model, adapter);
    ASSERT_TRUE(other);
    auto restored = other->new_session();
    const Status status = (*restored)->restore(saved);
    EXPECT_EQ(status.code(), Code::kInvalid) << what;
    EXPECT_NE(status.message().find("adapter"), std::string::npos) << status.message();
  }
  const auto again = open_engine(model, mine);
  ASSERT_TRUE(again);
  auto restored = again->new_session();
  const Status status = (*restored)->restore(saved);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(std::ranges::equal((*session)->logits(), (*restored)->logits()));
}

}  // namespace
}  // namespace moebius
