// Sequences with different adapters in one pass: each gets what it gets alone, and what peft computes, on the
// host and on the simulated device; and requests with adapters through the scheduler.
#include "engine/batch_adapter.h"

#include <fmt/format.h>

#include "tests/adapter_cases.h"
#include "tests/scheduler_runs.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

using adapters::Golden;
using adapters::kAdapters;
using adapters::kFloat32Bound;
using adapters::relative_error;
using process::Scratch;

const auto kAllMatrices = [](const ModelMatrix&) { return true; };

// A folder with random factors for a model.
std::string random_adapter(const Scratch& scratch, const std::string& model, uint32_t seed,
                           const adapters::Wanted& wanted = kAllMatrices) {
  const auto files = ModelFiles::open(model);
  MOEBIUS_CHECK(files.ok());
  const std::string dir = scratch.file(fmt::format("adapter{}", seed));
  const Status written =
      write_adapter(dir, (*files)->config(), adapters::random_factors((*files)->config(), wanted, 0.3f, seed),
                    {AdapterLayout::kPerExpert, "", "", "", ""});
  MOEBIUS_CHECK(written.ok(), written.message());
  return dir;
}

std::shared_ptr<BatchAdapter> open_adapter(const Engine& engine, const std::string& dir) {
  if (dir.empty()) return nullptr;
  auto adapter = engine.open_adapter(dir);
  MOEBIUS_CHECK(adapter.ok(), adapter.status().message());
  return *adapter;
}

using Adapters = std::vector<std::shared_ptr<BatchAdapter>>;

// The logits of a sequence with each of these, after a prompt of its own and after each of some tokens that
// all are given: `together` in one pass, or each for itself.
std::vector<std::vector<float>> decode(Engine& engine, const Adapters& adapters, bool together) {
  std::vector<std::unique_ptr<Session>> owned;
  std::vector<Session*> sessions;
  std::vector<std::vector<float>> logits;
  for (size_t s = 0; s < adapters.size(); ++s) {
    auto session = engine.new_session(adapters[s]);
    MOEBIUS_CHECK(session.ok(), session.status().message());
    std::vector<int32_t> prompt(3 + 11 * s % 30);
    for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>((7 * i + 13 * s) % 100);
    MOEBIUS_CHECK((*session)->sync(prompt).ok());
    sessions.push_back(session->get());
    owned.push_back(std::move(*session));
    logits.emplace_back(sessions[s]->logits().begin(), sessions[s]->logits().end());
  }
  for (int step = 0; step < 5; ++step) {
    std::vector<int32_t> ids(adapters.size());
    for (size_t s = 0; s < ids.size(); ++s)
      ids[s] = static_cast<int32_t>((static_cast<size_t>(step) * 31 + s * 17) % 100);
    Status status;
    for (size_t s = 0; s < ids.size() && !together && status.ok(); ++s) status = sessions[s]->append(ids[s]);
    if (together) status = engine.append(sessions, ids);
    MOEBIUS_CHECK(status.ok(), status.message());
    for (size_t s = 0; s < ids.size(); ++s)
      logits[s].insert(logits[s].end(), sessions[s]->logits().begin(), sessions[s]->logits().end());
  }
  return logits;
}

void expect_same(const std::vector<std::vector<float>>& got, const std::vector<std::vector<float>>& want,
                 bool exact) {
  for (size_t s = 0; s < want.size(); ++s)
    EXPECT_LE(relative_error(got[s], want[s]), exact ? 0 : kFloat32Bound) << "sequence " << s;
}

class GoldenAdapter : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, GoldenAdapter, testing::ValuesIn(adapters::golden_names()),
                         [](const auto& at) { return at.param; });

