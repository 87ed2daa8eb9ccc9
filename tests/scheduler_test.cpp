// The scheduler, step by step: answers in company are what they are alone; what is shared and counted; who
// goes first; what is refused, cancelled and given up.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/schedule.h"
#include "tests/scheduler_runs.h"

namespace moebius {
namespace {

const std::string kTiny = "tests/golden/models/deepseek_v3_tiny";

EngineOptions tiny_options(int64_t sessions = 4, int64_t context = 256) {
  EngineOptions options;
  options.model = kTiny;
  options.threads = 1;
  options.context = context, options.sessions = sessions, options.prefill_chunk = 64;
  return options;
}

SchedulerOptions small_chunks(int64_t chunk = 20) {
  SchedulerOptions options;
  options.busy_chunk = chunk;
  return options;
}

std::vector<int32_t> counted(int64_t n, int32_t first = 0) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>((first + 7 * i) % 500);
  return ids;
}

TEST(Schedule, OrdersByPriorityThenFairShareThenArrival) {
  EXPECT_EQ(order_of_waiting(std::vector<WaitingFacts>{{0, 0, 0, 2}, {0, 0, 0, 1}}),
            (std::vector<size_t>{1, 0}));
  EXPECT_EQ(order_of_waiting(std::vector<WaitingFacts>{{0, 0, 2, 1}, {0, 0, 0, 2}, {1, 0, 5, 3}}),
            (std::vector<size_t>{2, 1, 0}));
  // One that was overtaken often enough goes before a higher priority.
  EXPECT_EQ(order_of_waiting(std::vector<WaitingFacts>{{3, 0, 0, 2}, {0, 4 * kPatience, 0, 1}}),
            (std::vector<size_t>{1, 0}));
}

TEST(Schedule, PicksTheShortestAndInTurnTheOldest) {
  const std::vector<PromptFacts> prompts = {{500, 1}, {20, 2}, {20, 3}};
  EXPECT_EQ(pick_prompt(prompts, 0), 1u);
  EXPECT_EQ(pick_prompt(prompts, 1), 0u);
  EXPECT_EQ(pick_prompt(prompts, 2), 1u);
}

TEST(Schedule, CountsPages) {
  EXPECT_EQ(page_needs(64, 1, 1).answer, 1);  // the last token needs no place
  EXPECT_EQ(page_needs(64, 2, 1).answer, 2);
  const PageNeeds four = page_needs(130, 64, 4);
  EXPECT_EQ(four.prompt, 3);
  EXPECT_EQ(four.answer, 2);  // a copy of the third page, and a fourth
}

// Bit by bit for integer formats, whose rows do not depend on their company (design rule 6): the same
// log-probabilities, however many answers are on their way and however prompts are cut. With one salt for
// all, prefixes are shared too; that MLA attends what it computes now and what it decoded in two forms keeps
// only models without it equal to the bit then.
class Company : public testing::TestWithParam<std::pair<const char*, bool>> {};

TEST_P(Company, IntegerModelsAnswerAsAlone) {
  const auto [model, share] = GetParam();
  EngineOptions options = tiny_options(5, 320);
  options.model = with_tokenizer(model);
  options.threads = 2, options.prefill_chunk = 128;
  const auto engine = open(options), single = open(options);
  std::mt19937 random(17);
  const int64_t vocab = engine->config().vocab;
  const std::vector<int32_t> common = random_ids(random, 150, vocab);
  Scheduler scheduler(*engine, small_chunks(40));
  std::vector<Generation> asked;
  std::vector<Listener> heard;
  int64_t reused = 0;
  for (int i = 0; i < 24; ++i) {
    std::vector<int32_t> prompt(common.begin(), common.begin() + static_cast<int64_t>(random() % 150));
    const std::vector<int32_t> more = random_ids(random, 1 + static_cast<int64_t>(random() % 120), vocab);
    prompt.insert(prompt.end(), more.begin(), more.end());
    asked.push_back(greedy(prompt, 1 + static_cast<int64_t>(random() % 30), share ? "" : std::to_string(i)));
  }
  for (const Generation& g : asked) {
    heard.push_back(ask(scheduler, g));
    for (uint32_t steps = random() % 6; steps > 0; --steps) scheduler.step();
  }
  std::vector<Listener*> all;
  for (Listener& l : heard) all.push_back(&l);
  run_all(scheduler, all);
  for (size_t i = 0; i < asked.size(); ++i) {
    const Heard want = alone(*single, asked[i]);
    const Heard& got = heard[i].answer();
    ASSERT_TRUE(got.done) << heard[i].status().message();
    EXPECT_EQ(got.ids, want.ids) << i;
    EXPECT_EQ(got.logprobs, want.logprobs) << i;
    EXPECT_EQ(got.text, want.text) << i;
    reused += got.stats.reused_tokens;
  }
  EXPECT_EQ(reused > 500, share) << reused;
}

INSTANTIATE_TEST_SUITE_P(Models, Company,
                         testing::Values(std::pair("qwen3_moe_int4", true),
                                         std::pair("qwen3_moe_int4", false),
                                         std::pair("qwen3_moe_int8", true),
                                         std::pair("deepseek_v3_int8", false),
                                         std::pair("glm4_moe_lite_int4_g64", false)));

// Float formats, and MLA with shared prefixes: the same token wherever the best two are clearly apart. Logits
// of two ways to compute them are within 1e-4 of the largest (tests/hybrid_soak_test.cpp); with a cache in
// BF16 rounded numbers may fall to either side, 2^-8 of them.
TEST(Scheduler, FloatModelsAnswerAsAloneWithinTheBound) {
  for (const char* model : {"deepseek_v3_tiny", "qwen3_moe_bf16", "deepseek_v3_int4", "glm4_moe_lite"}) {
    EngineOptions options = tiny_options(4, 256);
    options.model = with_tokenizer(model);
    options.cache = CacheType::kF32;
    const auto engine = open(options), single = open(options);
    std::mt19937 random(5);
    const std::vector<int32_t> common = random_ids(random, 90, engine->config().vocab);
    Scheduler scheduler(*engine, small_chunks());
    std::vector<Generation> asked;
    std::vector<Listener> heard;
    for (int i = 0; i < 12; ++i) {
      std::vector<int32_t> prompt(common.begin(), common.begin() + 10 * (i % 8));
      for (const int32_t id :
           random_ids(random, 1 + static_cast<int64_t>(random() % 60), engine->config().vocab))
        prompt.push_back(id);
      asked.push_back(greedy(prompt, 12));
      asked.back().options.top_logprobs = 2;
    }
    for (const Generation& g : asked) heard.push_back(ask(scheduler, g)), scheduler.step();
    std::vector<Listener*> all;
    for (Listener& l : heard) all.push_back(&l);
    run_all(scheduler, all);
    for (size_t i = 0; i < asked.size(); ++i) {
      auto session = single->new_session();
      ASSERT_TRUE((*session)->sync(asked[i].prompts[0]).ok());
      const Heard& got = heard[i].answer();
      ASSERT_EQ(got.ids.size(), 12u);
      for (size_t t = 0; t < got.ids.size(); ++t) {
        const std::span<const float> logits = (*session)->logits();
        float largest = 0;
        for (const float x : logits) largest = std::max(largest, std::fabs(x));
        const float best = *std::ranges::max_element(logits), bound = 1e-4f * largest;
        ASSERT_LE(best - logits[static_cast<size_t>(got.ids[t])], 2 * bound) << model << " " << i << " " << t;
        ASSERT_NEAR(got.logprobs[t], log_probability(logits, got.ids[t]).logprob, 2 * bound) << model;
        ASSERT_TRUE((*session)->append(got.ids[t]).ok());
      }
    }
  }
}

// While a long prompt is read, every step gives every running answer a token.
TEST(Scheduler, DecodesInEveryStepOfALongPrompt) {
  const auto engine = open(tiny_options());
  Scheduler scheduler(*engine, small_chunks(32));
  Listener first = ask(scheduler, greedy(counted(10), 60)),
           second = ask(scheduler, greedy(counted(12, 3), 60));
  while (first.answer().ids.size() < 3 || second.answer().ids.size() < 3) {
    scheduler.step();
    first.hear(), second.hear();
  }
  Listener longer = ask(scheduler, greedy(counted(200, 5), 2));
  int64_t read = 0, steps = 0;
  while (longer.answer().ids.empty()) {
    const size_t before[] = {first.answer().ids.size(), second.answer().ids.size()};
    const SchedulerStep report = scheduler.step();
    first.hear(), second.hear(), longer.hear();
    ASSERT_EQ(report.answers, 2);
    ASSERT_GT(report.prompt_tokens, 0);
    ASSERT_LE(report.prompt_tokens, 32);
    ASSERT_EQ(first.answer().ids.size(), before[0] + 1);
    ASSERT_EQ(second.answer().ids.size(), before[1] + 1);
    read += report.prompt_tokens, ++steps;
    ASSERT_EQ(longer.ticket().prompt_tokens_done(), read);
  }
  EXPECT_EQ(read, 200);
  EXPECT_EQ(steps, 7);
  // Alone, it goes in parts of the engine's size: 64 tokens.
  run_all(scheduler, {&first, &second, &longer});
  Listener again = ask(scheduler, greedy(counted(200, 9), 1));
  EXPECT_EQ(scheduler.step().prompt_tokens, 64);
  run_all(scheduler, {&again});
}

// The same while a prompt is streamed to a device: a token for every answer between two slices of it.
TEST(Scheduler, DecodesBetweenTheSlicesOfAStreamedPrompt) {
  EngineOptions options = tiny_options();
  options.model = with_tokenizer("deepseek_v3_int4");
  const auto host = open(options);
  options.device = DeviceKind::kSim, options.speeds = speeds(100, 1);
  options.device_memory = budget(options, 0.4);
  const auto engine = open(options);
  Scheduler scheduler(*engine, {});
  const auto ids = [](int64_t n, int32_t of) {  // of a small vocabulary
    std::vector<int32_t> all = counted(n, of);
    for (int32_t& id : all) id %= 100;
    return all;
  };
  Listener first = ask(scheduler, greedy(ids(10, 0), 100)), second = ask(scheduler, greedy(ids(12, 3), 100));
  while (first.answer().ids.size() < 3 || second.answer().ids.size() < 3) {
    scheduler.step();
    first.hear(), second.hear();
  }
  const Generation asked = greedy(ids(200, 5), 4);
  Listener longer = ask(scheduler, asked);
  int64_t slices = 0;
  while (longer.answer().ids.empty()) {
    const size_t before[] = {first.answer().ids.size(), second.answer().ids.size()};
    const SchedulerStep report = scheduler.step();
    first.hear(), second.hear(), longer.hear();
    ASSERT_TRUE(report.sliced);
    ASSERT_EQ(report.prompt_tokens, 0);
    ASSERT_EQ(report.answers, 2);
    ASSERT_EQ(first.answer().ids.size(), before[0] + 1);
    ASSERT_EQ(second.answer().ids.size(), before[1] + 1);
    ++slices;
  }
  EXPECT_GT(slices, engine->config().layers);
  run_all(scheduler, {&first, &second, &longer});
  EXPECT_EQ(longer.answer().ids, alone(*host, asked).ids);
}

TEST(Scheduler, AShortPromptDoesNotWaitForALongOne) {
  const auto engine = open(tiny_options());
  Scheduler scheduler(*engine, small_chunks());
  Listener longer = ask(scheduler, greedy(counted(250), 1));
  scheduler.step();
  Listener shorter = ask(scheduler, greedy(counted(30, 4), 1));
  for (int i = 0; i < 2; ++i) scheduler.step();
  longer.hear(), shorter.hear();
  EXPECT_TRUE(shorter.over());
  EXPECT_FALSE(longer.over());
  run_all(scheduler, {&longer});
  EXPECT_TRUE(longer.answer().done);
}

// An agent's next turn re-uses the prompt and all of the answer that was put on the timeline.
TEST(Scheduler, TheNextTurnReusesAllButItsOwnTokens) {
  const auto engine = open(tiny_options());
  Scheduler scheduler(*engine, {});
  const std::vector<int32_t> prompt = counted(77);
  Listener first = ask(scheduler, greedy(prompt, 40));
  run_all(scheduler, {&first});
  EXPECT_EQ(first.answer().stats.reused_tokens, 0);
  EXPECT_EQ(first.answer().stats.miss, CacheMiss::kUnknown);
  std::vector<int32_t> turn = prompt;
  turn.insert(turn.end(), first.answer().ids.begin(), first.answer().ids.end());
  turn.push_back(9);
  Listener second = ask(scheduler, greedy(turn, 5));
  run_all(scheduler, {&second});
  // The last token of an answer is chosen but never computed.
  EXPECT_EQ(second.answer().stats.reused_tokens, 77 + 39);
  EXPECT_EQ(second.answer().stats.miss, CacheMiss::kEnds);
  // Again the same turn: all but the token whose logits are wanted.
  Listener third = ask(scheduler, greedy(turn, 5));
  const std::vector<SchedulerStep> steps = run_all(scheduler, {&third});
  EXPECT_EQ(third.answer().stats.reused_tokens, std::ssize(turn) - 1);
  EXPECT_EQ(third.answer().stats.miss, CacheMiss::kNone);
  EXPECT_EQ(steps[0].prompt_tokens, 1);
  EXPECT_EQ(third.answer().ids, second.answer().ids);
  // Another one turns off where the first answer begins, in the middle of a page.
  std::vector<int32_t> other = prompt;
  other.push_back((first.answer().ids[0] + 1) % 500);
  Listener fourth = ask(scheduler, greedy(other, 3));
  run_all(scheduler, {&fourth});
  EXPECT_EQ(fourth.answer().stats.reused_tokens, 77);
  Listener salted = ask(scheduler, greedy(turn, 3, "another"));
  run_all(scheduler, {&salted});
  EXPECT_EQ(salted.answer().stats.reused_tokens, 0);
  EXPECT_EQ(salted.answer().stats.miss, CacheMiss::kOtherSpace);
}

// An answer's own tokens come back although its text would be cut otherwise.
TEST(Scheduler, ReplaysTheTokensOfAnswers) {
  const auto engine = open(tiny_options());
  Scheduler scheduler(*engine, {});
  const auto& tokenizer = engine->tokenizer();
  const std::vector<int32_t> prompt = *scheduler.encode("Tell me more of it:", "");
  EXPECT_EQ(prompt, *tokenizer.encode("Tell me more of it:"));
  const std::string word = "there";
  const std::vector<int32_t> whole = *tokenizer.encode(word);
  // Single letters, whatever the tokenizer would have done.
  std::vector<int32_t> letters;
  for (const char c : word) letters.push_back(*tokenizer.id_of(std::string(1, c)));
  ASSERT_LT(whole.size(), letters.size());
  std::vector<int32_t> all = prompt;
  for (const int32_t id : letters) {  // the only token that may come
    Generation one = greedy(all, 1);
    one.options.sampling.logit_bias = {{id, 100}};
    Listener l = ask(scheduler, one);
    run_all(scheduler, {&l});
    ASSERT_EQ(l.answer().ids, std::vector<int32_t>{id});
    all.push_back(id);
  }
  const std::string text = *tokenizer.decode(all);
  std::vector<int32_t> next = *scheduler.encode(text + " And then?", "");
  ASSERT_TRUE(std::equal(all.begin(), all.end(), next.begin()));
  EXPECT_EQ(*tokenizer.decode(next), text + " And then?");
  EXPECT_NE(next, *tokenizer.encode(text + " And then?"));
  EXPECT_EQ(*scheduler.encode(text + " And then?", "salt"), *tokenizer.encode(text + " And then?"));
}

TEST(Scheduler, ManyAnswersShareAPrompt) {
  for (const int64_t sessions : {2, 8}) {
    const auto engine = open(tiny_options(sessions));
    Scheduler scheduler(*engine, {});
    Generation generation = greedy(counted(100), 20);
    generation.n = 5;
    generation.options.sampling.temperature = 1, generation.options.sampling.seed = 11;
    Listener five = ask(scheduler, generation);
    const std::vector<SchedulerStep> steps = run_all(scheduler, {&five});
    int64_t prompt_tokens = 0;
    for (const SchedulerStep& s : steps) {
      prompt_tokens += s.prompt_tokens;
      EXPECT_LE(s.answers, sessions);
    }
    EXPECT_EQ(prompt_tokens, 100);
    ASSERT_EQ(five.answers(), 5u);
    for (int i = 0; i < 5; ++i) {
      EXPECT_TRUE(five.answer(i).done);
      EXPECT_EQ(five.answer(i).stats.reused_tokens, i == 0 ? 0 : 100);
      // As one answer alone with this seed.
      Generation one = generation;
      one.n = 1, one.options.sampling.seed = 11 + static_cast<uint64_t>(i), one.cache_salt = "alone";
      Listener single = ask(scheduler, one);
      run_all(scheduler, {&single});
      EXPECT_EQ(single.answer().ids, five.answer(i).ids) << i;
    }
    EXPECT_NE(five.answer(0).ids, five.answer(1).ids);
  }
}

TEST(Scheduler, AnswersSeveralPrompts) {
  const auto engine = open(tiny_options(3));
  Scheduler scheduler(*engine, {});
  Generation generation = greedy(counted(20), 6);
  generation.prompts.push_back(counted(30, 4));
  generation.prompts.push_back(counted(25, 8));
  generation.n = 2;
  Listener six = ask(scheduler, generation);
  run_all(scheduler, {&six});
  EXPECT_TRUE(six.over() && six.status().ok());
  ASSERT_EQ(six.answers(), 6u);
  for (int p = 0; p < 3; ++p) {
    const Heard want = alone(*engine, greedy(generation.prompts[static_cast<size_t>(p)], 6));
    EXPECT_EQ(six.answer(2 * p).ids, want.ids);
    EXPECT_EQ(six.answer(2 * p + 1).ids, want.ids);
  }
}

TEST(Scheduler, RefusesWhatCanNeverFitAndSaysWhatWould) {
  EngineOptions options = tiny_options(2);
  options.cache_tokens = 128;
  const auto engine = open(options);
  Scheduler scheduler(*engine, {});
  const auto refused = scheduler.submit(greedy(counted(100), 30));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), Code::kInvalid);
  EXPECT_NE(refused.status().message().find("--cache-tokens to 192"), std::string::npos)
      << refused.status().message();
  EXPECT_FALSE(scheduler.submit(greedy(counted(300), 1)).ok());  // beyond the context
  EXPECT_FALSE(scheduler.submit(greedy({1, 5000}, 1)).ok());
  Generation hot = greedy({1}, 1);
  hot.options.sampling.temperature = -1;
  EXPECT_FALSE(scheduler.submit(hot).ok());
  Listener fits = ask(scheduler, greedy(counted(100), 29));
  run_all(scheduler, {&fits});
  EXPECT_EQ(fits.answer().ids.size(), 29u);
}

