// Whole models against Hugging Face transformers: tests/golden/models/<name> holds a tiny checkpoint and the
// float64 logits that transformers computes from it (make_models_golden.py). Integer and FP8 forms are
// compared on unrounded activations with the float model of the dequantised weights.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>

#include "engine/engine.h"
#include "models/safetensors.h"

namespace moebius {
namespace {

const std::string kModels = "tests/golden/models/";

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kModels)) {
    if (std::filesystem::exists(entry.path() / "golden.safetensors"))
      names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

struct Golden {
  std::vector<int32_t> ids;
  std::vector<float> logits;  // [n, vocab]
};

Golden load_golden(const std::string& name) {
  Golden golden;
  auto file = SafetensorsFile::open(kModels + name + "/golden.safetensors");
  EXPECT_TRUE(file.ok()) << file.status().message();
  for (const TensorEntry& t : (*file)->tensors()) {
    if (t.name == "input_ids") {
      golden.ids.resize(static_cast<size_t>(t.bytes) / sizeof(int32_t));
      std::memcpy(golden.ids.data(), t.data, static_cast<size_t>(t.bytes));
    } else if (t.name == "logits") {
      golden.logits.resize(static_cast<size_t>(t.bytes) / sizeof(float));
      std::memcpy(golden.logits.data(), t.data, static_cast<size_t>(t.bytes));
    }
  }
  return golden;
}

std::unique_ptr<Engine> open_engine(const std::string& name, int64_t chunk, bool exact,
                                    CacheType cache = CacheType::kF32, int threads = 2) {
  EngineOptions options;
  options.model = kModels + name;
  options.prefill_chunk = chunk;
  options.exact_activations = exact;
  options.cache = cache;
  options.threads = threads;
  auto engine = Engine::open(options);
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return engine.ok() ? std::move(*engine) : nullptr;
}

std::vector<float> all_logits(Engine& engine, std::span<const int32_t> ids) {
  auto session = engine.new_session();
  EXPECT_TRUE(session.ok()) << session.status().message();
  std::vector<float> logits;
  const Status status = (*session)->sync_all(ids, [&](int64_t, std::span<const float> rows) {
    logits.insert(logits.end(), rows.begin(), rows.end());
    return Status();
  });
  EXPECT_TRUE(status.ok()) << status.message();
  return logits;
}

std::vector<float> one_by_one(Engine& engine, std::span<const int32_t> ids) {
  auto session = engine.new_session();
  std::vector<float> logits;
  for (int32_t id : ids) {
    const Status status = (*session)->append(id);
    EXPECT_TRUE(status.ok()) << status.message();
    logits.insert(logits.end(), (*session)->logits().begin(), (*session)->logits().end());
  }
  return logits;
}

// Largest difference over the largest magnitude.
double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0, largest = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    worst = std::isfinite(difference) ? std::max(worst, difference) : INFINITY;
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
  }
  return worst / largest;
}

// float32 arithmetic on weights that the oracle uses unrounded, a float32 cache: the bound for every
// form.
constexpr double kFloat32Bound = 1e-4;

class GoldenModel : public testing::TestWithParam<std::string> {};

TEST_P(GoldenModel, AgreesWithTransformers) {
  const Golden golden = load_golden(GetParam());
  const auto engine = open_engine(GetParam(), 512, true);
  ASSERT_TRUE(engine);
  const double error = relative_error(all_logits(*engine, golden.ids), golden.logits);
  RecordProperty("relative_error", fmt::format("{:.2e}", error));
  EXPECT_LE(error, kFloat32Bound);
}

TEST_P(GoldenModel, TokenByTokenAndChunkedAgree) {
  const Golden golden = load_golden(GetParam());
  for (const int64_t chunk : {5, 23}) {  // absorbed MLA and expanded MLA
    const auto engine = open_engine(GetParam(), chunk, true);
    ASSERT_TRUE(engine);
    EXPECT_LE(relative_error(all_logits(*engine, golden.ids), golden.logits), kFloat32Bound)
        << "chunk " << chunk;
  }
  const auto engine = open_engine(GetParam(), 512, true);
  ASSERT_TRUE(engine);
  EXPECT_LE(relative_error(one_by_one(*engine, golden.ids), golden.logits), kFloat32Bound);
}

