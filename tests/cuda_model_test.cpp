// Whole models on a CUDA device, all of them there or with experts on the host too: the host's logits. On the
// emulated one; and, where there is one, on a GPU (ctest -L gpu), where host and device overlap.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>

#include <fmt/format.h>

#include "tests/device_models.h"

#include "kernels/gpu.h"
#ifdef MOEBIUS_EMULATE_CUDA
#include "tests/cuda_emulator/backend.h"
#endif

namespace moebius {
namespace {

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

// Sums in another order; where activations are rounded to int8, one of them may then fall on the other side:
// a step of 1/127 of the largest of its group.
double allowed_error(const std::string& model) {
  return model.find("int") != std::string::npos ? 1.0 / 127 : 1e-4;
}

std::string name_of(const testing::TestParamInfo<std::string>& model) { return model.param; }

#ifdef MOEBIUS_EMULATE_CUDA
class OnEmulator : public testing::TestWithParam<std::string> {};

TEST_P(OnEmulator, GivesTheHostsLogits) {
  using namespace cuda::emulator;
  const std::vector<float> want = logits_of(*open(options_on_cuda(GetParam())));
  EngineOptions options = options_on_cuda(GetParam());
  options.overlap = false;  // the emulator does all within the call, so that it cannot wait for the host
  for (const bool all : {true, false}) {
    if (!all) options.device_memory = budget(options, 0.5);
    const auto engine = Engine::open(options, [](int64_t) { return make_emulated_backend(1, Fit::kEnd); });
    ASSERT_TRUE(engine.ok()) << engine.status().message();
    EXPECT_LE(relative_error(logits_of(**engine), want), allowed_error(GetParam())) << (*engine)->describe();
  }
}
INSTANTIATE_TEST_SUITE_P(Models, OnEmulator, testing::ValuesIn(golden_models()), name_of);
#else
TEST(OnEmulator, Skipped) { GTEST_SKIP() << "skipped: the thread sanitizer does not know of fibers"; }
#endif

TEST(CudaLibrary, IsFoundBesideTheProgram) {
  if (!std::filesystem::exists(std::filesystem::read_symlink("/proc/self/exe").parent_path() /
                               "libmoebius_cuda.so"))
    GTEST_SKIP() << "skipped: built without CUDA";
  const auto gpus = gpu_devices();  // without a driver they are not, but for another reason
  EXPECT_TRUE(gpus.ok() || gpus.status().message().find("no CUDA backend") == std::string::npos)
      << gpus.status().message();
}

class OnGpu : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const auto gpus = gpu_devices();
    if (!gpus.ok() || gpus->empty())
      GTEST_SKIP() << "skipped: " << (gpus.ok() ? "the driver lists no GPU" : gpus.status().message());
  }
  static std::unique_ptr<Engine> open_there(const std::string& model, double experts, bool overlap) {
    EngineOptions options = options_on_cuda(model);
    if (experts < 1) options.device_memory = budget(options, experts) + kCudaWorkBytes;
    options.device = DeviceKind::kCuda, options.overlap = overlap;
    return open(options);
  }
};

TEST_P(OnGpu, GivesTheHostsLogits) {
  const std::vector<float> want = logits_of(*open(options_on_cuda(GetParam())));
  for (const double experts : {1.0, 0.5, 0.0}) {
    std::vector<float> first;
    for (const bool overlap : {true, false}) {
      const std::unique_ptr<Engine> engine = open_there(GetParam(), experts, overlap);
      const std::vector<float> got = logits_of(*engine);
      EXPECT_LE(relative_error(got, want), allowed_error(GetParam())) << engine->describe();
      if (overlap) first = got;
      EXPECT_EQ(got, first) << "with and without overlap; " << engine->describe();
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Models, OnGpu, testing::ValuesIn(golden_models()), name_of);

}  // namespace
}  // namespace moebius
