// Faults of the simulated device and of the host's experts: a request says what failed, nothing hangs, and
// the same engine then answers as ever.
#include <gtest/gtest.h>

#include "tests/device_models.h"

namespace moebius {
namespace {

TEST(DeviceFaults, AnyPieceOfWorkMayFail) {
  const std::string model = "deepseek_v3_int4";
  EngineOptions options = options_for(model);
  options.prefill_chunk = 10;
  const std::vector<float> want = prompt_logits(*open(options));
  options.device = DeviceKind::kSim;
  options.speeds = speeds(1, 1);
  options.device_memory = budget(options, 0);
  int faults = 0;
  for (uint64_t piece = 1, step = 1; step != 0; piece += step) {
    options.sim_fail_work = piece, options.overlap = piece % 4 != 0, options.sim_seed = piece % 3;
    auto engine = Engine::open(options);
    if (!engine.ok()) {
      EXPECT_EQ(engine.status().code(), Code::kIo) << engine.status().message();
      continue;
    }
    const Status failed = try_prompt(**engine);
    if (failed.ok()) break;  // it came to the end before that piece
    ++faults, step = 11;
    EXPECT_EQ(failed.code(), Code::kIo) << failed.message();
    EXPECT_EQ(prompt_logits(**engine), want) << "after a fault in piece " << piece;
  }
  EXPECT_GT(faults, 20);
}

TEST(DeviceFaults, AnyAllocationMayFail) {
  EngineOptions options = options_for("deepseek_v3_tiny");
  options.device = DeviceKind::kSim;
  options.device_memory = budget(options, 0.5);
  options.speeds = speeds(1, 1);  // measuring them makes do with less memory
  int refused = 0;
  for (bool fails = true; fails;) {
    options.sim_fail_alloc = static_cast<uint64_t>(++refused);
    const auto engine = Engine::open(options);
    const Status status = engine.ok() ? (*engine)->new_session().status() : engine.status();
    fails = !status.ok();
    if (fails) {
      EXPECT_EQ(status.code(), Code::kNoMemory) << status.message();
    }
  }
  EXPECT_GT(refused, 5);
}

// The same for what the host computes.
TEST(DeviceFaults, AnyRequestForTheHostsExpertsMayFail) {
  const std::string model = "deepseek_v3_int4";
  EngineOptions options = options_for(model);
  options.prefill_chunk = 10;
  const std::vector<float> want = prompt_logits(*open(options));
  options.device = DeviceKind::kSim;
  options.speeds = speeds(1, 1);
  options.device_memory = least_budget(options);
  int faults = 0;
  for (uint64_t request = 1;; ++request) {
    options.host_fail = request, options.overlap = request % 4 != 0, options.sim_seed = request % 3;
    const auto engine = open(options);
    const Status failed = try_prompt(*engine);
    if (failed.ok()) break;  // it came to the end before that request
    ++faults;
    EXPECT_EQ(failed.code(), Code::kNoMemory) << failed.message();
    EXPECT_EQ(prompt_logits(*engine), want) << "after a fault in request " << request;
  }
  EXPECT_EQ(faults, 9) << "1 for the first part, 6 for the rest of the prompt, 2 for tokens";
}

}  // namespace
}  // namespace moebius
