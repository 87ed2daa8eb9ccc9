// Gradients of adapters on whole models by the CUDA kernels, all experts there or some on the host or in the
// ring: PyTorch's; of integer formats, whose activations these kernels round, those of a host that does so
// too. On the emulated device; and, where there is one, on a GPU (ctest -L gpu).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "kernels/gpu.h"
#include "tests/device_training.h"
#ifdef MOEBIUS_EMULATE_CUDA
#include "tests/cuda_emulator/backend.h"
#endif

namespace moebius::test {
namespace {

// Everything there, and each way that an expert can go. Without overlap: the emulator does all within the
// call, so that it cannot wait for the host.
constexpr Sharing kWays[] = {{"all_there", 2, 1, 1, false, true, false},
                             {"cpu", 0.4, 1e-6, 1e3, true, false, false},
                             {"streamed", 0.4, 1e3, 1e-6, true, true, false}};

// Sums in another order may bring an activation to the other side of its rounding: a step of 1/127 of the
// largest of its group, in a few of a gradient's many terms.
constexpr double kRounding = 1.0 / 127;

// Largest distance of a gradient from the other's, relative to its norm.
double apart(const Trainee& a, const Trainee& b) {
  double worst = 0;
  for (const auto& [name, mine] : a.found) {
    const Tensor& other = b.found.at(name);
    double distance = 0, norm = 0;
    for (int64_t i = 0; i < mine.numel(); ++i) {
      const double x = mine.f32()[i], y = other.f32()[i];
      distance += (x - y) * (x - y), norm += y * y;
    }
    if (norm > 0 || !(distance == 0)) worst = std::max(worst, std::sqrt(distance / norm));
  }
  return worst;
}

void expect_gradients(const std::string& model, const std::function<std::unique_ptr<Backend>()>& device) {
  const GradientGolden golden(model);
  const bool integer = model.find("_int") != std::string::npos;
  Trainee on_host(model);
  on_host.adapt(golden);
  const double rounded = on_host.train(*make_host_backend({2}), golden.batch());
  const double want = integer ? rounded : golden.numbers<double>("lora.loss")[0];
  for (const Sharing& way : kWays) {
    SCOPED_TRACE(way.name);
    Trainee trainee(model);
    trainee.adapt(golden);
    HostOptions host;
    host.threads = 2, host.exact_activations = !integer;
    EXPECT_NEAR(train_there(trainee, golden, way, host, device()), want, 1e-5 * want);
    if (integer) {
      EXPECT_LE(apart(trainee, on_host), kRounding);
      continue;
    }
    const Difference difference = compare(golden, "lora", trainee.found);
    EXPECT_LE(difference.worst, 1) << difference.where;
  }
}

std::string name_of(const testing::TestParamInfo<std::string>& model) { return model.param; }

#ifdef MOEBIUS_EMULATE_CUDA
class OnEmulator : public testing::TestWithParam<std::string> {};
TEST_P(OnEmulator, GivesPyTorchsGradients) {
  using namespace cuda::emulator;
  expect_gradients(GetParam(), [] { return make_emulated_backend(1, Fit::kEnd); });
}
// Of each kind of attention, router, width and stored form one: the emulator takes its time.
INSTANTIATE_TEST_SUITE_P(Models, OnEmulator,
                         testing::Values("deepseek_v3_int4", "deepseek_v3_fp8", "deepseek_v3_ragged",
                                         "deepseek_v2_grouped", "glm4_moe_qk_norm"),
                         name_of);
#else
TEST(OnEmulator, Skipped) { GTEST_SKIP() << "skipped: the thread sanitizer does not know of fibers"; }
#endif

class OnGpu : public testing::TestWithParam<std::string> {};
TEST_P(OnGpu, GivesPyTorchsGradients) {
  const auto gpus = gpu_devices();
  if (!gpus.ok() || gpus->empty())
    GTEST_SKIP() << "skipped: " << (gpus.ok() ? "the driver lists no GPU" : gpus.status().message());
  expect_gradients(GetParam(), [] { return std::move(*make_cuda_backend({0, int64_t{1} << 30})); });
}
INSTANTIATE_TEST_SUITE_P(Models, OnGpu, testing::ValuesIn(gradient_models("lora")), name_of);

}  // namespace
}  // namespace moebius::test
