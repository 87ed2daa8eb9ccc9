// The engine's door: sessions, generation, limits and errors, on the tiny model with a tokenizer.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "engine/forward.h"

namespace moebius {
namespace {

const std::string kTiny = "tests/golden/models/deepseek_v3_tiny";

std::unique_ptr<Engine> open_tiny(int64_t context = 256) {
  EngineOptions options;
  options.model = kTiny;
  options.context = context;
  options.threads = 2;
  auto engine = Engine::open(options);
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return engine.ok() ? std::move(*engine) : nullptr;
}

GenerateOptions greedy(int64_t max_tokens) {
  GenerateOptions options;
  options.sampling.temperature = 0;
  options.max_tokens = max_tokens;
  options.ignore_eos = true;
  return options;
}

struct Answer {
  GenerateStats stats;
  std::string text;
  std::vector<int32_t> ids;
};

Answer answer(Engine& engine, Session& session, std::span<const int32_t> prompt,
              const GenerateOptions& options) {
  Answer a;
  auto stats = engine.generate(session, prompt, options, [&](const Piece& piece) {
    a.text += piece.text;
    if (piece.id >= 0) a.ids.push_back(piece.id);
    return true;
  });
  EXPECT_TRUE(stats.ok()) << stats.status().message();
  if (stats.ok()) a.stats = *stats;
  return a;
}

const std::vector<int32_t> kPrompt = {505, 72, 101, 108, 108, 111};

TEST(Engine, SameSeedSameAnswer) {
  const auto engine = open_tiny();
  GenerateOptions options = greedy(40);
  options.sampling.temperature = 1;
  options.sampling.seed = 7;
  auto one = engine->new_session();
  auto two = engine->new_session();
  const Answer a = answer(*engine, **one, kPrompt, options);
  EXPECT_EQ(a.ids.size(), 40u);
  EXPECT_EQ(a.stats.finish, FinishReason::kLength);
  EXPECT_EQ(answer(*engine, **two, kPrompt, options).ids, a.ids);
  options.sampling.seed = 8;
  EXPECT_NE(answer(*engine, **two, kPrompt, options).ids, a.ids);
}

TEST(Engine, PiecesJoinToTheDecodedAnswer) {
  const auto engine = open_tiny();
  auto session = engine->new_session();
  const Answer a = answer(*engine, **session, kPrompt, greedy(60));
  const auto text = engine->tokenizer().decode(a.ids, /*skip_special=*/true);
  ASSERT_TRUE(text.ok());
  std::string clean;  // bytes that are no character come out as U+FFFD
  StreamDecoder decoder(engine->tokenizer());
  for (int32_t id : a.ids) clean += decoder.push(id);
  clean += decoder.finish();
  EXPECT_EQ(a.text, clean);
}

TEST(Engine, StopsBeforeAStopStringWhereverItBegins) {
  const auto engine = open_tiny();
  auto session = engine->new_session();
  const std::string full = answer(*engine, **session, kPrompt, greedy(60)).text;
  ASSERT_GT(full.size(), 12u);
  for (size_t begin = 1; begin + 4 < full.size(); begin += 3) {
    GenerateOptions options = greedy(60);
    options.stop = {"not in the answer at all", full.substr(begin, 4)};
    const Answer a = answer(*engine, **session, kPrompt, options);
    EXPECT_EQ(a.text, full.substr(0, full.find(options.stop[1])));
    EXPECT_EQ(a.stats.finish, FinishReason::kStop);
    EXPECT_EQ(a.stats.matched_stop, options.stop[1]);
  }
}

TEST(Engine, TheNextTurnReusesPromptAndAnswer) {
  const auto engine = open_tiny();
  auto session = engine->new_session();
  const Answer first = answer(*engine, **session, kPrompt, greedy(10));
  std::vector<int32_t> turn = kPrompt;
  turn.insert(turn.end(), first.ids.begin(), first.ids.end());
  turn.push_back(65);
  const Answer second = answer(*engine, **session, turn, greedy(5));
  // The last token of an answer is sampled but never fed.
  EXPECT_EQ(second.stats.reused_tokens, static_cast<int64_t>(turn.size()) - 2);
  auto fresh = engine->new_session();
  EXPECT_EQ(answer(*engine, **fresh, turn, greedy(5)).ids, second.ids);
}

TEST(Engine, EndsWhereTheContextEnds) {
  const auto engine = open_tiny(32);
  auto session = engine->new_session();
  const Answer a = answer(*engine, **session, kPrompt, greedy(-1));
  EXPECT_EQ(a.stats.finish, FinishReason::kLength);
  EXPECT_EQ((*session)->tokens().size(), 32u);
  EXPECT_EQ(a.ids.size(), 32u - kPrompt.size() + 1);
}

TEST(Engine, CancelsBetweenTokensAndBeforeThePrompt) {
  const auto engine = open_tiny();
  auto session = engine->new_session();
  int pieces = 0;
  auto stats = engine->generate(**session, kPrompt, greedy(50), [&](const Piece&) { return ++pieces < 3; });
  ASSERT_TRUE(stats.ok());
  EXPECT_EQ(stats->finish, FinishReason::kCancelled);
  EXPECT_EQ(pieces, 3);
  std::vector<int32_t> other(kPrompt.rbegin(), kPrompt.rend());
  stats = engine->generate(**session, other, greedy(5), {}, [](int64_t, int64_t) { return false; });
  ASSERT_TRUE(stats.ok());
  EXPECT_EQ(stats->finish, FinishReason::kCancelled);
}

TEST(Engine, RefusesWhatDoesNotFit) {
  const auto engine = open_tiny(32);
  auto session = engine->new_session();
  const std::vector<int32_t> longer(33, 65);
  Status status = (*session)->sync(longer);
  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_NE(status.message().find("--ctx-size"), std::string::npos);
  for (const int32_t id : {-1, 512, INT32_MAX}) {
    status = (*session)->sync({{id}});
    EXPECT_EQ(status.code(), Code::kInvalid) << id;
    EXPECT_NE(status.message().find(std::to_string(id)), std::string::npos);
  }
  EXPECT_EQ((*session)->sync({}).code(), Code::kInvalid);
  EXPECT_TRUE((*session)->sync(kPrompt).ok());  // still usable
}

TEST(Engine, RefusesAContextBeyondTheModel) {
  EngineOptions options;
  options.model = kTiny;
  options.context = 1 << 20;
  const auto engine = Engine::open(options);
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.status().message().find("--ctx-size"), std::string::npos);
}

TEST(Engine, RefusesASavedSessionOfAnotherModel) {
  const auto engine = open_tiny();
  EngineOptions options;
  options.model = "tests/golden/models/deepseek_v3_bf16";
  auto other = Engine::open(options);
  ASSERT_TRUE(other.ok()) << other.status().message();
  auto session = engine->new_session();
  auto foreign = (*other)->new_session();
  ASSERT_TRUE((*session)->sync(kPrompt).ok());
  const std::string path = testing::TempDir() + "/moebius_foreign_session";
  ASSERT_TRUE((*session)->save(path).ok());
  const Status status = (*foreign)->restore(path);
  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_NE(status.message().find("not a session of this model"), std::string::npos);
  std::filesystem::remove(path);
}

TEST(Engine, RendersTheModelsOwnTemplate) {
  const auto engine = open_tiny();
  const auto prompt = engine->render_chat({{"messages", {{{"role", "user"}, {"content", "Hi"}}}}});
  ASSERT_TRUE(prompt.ok()) << prompt.status().message();
  EXPECT_NE(prompt->find("<|im_user|>user<|im_middle|>Hi<|im_end|>"), std::string::npos) << *prompt;
  EXPECT_TRUE(prompt->ends_with("<|im_assistant|>assistant<|im_middle|>")) << *prompt;
}

TEST(Engine, SaysThatAModelHasNoTemplate) {
  EngineOptions options;
  options.model = "tests/golden/models/qwen3_moe";
  auto engine = Engine::open(options);
  ASSERT_TRUE(engine.ok());
  const auto prompt = (*engine)->render_chat({{"messages", nlohmann::ordered_json::array()}});
  ASSERT_FALSE(prompt.ok());
  EXPECT_NE(prompt.status().message().find("no chat template"), std::string::npos);
}

TEST(Engine, SaysThatTheWeightsAreRandom) {
  const auto engine = open_tiny();
  EXPECT_TRUE(std::ranges::any_of(
      engine->notes(), [](const std::string& note) { return note.find("random") != std::string::npos; }));
}

TEST(Engine, TwoEnginesInOneProcess) {
  const auto one = open_tiny();
  const auto two = open_tiny();
  auto a = one->new_session();
  auto b = two->new_session();
  EXPECT_EQ(answer(*one, **a, kPrompt, greedy(8)).ids, answer(*two, **b, kPrompt, greedy(8)).ids);
}

TEST(Engine, OneSessionDoesNotDisturbAnother) {
  const auto engine = open_tiny();
  auto a = engine->new_session();
  auto b = engine->new_session();
  const Answer alone = answer(*engine, **a, kPrompt, greedy(12));
  ASSERT_TRUE((*a)->sync(kPrompt).ok());
  const std::vector<int32_t> other = {505, 90, 91, 92};
  std::vector<int32_t> ids;
  ASSERT_TRUE((*b)->sync(other).ok());
  for (int i = 0; i < 12; ++i) {
    const auto logits = (*a)->logits();
    ids.push_back(static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin()));
    ASSERT_TRUE((*b)->append(65 + i).ok());
    ASSERT_TRUE((*a)->append(ids.back()).ok());
  }
  EXPECT_EQ(ids, alone.ids);
}