TEST_P(GoldenAdapter, GivesPeftsLogitsBesideSequencesWithOthers) {
  const std::string dir = kAdapters + GetParam(), model = adapters::model_of(GetParam());
  const Scratch scratch;
  const Golden golden = adapters::read_golden(dir);
  const auto engine = adapters::open_engine(model, "");
  const std::string other = random_adapter(scratch, model, 5);
  const auto session_of = [&](const std::string& adapter) {
    auto session = engine->new_session(open_adapter(*engine, adapter));
    MOEBIUS_CHECK(session.ok(), session.status().message());
    return std::move(*session);
  };
  const auto with_peft = session_of(dir), without = session_of(""), with_other = session_of(other);
  const size_t prompt = golden.ids.size() / 2, vocab = static_cast<size_t>(engine->config().vocab);
  Session* const sessions[] = {with_other.get(), with_peft.get(), without.get()};
  for (Session* s : sessions) ASSERT_TRUE(s->sync(std::span(golden.ids).first(prompt)).ok());
  for (size_t at = prompt; at < golden.ids.size(); ++at) {
    const int32_t id = golden.ids[at], ids[] = {id, id, id};
    ASSERT_TRUE(engine->append(sessions, ids).ok());
    const std::span<const float> expected(golden.logits.data() + at * vocab, vocab);
    EXPECT_LE(relative_error(with_peft->logits(), expected), 2 * kFloat32Bound) << "at " << at;
    EXPECT_GE(relative_error(without->logits(), expected), 100 * kFloat32Bound);
  }
  // The others got what engines of their own give.
  for (const auto& [adapter, session] :
       {std::pair{other, with_other.get()}, {std::string(), without.get()}}) {
    const auto own = adapters::open_engine(model, adapter);
    const std::vector<float> all = adapters::all_logits(*own, golden.ids);
    EXPECT_LE(relative_error(session->logits(), std::span(all).last(vocab)), 2 * kFloat32Bound);
  }
}

class EveryModel : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, EveryModel, testing::ValuesIn(golden_models()),
                         [](const auto& at) { return at.param; });

EngineOptions batch_options(const std::string& model) {
  EngineOptions options = options_for(model);
  options.sessions = 5, options.cache = CacheType::kF32;
  return options;
}

TEST_P(EveryModel, GivesEverySequenceWhatItGetsAlone) {
  const Scratch scratch;
  const auto engine = open(batch_options(GetParam()));
  const std::string model = "tests/golden/models/" + GetParam();
  const auto one = open_adapter(*engine, random_adapter(scratch, model, 1));
  // Of matrices outside of routers and experts, so that those runs of rows go together.
  const auto two = open_adapter(*engine, random_adapter(scratch, model, 2, [](const ModelMatrix& m) {
    return m.role == Role::kAttention || m.role == Role::kHead;
  }));
  const Adapters all = {one, nullptr, two, one, nullptr};
  const auto alone = decode(*engine, all, false);
  expect_same(decode(*engine, all, true), alone, GetParam().find("int") != std::string::npos);
  EXPECT_GE(relative_error(alone[0], decode(*engine, {nullptr}, false)[0]), 1e-2);  // they do something
}

TEST_P(EveryModel, GivesTheSameOnADevice) {
  EngineOptions options = batch_options(GetParam());
  const auto host = open(options);
  if (!host->config().moe.n_experts) GTEST_SKIP() << "a model without experts";
  const Scratch scratch;
  const std::string model = "tests/golden/models/" + GetParam();
  const std::string one = random_adapter(scratch, model, 1), two = random_adapter(scratch, model, 2);
  const auto expected = decode(*host, {open_adapter(*host, one), nullptr, open_adapter(*host, two)}, false);
  options.adapter_memory = 4 << 20;
  options.speeds = speeds(1, 10);
  for (const double experts : {0.4, 1.0}) {
    options.device = DeviceKind::kSim, options.device_memory = budget(options, experts);
    const auto device = open(options);
    expect_same(decode(*device, {open_adapter(*device, one), nullptr, open_adapter(*device, two)}, true),
                expected, GetParam().find("int") != std::string::npos);
  }
}

TEST(BatchAdapter, ThatADeviceHasNoRoomForFailsAloneAndSaysWhatToDo) {
  EngineOptions options = batch_options("deepseek_v3_int4");
  options.device = DeviceKind::kSim, options.device_memory = budget(options, 0.4);
  options.speeds = speeds(1, 10);
  const Scratch scratch;
  const auto engine = open(options);
  const std::string dir = random_adapter(scratch, options.model, 1);
  std::vector<std::unique_ptr<Session>> sessions;  // each with a copy of its own
  Status status;
  for (int i = 0; i < 100 && status.ok(); ++i) {
    auto session = engine->new_session(open_adapter(*engine, dir));
    status = session.status();
    if (session.ok()) sessions.push_back(std::move(*session));
  }
  EXPECT_EQ(status.code(), Code::kNoMemory);
  EXPECT_NE(status.message().find("--adapter-memory"), std::string::npos) << status.message();
  EXPECT_TRUE(try_prompt(*engine).ok());
}

TEST(BatchAdapter, IsRefusedOnAModelThatHasOneAlready) {
  const Scratch scratch;
  const std::string model = "tests/golden/models/deepseek_v3_tiny", dir = random_adapter(scratch, model, 1);
  const auto engine = adapters::open_engine(model, dir);
  const auto second = engine->open_adapter(dir);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find("without --adapter"), std::string::npos);
  const auto plain = adapters::open_engine(model, "");
  EXPECT_EQ(plain->open_adapter(scratch.file("nowhere")).status().code(), Code::kNotFound);
}