TEST(Scheduler, WaitsForRoomAndPlaces) {
  EngineOptions options = tiny_options(4);
  options.cache_tokens = 256;
  const auto engine = open(options), single = open(options);
  SchedulerOptions scheduling;
  scheduling.queue = 2;
  Scheduler scheduler(*engine, scheduling);
  Listener first = ask(scheduler, greedy(counted(100), 60, "1"));  // 3 of 4 pages
  scheduler.step();
  Listener second = ask(scheduler, greedy(counted(100), 20, "2"));  // 2 pages: must wait
  Listener third = ask(scheduler, greedy(counted(10), 2, "3"));     // 1 page, but came later
  EXPECT_FALSE(*scheduler.submit(greedy(counted(3), 1)));           // the queue is full
  for (int i = 0; i < 5; ++i) scheduler.step();
  second.hear(), third.hear();
  EXPECT_TRUE(second.answer().ids.empty());
  EXPECT_TRUE(third.answer().ids.empty());
  EXPECT_EQ(scheduler.stats().waiting, 2);
  EXPECT_EQ(scheduler.stats().running, 1);
  run_all(scheduler, {&first, &second, &third});
  EXPECT_EQ(second.answer().ids, alone(*single, greedy(counted(100), 20)).ids);
  EXPECT_TRUE(third.answer().done);
  EXPECT_EQ(scheduler.stats().pages_free + scheduler.stats().pages_cached, 4);
}