// Sequences of different lengths in one pass, one of them going on after its prompt, get to the bit what each
// gets alone: the attention of every sequence is its own, and rows of integer formats do not depend on their
// company (design rule 6).
TEST(Forward, SequencesInOnePassGetWhatEachGetsAlone) {
  for (const char* name : {"deepseek_v3_int8", "qwen3_moe_int4", "glm4_moe_lite_int4_g64"}) {
    auto files = ModelFiles::open(std::string("tests/golden/models/") + name);
    ASSERT_TRUE(files.ok()) << files.status().message();
    const ModelConfig& config = (*files)->config();
    const auto backend = make_host_backend({.threads = 2});
    const RotaryTable rotary = rotary_table(config.rotary);
    const Model model{config, (*files)->weights(), rotary, *backend};
    auto cache = KvCache::create(config, DType::kBF16, 512, *backend);
    auto memory = WorkspaceMemory::create(config, 64, *backend);
    ASSERT_TRUE(cache.ok() && memory.ok());
    PageTable alone, together, other;
    for (PageTable* table : {&alone, &together, &other}) ASSERT_TRUE(cache->reserve(*table, 0, 80).ok());

    const auto run = [&](std::vector<int32_t> ids, std::vector<Segment> segments) {
      const Workspace ws = memory->view(static_cast<int64_t>(ids.size()));
      forward(model, {ids, segments}, *cache, ws);
      return std::vector<float>(ws.x.f32(), ws.x.f32() + ws.x.numel());
    };
    std::vector<int32_t> first(30), second(7);
    for (size_t i = 0; i < first.size(); ++i) first[i] = static_cast<int32_t>(i * 5 % 100);
    for (size_t i = 0; i < second.size(); ++i) second[i] = static_cast<int32_t>(90 - i);
    const std::vector<float> prompt = run(first, {{&alone, 0, 30, 0}});
    const std::vector<float> next = run({17}, {{&alone, 0, 1, 30}});

    std::vector<int32_t> both = second;
    both.insert(both.end(), first.begin(), first.end());
    const std::vector<float> mixed = run(both, {{&other, 0, 7, 0}, {&together, 7, 30, 0}});
    EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), mixed.begin() + 7 * config.hidden)) << name;
    const std::vector<float> steps = run({17, 33}, {{&together, 0, 1, 30}, {&other, 1, 1, 7}});
    EXPECT_TRUE(std::equal(next.begin(), next.end(), steps.begin())) << name;
  }
}

}  // namespace
}  // namespace moebius
