// Several sequences decoded in one pass on the simulated device, in one group or in two that overlap, against
// each alone on the host.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/device_models.h"

namespace moebius {
namespace {

EngineOptions batch_options(const std::string& model, int64_t sequences) {
  EngineOptions options = options_for(model);
  options.sessions = sequences;
  return options;
}

std::vector<int32_t> prompt_of(size_t sequence) {
  std::vector<int32_t> ids(3 + 5 * sequence % 17);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>((7 * i + 13 * sequence) % 100);
  return ids;
}

// The logits of each sequence after every one of some tokens that all are given.
std::vector<std::vector<float>> decode(Engine& engine, size_t sequences, bool together) {
  std::vector<std::unique_ptr<Session>> owned;
  std::vector<Session*> sessions;
  for (size_t s = 0; s < sequences; ++s) {
    auto session = engine.new_session();
    MOEBIUS_CHECK(session.ok() && (*session)->sync(prompt_of(s)).ok());
    sessions.push_back(session->get());
    owned.push_back(std::move(*session));
  }
  std::vector<std::vector<float>> logits(sequences);
  for (int step = 0; step < 6; ++step) {
    std::vector<int32_t> ids(sequences);
    for (size_t s = 0; s < sequences; ++s)
      ids[s] = static_cast<int32_t>((static_cast<size_t>(step) * 31 + s * 17) % 100);
    Status status;
    for (size_t s = 0; s < sequences && !together && status.ok(); ++s) status = sessions[s]->append(ids[s]);
    if (together) status = engine.append(sessions, ids);
    MOEBIUS_CHECK(status.ok(), status.message());
    for (size_t s = 0; s < sequences; ++s)
      logits[s].insert(logits[s].end(), sessions[s]->logits().begin(), sessions[s]->logits().end());
  }
  return logits;
}

// Integer formats: the same bits. Float formats: sums in another order, as for any batch (design rule 6).
void expect_same(const std::vector<std::vector<float>>& got, const std::vector<std::vector<float>>& want,
                 bool exact) {
  for (size_t s = 0; s < want.size(); ++s) {
    ASSERT_EQ(got[s].size(), want[s].size());
    float largest = 0, error = 0;
    for (size_t i = 0; i < want[s].size(); ++i) {
      largest = std::max(largest, std::fabs(want[s][i]));
      error = std::max(error, std::fabs(got[s][i] - want[s][i]));
    }
    EXPECT_LE(error, exact ? 0 : 1e-4f * largest) << "sequence " << s;
  }
}

class Batches : public testing::TestWithParam<std::string> {};

TEST_P(Batches, GetWhatEachSequenceGetsAlone) {
  const std::string& model = GetParam();
  const bool exact = model.find("int") != std::string::npos;
  for (const int64_t sequences : {2, 5, 8}) {
    const size_t n = static_cast<size_t>(sequences);
    const auto want = decode(*open(batch_options(model, sequences)), n, false);
    expect_same(decode(*open(batch_options(model, sequences)), n, true), want, exact);
    EngineOptions options = batch_options(model, sequences);
    options.device = DeviceKind::kSim, options.device_memory = least_budget(options);
    options.speeds = speeds_for_two_groups(options);
    for (const bool overlap : {true, false}) {
      options.overlap = overlap, options.sim_seed = overlap ? 5 : 0;
      const auto engine = open(options);
      expect_same(decode(*engine, n, true), want, exact);
    }
  }
}

std::string name_of(const testing::TestParamInfo<std::string>& model) { return model.param; }
INSTANTIATE_TEST_SUITE_P(Models, Batches, testing::ValuesIn(golden_models()), name_of);

TEST(BatchesAlone, RefusalsLeaveEverySequenceAsItWas) {
  EngineOptions options = batch_options("deepseek_v3_tiny", 2);
  options.device = DeviceKind::kSim;
  const auto engine = open(options);
  auto one = engine->new_session(), two = engine->new_session();
  ASSERT_TRUE((*one)->sync(prompt_of(0)).ok() && (*two)->sync(std::vector<int32_t>(64, 1)).ok());
  const std::vector<Session*> both = {one->get(), two->get()};
  const std::vector<int32_t> ids = {1, 2}, beyond = {1, 1'000'000};
  EXPECT_EQ(engine->append(both, beyond).code(), Code::kInvalid);
  const Status full = engine->append(both, ids);
  EXPECT_EQ(full.code(), Code::kInvalid);
  EXPECT_NE(full.message().find("--ctx-size"), std::string::npos);
  EXPECT_EQ((*one)->tokens().size(), prompt_of(0).size());
  EXPECT_FALSE((*one)->logits().empty());
}

TEST(BatchesAlone, MoreSessionsThanRoomWasMadeForAreRefusedWhenTheyNeedIt) {
  const auto engine = open(batch_options("deepseek_v3_tiny", 1));
  auto one = engine->new_session(), two = engine->new_session();
  ASSERT_TRUE((*one)->sync(prompt_of(0)).ok());
  const Status refused = (*two)->sync(prompt_of(1));
  EXPECT_EQ(refused.code(), Code::kNoMemory);
  EXPECT_NE(refused.message().find("--parallel"), std::string::npos) << refused.message();
  one->reset();
  EXPECT_TRUE((*two)->sync(prompt_of(1)).ok()) << "a session gives its pages back";
}

// After a fault of any kind every sequence of the batch starts again, and the others have theirs.
TEST(BatchesAlone, AFaultEndsTheBatchAndNothingElse) {
  EngineOptions options = batch_options("qwen3_moe_int4", 5);
  const auto want = decode(*open(options), 4, true);
  options.device = DeviceKind::kSim, options.device_memory = least_budget(options);
  options.speeds = speeds_for_two_groups(options);
  int faults = 0;
  for (uint64_t request = 1;; request += 3) {
    options.host_fail = request;
    const auto engine = open(options);
    auto other = engine->new_session();
    if (!(*other)->sync(prompt_of(9)).ok()) continue;
    std::vector<std::unique_ptr<Session>> owned;
    std::vector<Session*> sessions;
    Status status;
    for (size_t s = 0; s < 4; ++s) {
      owned.push_back(std::move(*engine->new_session()));
      sessions.push_back(owned.back().get());
      if (status.ok()) status = owned.back()->sync(prompt_of(s));
    }
    if (!status.ok()) continue;
    for (int i = 0; i < 4 && status.ok(); ++i) status = engine->append(sessions, std::vector<int32_t>(4, 3));
    if (status.ok()) break;
    ++faults;
    for (const Session* s : sessions) EXPECT_TRUE(s->tokens().empty());
    EXPECT_EQ((*other)->tokens().size(), prompt_of(9).size());
    sessions.clear(), owned.clear();
    EXPECT_EQ(decode(*engine, 4, true), want);
  }
  EXPECT_GT(faults, 3);
}

}  // namespace
}  // namespace moebius
