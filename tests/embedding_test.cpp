// Embeddings: the means of hidden states that transformers has, whatever else is computed, and over HTTP.
#include <fmt/format.h>

#include "tests/adapter_cases.h"
#include "tests/scheduler_runs.h"
#include "tests/test_server.h"

namespace moebius {
namespace {

struct Known {
  size_t tokens;
  std::vector<float> embedding;
};

std::vector<Known> golden_of(const std::string& model) {
  auto text = read_text_file("tests/golden/embeddings.json", 1 << 20);
  MOEBIUS_CHECK(text.ok(), text.status().message());
  const auto json = nlohmann::json::parse(*text);
  std::vector<Known> all;
  for (const auto& one : json[model]) all.push_back({one["tokens"], one["embedding"]});
  return all;
}

std::vector<float> unit(std::vector<float> v) {
  double squares = 0;
  for (const float x : v) squares += static_cast<double>(x) * static_cast<double>(x);
  for (float& x : v) x = static_cast<float>(x / std::sqrt(squares));
  return v;
}

Generation embed(std::vector<std::vector<int32_t>> prompts) {
  Generation generation;
  generation.prompts = std::move(prompts);
  generation.embed = true;
  return generation;
}

// Of all prompts of a ticket that is over.
std::vector<std::vector<float>> embeddings_of(Ticket& ticket) {
  std::vector<std::vector<float>> all;
  while (const auto event = ticket.next(std::chrono::milliseconds(0))) {
    EXPECT_NE(event->kind, GenerationEvent::Kind::kFailed) << event->status.message();
    if (event->kind != GenerationEvent::Kind::kChoiceDone) continue;
    all.resize(std::max(all.size(), static_cast<size_t>(event->choice) + 1));
    all[static_cast<size_t>(event->choice)] = event->embedding;
  }
  return all;
}

class Embedding : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, Embedding,
                         testing::Values("deepseek_v3_tiny", "deepseek_v2_lite", "qwen3_moe", "glm4_moe"),
                         [](const auto& at) { return std::string(at.param); });

// In parts of a prompt, beside answers on their way, twice so that a cache could be used, and on a device
// that streams long prompts.
TEST_P(Embedding, IsWhatTransformersHas) {
  const std::vector<int32_t> ids = adapters::read_golden(adapters::kModels + GetParam()).ids;
  for (const bool device : {false, true}) {
    EngineOptions options = options_for(GetParam());
    options.cache = CacheType::kF32, options.sessions = 2, options.model = with_tokenizer(GetParam());
    if (device) options.device = DeviceKind::kSim, options.speeds = speeds(100, 1);
    if (device) options.device_memory = budget(options, 0.4);
    const auto engine = open(options);
    Scheduler scheduler(*engine, {.busy_chunk = 17});
    std::vector<std::vector<int32_t>> prompts;
    const std::vector<Known> golden = golden_of(GetParam());
    for (const Known& known : golden)
      prompts.emplace_back(ids.begin(), ids.begin() + static_cast<long>(known.tokens));
    for (int time = 0; time < 2; ++time) {
      Listener answer = ask(scheduler, greedy({1, 2, 3}, 20));
      const auto ticket = scheduler.submit(embed(prompts));
      ASSERT_TRUE(ticket.ok() && *ticket) << ticket.status().message();
      run_all(scheduler, {&answer});
      EXPECT_EQ(answer.answer().ids.size(), 20);
      const auto all = embeddings_of(**ticket);
      ASSERT_EQ(all.size(), golden.size());
      for (size_t i = 0; i < all.size(); ++i)
        EXPECT_LE(adapters::relative_error(unit(all[i]), golden[i].embedding), adapters::kFloat32Bound)
            << golden[i].tokens << " tokens";
    }
  }
}

// Decoded in two groups, a single token of a prompt goes with the second: a whole prompt, or what is left of
// one.
TEST(Embeddings, AreTheSameInTheSecondOfTwoGroups) {
  EngineOptions options = options_for("");
  options.model = with_tokenizer("qwen3_moe_int4"), options.sessions = 2;
  const std::vector<std::vector<int32_t>> prompts = {{5}, std::vector<int32_t>(18, 7)};
  const auto embeddings = [&](bool expect_two_groups) {
    const auto engine = open(options);
    EXPECT_EQ(engine->plan() && engine->plan()->two_groups_from == 2, expect_two_groups);
    Scheduler scheduler(*engine, {.busy_chunk = 17});
    Listener answer = ask(scheduler, greedy({1, 2, 3}, 30));
    while (answer.answer().ids.empty()) scheduler.step(), answer.hear();
    const auto ticket = scheduler.submit(embed(prompts));
    MOEBIUS_CHECK(ticket.ok() && *ticket);
    run_all(scheduler, {&answer});
    return embeddings_of(**ticket);
  };
  const auto want = embeddings(false);
  options.device = DeviceKind::kSim, options.device_memory = least_budget(options);
  options.speeds = speeds_for_two_groups(options);
  const auto got = embeddings(true);
  ASSERT_EQ(got.size(), prompts.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], want[i]) << prompts[i].size() << " tokens";
}