TEST(Scheduler, PrioritiesGoFirstAndNobodyWaitsForEver) {
  const auto engine = open(tiny_options(1));
  Scheduler scheduler(*engine, {});
  const auto with_priority = [](int priority) {
    Generation g = greedy(counted(5), 1, std::to_string(priority));
    g.priority = priority;
    return g;
  };
  Listener low = ask(scheduler, with_priority(-2));
  Listener normal = ask(scheduler, with_priority(0)), high = ask(scheduler, with_priority(5));
  scheduler.step();
  low.hear(), normal.hear(), high.hear();
  EXPECT_TRUE(high.over() && !normal.over() && !low.over());
  scheduler.step();
  normal.hear(), low.hear();
  EXPECT_TRUE(normal.over() && !low.over());
  // Others of priority 0 keep coming; the lower one has its turn after kPatience of them for each of the two
  // priorities.
  int before = 1 + 1;  // the two above
  while (!low.over() && before < 50) {
    Listener next = ask(scheduler, with_priority(0));
    scheduler.step();
    low.hear(), next.hear();
    if (!next.over()) break;
    ++before;
  }
  EXPECT_TRUE(low.over());
  EXPECT_LE(before, 2 * kPatience + 1);
  Generation beyond = greedy(counted(5), 1);
  beyond.priority = 17;
  EXPECT_FALSE(scheduler.submit(beyond).ok());
}

