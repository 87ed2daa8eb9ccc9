// Whole models on an emulated CUDA device, all of them there or with experts on the host too: the host's
// logits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>

#include <fmt/format.h>

#include "tests/device_models.h"

#ifdef MOEBIUS_EMULATE_CUDA
#include "tests/cuda_emulator/backend.h"

namespace moebius {
namespace {

using cuda::emulator::Fit;
using cuda::emulator::make_emulated_backend;

EngineOptions options_on_cuda(const std::string& model) {
  EngineOptions options = options_for(model);
  options.prefill_chunk = 24, options.cache = CacheType::kF32;
  return options;
}

// The logits of a prompt, long enough for expanded MLA, and of two decoded tokens.
std::vector<float> logits_of(Engine& engine) {
  std::mt19937 random(3);
  std::vector<int32_t> ids(26);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint32_t>(engine.config().vocab));
  auto session = engine.new_session();
  MOEBIUS_CHECK(session.ok(), session.status().message());
  std::vector<float> all;
  const Status status = (*session)->sync_all(ids, [&](int64_t, std::span<const float> rows) {
    all.insert(all.end(), rows.begin(), rows.end());
    return Status();
  });
  MOEBIUS_CHECK(status.ok(), status.message());
  for (const int32_t id : {5, 7}) {
    MOEBIUS_CHECK((*session)->append(id).ok());
    all.insert(all.end(), (*session)->logits().begin(), (*session)->logits().end());
  }
  return all;
}

// Largest difference over the largest magnitude.
double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double worst = got.size() == want.size() ? 0 : INFINITY, largest = 0;
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
    const double difference = std::fabs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    worst = std::isfinite(difference) ? std::max(worst, difference) : INFINITY;
    largest = std::max(largest, std::fabs(static_cast<double>(want[i])));
  }
  return worst / largest;
}

class OnCuda : public testing::TestWithParam<std::string> {};

TEST_P(OnCuda, GivesTheHostsLogits) {
  const std::vector<float> want = logits_of(*open(options_on_cuda(GetParam())));
  EngineOptions options = options_on_cuda(GetParam());
  options.overlap = false;  // the emulator does all within the call, so that it cannot wait for the host
  for (const bool all : {true, false}) {
    if (!all) options.device_memory = budget(options, 0.5);
    const auto engine = Engine::open(options, [](int64_t) { return make_emulated_backend(1, Fit::kEnd); });
    ASSERT_TRUE(engine.ok()) << engine.status().message();
    const double error = relative_error(logits_of(**engine), want);
    // Sums in another order; where activations are rounded to int8, one of them may then fall on the other
    // side: a step of 1/127 of the largest of its group.
    const bool rounded = GetParam().find("int") != std::string::npos;
    EXPECT_LE(error, rounded ? 1.0 / 127 : 1e-4) << (*engine)->describe();
  }
}

std::string name_of(const testing::TestParamInfo<std::string>& model) { return model.param; }
INSTANTIATE_TEST_SUITE_P(Models, OnCuda, testing::ValuesIn(golden_models()), name_of);

}  // namespace
}  // namespace moebius
#else
TEST(OnCuda, NeedsTheEmulator) { GTEST_SKIP() << "skipped: the thread sanitizer does not know of fibers"; }
#endif
