// Many clients at once over real HTTP: each gets what it would get alone, or a 429, whoever else hangs up.
#include <gtest/gtest.h>

#include <atomic>
#include <random>

#include "tests/scheduler_runs.h"
#include "tests/test_server.h"

namespace moebius {
namespace {

constexpr int kClients = 12, kRequestsEach = 12, kPrompts = 20;

struct Wanted {
  std::vector<int32_t> prompt;
  int64_t max_tokens = 0;
  std::string text;
};

EngineOptions load_options() {
  EngineOptions options;
  options.model = with_tokenizer("qwen3_moe_int4");
  options.context = kContext, options.threads = 1, options.sessions = 4;
  return options;
}

std::vector<Wanted> wanted_answers(std::mt19937& random) {
  const auto engine = open(load_options());
  const std::vector<int32_t> stem = random_ids(random, 120, engine->config().vocab);
  std::vector<Wanted> all;
  for (int i = 0; i < kPrompts; ++i) {
    Wanted w;
    w.prompt.assign(stem.begin(), stem.begin() + static_cast<int64_t>(random() % 120));
    for (const int32_t id :
         random_ids(random, 1 + static_cast<int64_t>(random() % 80), engine->config().vocab))
      w.prompt.push_back(id);
    w.max_tokens = 1 + static_cast<int64_t>(random() % 40);
    w.text = alone(*engine, greedy(w.prompt, w.max_tokens)).text;
    all.push_back(std::move(w));
  }
  return all;
}

Json request_of(const Wanted& w, bool stream) {
  return {{"prompt", w.prompt},
          {"max_tokens", w.max_tokens},
          {"temperature", 0},
          {"ignore_eos", true},
          {"stream", stream}};
}

std::string streamed_text(const std::string& body) {
  std::string text;
  for (const Json& event : events_of(body)) {
    EXPECT_FALSE(event.contains("error")) << event.dump();
    if (event.contains("choices") && !event["choices"].empty())
      text += event["choices"][0]["text"].get<std::string>();
  }
  return text;
}

struct Counts {
  std::atomic<int> answered = 0, left = 0;
};

// Asks until it is answered; some hang up on the way.
void ask_as_a_client(const TestServer& server, const std::vector<Wanted>& wanted, int number,
                     Counts& counts) {
  std::mt19937 random(static_cast<uint32_t>(number));
  httplib::Client client = server.client();
  for (int i = 0; i < kRequestsEach; ++i) {
    const Wanted& w = wanted[random() % kPrompts];
    const bool stream = random() % 2 == 0, leaves = stream && random() % 4 == 0;
    const std::string body = ApiError::to_text(request_of(w, stream));
    while (true) {
      httplib::Request request;
      request.method = "POST", request.path = "/v1/completions", request.body = body;
      request.set_header("Content-Type", "application/json");
      std::string received;
      request.content_receiver = [&](const char* data, size_t size, uint64_t, uint64_t) {
        received.append(data, size);
        return !leaves || received.size() < 200;
      };
      const httplib::Result result = client.send(request);
      if (leaves && !result) {
        ++counts.left;
        break;
      }
      ASSERT_TRUE(result) << httplib::to_string(result.error());
      if (result->status == 429) {
        ASSERT_FALSE(result->get_header_value("Retry-After").empty());
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        continue;
      }
      ASSERT_EQ(result->status, 200) << received;
      const Json whole = stream ? Json() : Json::parse(received, nullptr, false);
      ASSERT_EQ(stream ? streamed_text(received) : whole["choices"][0]["text"].get<std::string>(), w.text);
      ++counts.answered;
      break;
    }
  }
}

TEST(Load, EveryClientGetsItsOwnAnswer) {
  std::mt19937 random(23);
  const std::vector<Wanted> wanted = wanted_answers(random);
  ServerOptions options;
  options.queue = 2;
  EngineOptions engine = load_options();
  engine.cache_tokens = 1024;
  TestServer server(options, engine);
  Counts counts;
  std::vector<std::thread> clients;
  for (int c = 0; c < kClients; ++c)
    clients.emplace_back([&, c] { ask_as_a_client(server, wanted, c, counts); });
  for (std::thread& t : clients) t.join();
  EXPECT_EQ(counts.answered + counts.left, kClients * kRequestsEach);
  EXPECT_GT(counts.left, 0);
  // Afterwards nothing is left of all that: it answers, and knows the prompt the second time but for a token.
  for (int i = 0; i < 2; ++i) {
    const Json answer = server.ask("/v1/completions", request_of(wanted[0], false));
    EXPECT_EQ(answer["choices"][0]["text"], wanted[0].text);
    if (i == 0) continue;
    EXPECT_EQ(answer["usage"]["prompt_tokens_details"]["cached_tokens"], wanted[0].prompt.size() - 1);
  }
}

}  // namespace
}  // namespace moebius
