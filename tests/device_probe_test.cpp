// The limits that a probe finds of a simulated device are those that it was given.
#include "kernels/device_probe.h"

#include <gtest/gtest.h>

namespace moebius {
namespace {

Result<DeviceLimits> probed(const SimOptions& options, int64_t bytes) {
  auto device = make_sim_backend(options);
  MOEBIUS_CHECK(device.ok(), device.status().message());
  return probe_device(**device, bytes, 0.02);
}

// Never faster, but for what a late sleep is made up for; slower by what else the machine does.
void expect_near(double got, double given) {
  EXPECT_LT(got, 1.2 * given);
  EXPECT_GT(got, given / 4);
}

TEST(DeviceProbe, FindsTheLimitsOfASimulatedDevice) {
  SimOptions options{.memory_bytes = 16 << 20, .link_GBs = 0.1, .device_GBs = 0.2, .host = {.threads = 1}};
  const auto limits = probed(options, 6 << 20);
  ASSERT_TRUE(limits.ok()) << limits.status().message();
  expect_near(limits->to_device_GBs, 0.1);
  expect_near(limits->to_host_GBs, 0.1);
  expect_near(limits->memory_GBs, 0.2);
}

TEST(DeviceProbe, TakesWhatMemoryThereIs) {
  const SimOptions options{.memory_bytes = 5 << 20, .host = {.threads = 1}};
  const auto limits = probed(options, int64_t{1} << 40);
  ASSERT_TRUE(limits.ok()) << limits.status().message();
  EXPECT_GT(limits->memory_GBs, 0);
  EXPECT_EQ(probed({.memory_bytes = 1 << 16, .host = {.threads = 1}}, 1 << 22).status().code(),
            Code::kNoMemory);
}

TEST(DeviceProbe, TellsOfAFailure) {
  EXPECT_EQ(
      probed({.memory_bytes = 4 << 20, .fail_work = 2, .host = {.threads = 1}}, 1 << 20).status().code(),
      Code::kIo);
}

}  // namespace
}  // namespace moebius