TEST(Embeddings, FillTheContextAndGiveTheirPagesBack) {
  EngineOptions options = options_for("");
  options.model = with_tokenizer("deepseek_v3_int4");
  const auto engine = open(options);
  Scheduler scheduler(*engine, {});
  const std::vector<int32_t> full(static_cast<size_t>(engine->options().context), 7);
  for (int i = 0; i < 3; ++i) {
    const auto ticket = scheduler.submit(embed({full, full}));
    ASSERT_TRUE(ticket.ok() && *ticket) << ticket.status().message();
    run_all(scheduler, {});
    EXPECT_EQ(embeddings_of(**ticket).size(), 2);
  }
  Listener answer = ask(scheduler, greedy({1, 2, 3}, 30));  // which needs a whole context's pages
  run_all(scheduler, {&answer});
  EXPECT_TRUE(answer.answer().done);
}

std::vector<float> floats_of(const std::string& base64) {
  const std::string alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : base64) {
    if (c == '=') break;
    bits = bits << 6 | static_cast<uint32_t>(alphabet.find(c)), count += 6;
    if (count >= 8) bytes.push_back(static_cast<char>(bits >> (count -= 8) & 255));
  }
  std::vector<float> numbers(bytes.size() / sizeof(float));
  std::memcpy(numbers.data(), bytes.data(), numbers.size() * sizeof(float));
  return numbers;
}

TEST(Embeddings, HaveOpenAisShapeOverHttp) {
  const TestServer server;
  const Json one = server.ask("/v1/embeddings", {{"input", "hello"}, {"model", "tiny"}});
  EXPECT_EQ(one["object"], "list");
  EXPECT_EQ(one["model"], "tiny");
  ASSERT_EQ(one["data"].size(), 1);
  EXPECT_EQ(one["data"][0]["object"], "embedding");
  EXPECT_GT(one["usage"]["prompt_tokens"], 0);
  EXPECT_EQ(one["usage"]["prompt_tokens"], one["usage"]["total_tokens"]);
  const std::vector<float> vector = one["data"][0]["embedding"];
  double squares = 0;
  for (const float x : vector) squares += static_cast<double>(x) * static_cast<double>(x);
  EXPECT_NEAR(squares, 1, 1e-5);
  const Json two =
      server.ask("/v1/embeddings", {{"input", {"other", "hello"}}, {"encoding_format", "base64"}});
  ASSERT_EQ(two["data"].size(), 2);
  EXPECT_EQ(two["data"][1]["index"], 1);
  EXPECT_EQ(floats_of(two["data"][1]["embedding"]), vector);
  EXPECT_NE(floats_of(two["data"][0]["embedding"]), vector);
}

TEST(Embeddings, RefuseWhatCannotBe) {
  const TestServer server;
  const auto refused = [&](const Json& body, const char* param) {
    const httplib::Result result = server.post("/v1/embeddings", body);
    ASSERT_TRUE(result);
    EXPECT_EQ(result->status, 400) << result->body;
    EXPECT_EQ(Json::parse(result->body)["error"]["param"], param) << result->body;
  };
  refused(Json::object(), "input");
  refused({{"input", Json::array()}}, "input");
  refused({{"input", Json::array({1, "a"})}}, "input");
  refused({{"input", "a"}, {"encoding_format", "int8"}}, "encoding_format");
  refused({{"input", "a"}, {"dimensions", 3}}, "dimensions");
  refused({{"input", std::vector<int>(kContext + 1, 5)}}, "input");
  server.ask("/v1/embeddings", {{"input", std::vector<int>(kContext, 5)}});
}

}  // namespace
}  // namespace moebius
