// Memory that no file gives back is counted before an engine opens: what does not fit is refused with numbers
// that fit.
#include <gtest/gtest.h>

#include "engine/host_memory.h"
#include "engine/kv_cache.h"
#include "tests/device_models.h"

namespace moebius {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// A cache of 1 MiB a page beside 10 MiB.
HostMemory needs_of(int64_t context, int64_t sessions, int64_t cache_tokens = 0) {
  HostMemory needs;
  needs.others = 10 * kMiB;
  needs.context = context, needs.sessions = sessions;
  needs.cache_tokens = cache_tokens > 0 ? cache_tokens : context * sessions;
  needs.cache = pages_of(needs.cache_tokens) * kMiB;
  return needs;
}

std::string refusal(const HostMemory& needs, int64_t usable) {
  const Status status = check_host_memory(needs, usable * 16 / 15);  // a sixteenth is the system's
  EXPECT_TRUE(status.ok() || status.code() == Code::kNoMemory);
  return status.message();
}

bool ends_with(const std::string& text, const std::string& end) { return text.ends_with(end); }

TEST(HostMemory, SaysWhatWouldFit) {
  EXPECT_EQ(refusal(needs_of(640, 3), 40 * kMiB), "");
  EXPECT_PRED2(ends_with, refusal(needs_of(640, 3), 39 * kMiB),
               "; lower --ctx-size to 576, or --parallel to 2");
  EXPECT_PRED2(ends_with, refusal(needs_of(640, 3), 12 * kMiB),
               "; lower --parallel, --ctx-size or --prefill-chunk");
  EXPECT_PRED2(ends_with, refusal(needs_of(640, 3), 13 * kMiB), "; lower --ctx-size to 64");
  EXPECT_PRED2(ends_with, refusal(needs_of(64, 30), 15 * kMiB), "; lower --parallel to 5");
  EXPECT_PRED2(ends_with, refusal(needs_of(640, 1), 15 * kMiB), "; lower --ctx-size to 320");
  EXPECT_PRED2(ends_with, refusal(needs_of(640, 3, 1000), 15 * kMiB), "; lower --cache-tokens to 320");
  EXPECT_PRED2(ends_with, refusal(needs_of(640, 1), 5 * kMiB), "; lower --ctx-size or --prefill-chunk");
  HostMemory eager = needs_of(640, 1);
  eager.weights = 30 * kMiB;
  EXPECT_PRED2(ends_with, refusal(eager, 45 * kMiB), "; use --load mapped");
  EXPECT_NE(refusal(needs_of(640, 3), 39 * kMiB).find("a cache of 1920 tokens"), std::string::npos);
}

int64_t number_after(const std::string& text, const std::string& mark) {
  const size_t at = text.find(mark);
  return at == std::string::npos ? -1 : std::stoll(text.substr(at + mark.size()));
}

TEST(HostMemory, AnEngineOpensWithTheNumberThatItsRefusalNames) {
  EngineOptions options = options_for("deepseek_v3_int4");
  options.sessions = 6, options.context = 1024;
  EngineOptions less = options;
  less.context = 448;
  options.ram = less.ram = least_ram(less);
  open(less);
  const std::string refused = Engine::open(options).status().message();
  EXPECT_EQ(number_after(refused, "--ctx-size to "), 448) << refused;
  options.sessions = number_after(refused, "--parallel to ");
  EXPECT_EQ(options.sessions, 2) << refused;
  open(options);
  ++options.sessions;
  EXPECT_EQ(Engine::open(options).status().code(), Code::kNoMemory);
  options.sessions = 6, options.cache_tokens = 4096;
  const std::string own_size = Engine::open(options).status().message();
  EXPECT_EQ(number_after(own_size, "--cache-tokens to "), 6 * 448) << own_size;
  options.cache_tokens = 6 * 448;
  open(options);
}

TEST(HostMemory, AdaptersAndWhatIsPinnedForADeviceCount) {
  EngineOptions options = options_for("deepseek_v3_tiny");
  const int64_t without = least_ram(options);
  options.adapter = "tests/golden/adapters/deepseek_v3_all";
  options.ram = least_ram(options);
  EXPECT_GT(options.ram, without);
  open(options);
  options.adapter.clear(), options.device = DeviceKind::kSim, options.ram = 0;
  options.speeds = speeds(1, 1);
  const int64_t all_there = least_ram(options);
  options.device_memory = budget(options, 0.5);
  options.ram = least_ram(options);
  EXPECT_GT(options.ram, all_there) << "mailboxes, by which the host is asked for its experts";
  open(options);
}

}  // namespace
}  // namespace moebius