TEST(Scheduler, CancelsWithinAStep) {
  const auto engine = open(tiny_options(2));
  Scheduler scheduler(*engine, small_chunks());
  Listener decoding = ask(scheduler, greedy(counted(10), 200)),
           reading = ask(scheduler, greedy(counted(240, 3), 5));
  Listener waiting = ask(scheduler, greedy(counted(10, 4), 5));
  for (int i = 0; i < 3; ++i) scheduler.step();
  for (Listener* l : {&decoding, &reading, &waiting}) {
    l->hear();
    EXPECT_FALSE(l->over());
    l->cancel();
  }
  const SchedulerStep after = scheduler.step();
  for (Listener* l : {&decoding, &reading, &waiting}) {
    l->hear();
    EXPECT_TRUE(l->over());
    EXPECT_EQ(l->status().code(), Code::kCancelled);
  }
  EXPECT_TRUE(after.idle);
  EXPECT_EQ(after.answers, 0);
  EXPECT_EQ(after.prompt_tokens, 0);
  EXPECT_TRUE(waiting.answer().ids.empty());
  // What was read stays.
  Listener again = ask(scheduler, greedy(counted(240, 3), 5));
  run_all(scheduler, {&again});
  EXPECT_GT(again.answer().stats.reused_tokens, 0);
  EXPECT_TRUE(again.answer().done);
}