TEST(BatchAdapter, SavesAndRestoresSessionsOfTheSameAdapterOnly) {
  const Scratch scratch;
  const std::string model = "tests/golden/models/deepseek_v3_tiny";
  const auto engine = adapters::open_engine(model, "");
  const auto adapter = open_adapter(*engine, random_adapter(scratch, model, 1));
  const auto session = *engine->new_session(adapter);
  const std::vector<int32_t> ids = {1, 2, 3, 4, 5};
  ASSERT_TRUE(session->sync(ids).ok() && session->save(scratch.file("session")).ok());
  EXPECT_TRUE((*engine->new_session(adapter))->restore(scratch.file("session")).ok());
  EXPECT_FALSE((*engine->new_session())->restore(scratch.file("session")).ok());
}

class Requests : public testing::Test {
 protected:
  Requests() {
    EngineOptions options = options_for("");
    options.model = with_tokenizer("deepseek_v3_int4");
    options.sessions = 4, options.context = 128;
    engine = open(options);
    one = open_adapter(*engine, random_adapter(scratch, options.model, 1));
    two = open_adapter(*engine, random_adapter(scratch, options.model, 2));
  }
  Generation asking(std::shared_ptr<BatchAdapter> adapter, int64_t tokens = 12) const {
    Generation generation = greedy({5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21}, tokens);
    generation.adapter = std::move(adapter);
    return generation;
  }
  Heard one_answer(Scheduler& scheduler, std::shared_ptr<BatchAdapter> adapter) const {
    Listener listener = ask(scheduler, asking(std::move(adapter)));
    run_all(scheduler, {&listener});
    EXPECT_TRUE(listener.status().ok()) << listener.status().message();
    return listener.answer();
  }

  const Scratch scratch;
  std::unique_ptr<Engine> engine;
  std::shared_ptr<BatchAdapter> one, two;
};

TEST_F(Requests, WithDifferentAdaptersAnswerInOneBatchAsAlone) {
  std::vector<Heard> alone;
  for (const auto& adapter : {one, two, std::shared_ptr<BatchAdapter>()}) {
    Scheduler scheduler(*engine, {});
    alone.push_back(one_answer(scheduler, adapter));
  }
  EXPECT_NE(alone[0].ids, alone[1].ids);
  EXPECT_NE(alone[0].ids, alone[2].ids);
  Scheduler scheduler(*engine, {});
  Listener a = ask(scheduler, asking(one)), b = ask(scheduler, asking(two)), c = ask(scheduler, asking({}));
  Generation twice = asking(one);
  twice.n = 2;
  Listener d = ask(scheduler, std::move(twice));
  const auto steps = run_all(scheduler, {&a, &b, &c, &d});
  EXPECT_TRUE(std::ranges::any_of(steps, [](const SchedulerStep& s) { return s.answers == 4; }));
  EXPECT_EQ(a.answer().ids, alone[0].ids);
  EXPECT_EQ(b.answer().ids, alone[1].ids);
  EXPECT_EQ(c.answer().ids, alone[2].ids);
  EXPECT_EQ(d.answer(0).ids, alone[0].ids);
  EXPECT_EQ(d.answer(1).ids, alone[0].ids);
  EXPECT_EQ(a.answer().logprobs, alone[0].logprobs);
}

TEST_F(Requests, ShareWhatWasComputedOnlyWithThoseOfTheSameAdapter) {
  Scheduler scheduler(*engine, {});
  EXPECT_EQ(one_answer(scheduler, one).stats.reused_tokens, 0);
  EXPECT_EQ(one_answer(scheduler, two).stats.reused_tokens, 0);
  EXPECT_EQ(one_answer(scheduler, {}).stats.reused_tokens, 0);
  EXPECT_GT(one_answer(scheduler, one).stats.reused_tokens, 0);
}

TEST_F(Requests, LetGoOfAnAdapterThatNobodyElseHolds) {
  Scheduler scheduler(*engine, {});
  std::weak_ptr<BatchAdapter> seen = one;
  {
    Listener listener = ask(scheduler, asking(std::move(one)));
    run_all(scheduler, {&listener});
    EXPECT_FALSE(seen.expired());
  }
  scheduler.step();
  EXPECT_TRUE(seen.expired());
}

}  // namespace
}  // namespace moebius