TEST_P(GoldenModel, ThreadsDoNotChangeABit) {
  const Golden golden = load_golden(GetParam());
  const auto one = open_engine(GetParam(), 512, false, CacheType::kAuto, 1);
  const auto three = open_engine(GetParam(), 512, false, CacheType::kAuto, 3);
  ASSERT_TRUE(one && three);
  EXPECT_EQ(all_logits(*one, golden.ids), all_logits(*three, golden.ids));
  EXPECT_EQ(one_by_one(*one, golden.ids), one_by_one(*three, golden.ids));
}

// The session and one that was restored from it after 20 tokens go on bit by bit alike.
void save_and_restore(Engine& engine, const Golden& golden, const std::string& name) {
  auto session = engine.new_session();
  auto restored = engine.new_session();
  const std::span<const int32_t> ids(golden.ids);
  const std::string path = testing::TempDir() + "/moebius_session_" + name;
  ASSERT_TRUE((*session)->sync(ids.first(20)).ok());
  ASSERT_TRUE((*session)->save(path).ok());
  const Status status = (*restored)->restore(path);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(std::ranges::equal((*session)->logits(), (*restored)->logits()));
  for (int32_t id : ids.subspan(20)) {
    ASSERT_TRUE((*session)->append(id).ok() && (*restored)->append(id).ok());
    ASSERT_TRUE(std::ranges::equal((*session)->logits(), (*restored)->logits()));
  }
  std::filesystem::remove(path);
}

TEST_P(GoldenModel, SaveAndRestoreAreExact) {
  const auto engine = open_engine(GetParam(), 512, false, CacheType::kAuto);
  ASSERT_TRUE(engine);
  save_and_restore(*engine, load_golden(GetParam()), GetParam());
}

// How little is lost, pebble_test says: random weights route by differences that any rounding may turn over.
TEST_P(GoldenModel, AnInt8CacheKeepsThePromisesOfTheOthers) {
  EngineOptions options;
  options.model = kModels + GetParam();
  options.cache = CacheType::kInt8;
  options.threads = 1;
  const auto one = Engine::open(options);
  options.threads = 3;
  const auto three = Engine::open(options);
  if (!one.ok()) {  // its groups of 32 would lie across keys and values
    EXPECT_NE(one.status().message().find("--cache-type int8 needs a multiple of 32"), std::string::npos)
        << one.status().message();
    return;
  }
  const Golden golden = load_golden(GetParam());
  const std::vector<float> logits = all_logits(**one, golden.ids);
  EXPECT_EQ(logits, all_logits(**three, golden.ids));
  EXPECT_EQ(one_by_one(**one, golden.ids), one_by_one(**three, golden.ids));
  const double error = relative_error(logits, golden.logits);
  EXPECT_GT(error, 0);
  RecordProperty("relative_error", fmt::format("{:.2e}", error));
  save_and_restore(**three, golden, GetParam() + "_int8");
}

TEST_P(GoldenModel, PrefixIsReused) {
  const Golden golden = load_golden(GetParam());
  const auto engine = open_engine(GetParam(), 512, true);
  ASSERT_TRUE(engine);
  auto session = engine->new_session();
  std::vector<int32_t> other = golden.ids;
  other[30] = (other[30] + 1) % static_cast<int32_t>(engine->config().vocab);
  ASSERT_TRUE((*session)->sync(other).ok());
  ASSERT_TRUE((*session)->sync(golden.ids).ok());
  EXPECT_EQ((*session)->reused(), 30);
  const std::vector<float> last(golden.logits.end() - engine->config().vocab, golden.logits.end());
  const std::vector<float> ours((*session)->logits().begin(), (*session)->logits().end());
  EXPECT_LE(relative_error(ours, last), kFloat32Bound);
  ASSERT_TRUE((*session)->sync(std::span(golden.ids).first(10)).ok());
  EXPECT_EQ((*session)->reused(), 9);
}

INSTANTIATE_TEST_SUITE_P(All, GoldenModel, testing::ValuesIn(model_names()),
                         [](const auto& param_info) { return param_info.param; });

}  // namespace
}  // namespace moebius