// A fault in any step fails the requests that it was about; what is asked afterwards is answered as ever, and
// no page is lost.
TEST(Scheduler, GoesOnAfterAFaultOfTheDevice) {
  EngineOptions options = tiny_options(3, 224);
  options.model = with_tokenizer("qwen3_moe_int4");
  options.prefill_chunk = 40;
  const auto single = open(options);
  const Generation asked = greedy(counted(120), 6);
  Generation small = asked;
  for (int32_t& id : small.prompts[0]) id %= static_cast<int32_t>(single->config().vocab);
  const Heard want = alone(*single, small);
  options.device = DeviceKind::kSim, options.speeds = speeds(10, 0.001);
  options.device_memory = budget(options, 0.3);
  int faults = 0;
  for (uint64_t piece = 1, step = 1;; piece += step) {
    options.sim_fail_work = piece;
    auto engine = Engine::open(options);
    if (!engine.ok()) continue;
    Scheduler scheduler(**engine, small_chunks(36));
    std::vector<Listener> all;
    for (int i = 0; i < 3; ++i) {
      all.push_back(ask(scheduler, small));
      scheduler.step();
    }
    run_all(scheduler, {&all[0], &all[1], &all[2]});
    int failed = 0;
    for (Listener& l : all) {
      ASSERT_TRUE(l.over());
      failed += !l.status().ok();
      EXPECT_TRUE(!l.status().ok() || l.answer().ids == want.ids) << piece;
    }
    if (failed == 0) break;  // it came to the end before that piece
    ++faults, step = 23;
    Listener after = ask(scheduler, small);
    run_all(scheduler, {&after});
    EXPECT_EQ(after.answer().ids, want.ids) << "after a fault in piece " << piece;
    EXPECT_EQ(after.answer().logprobs, want.logprobs) << "after a fault in piece " << piece;
    const SchedulerStats stats = scheduler.stats();
    EXPECT_EQ(stats.pages_free + stats.pages_cached, stats.pages);
  }
  EXPECT_GT(faults, 10);
}

TEST(Scheduler, EndsWithEverythingCancelled) {
  const auto engine = open(tiny_options(2));
  std::vector<Listener> all;
  {
    Scheduler scheduler(*engine, small_chunks());
    for (int i = 0; i < 4; ++i) all.push_back(ask(scheduler, greedy(counted(20, i), 50)));
    for (int i = 0; i < 3; ++i) scheduler.step();
  }
  for (Listener& l : all) {
    l.hear();
    EXPECT_TRUE(l.over());
    EXPECT_EQ(l.status().code(), Code::kCancelled);
  }
}

}  // namespace
}  // namespace moebius
