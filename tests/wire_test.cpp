// What an answer tells beside its text: how far a prompt is, when to ask again, which slots are taken, and
// that thinking ends where a request says.
#include <gtest/gtest.h>

#include <filesystem>

#include "server/pace.h"
#include "tests/raw_request.h"
#include "tests/test_server.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Json tokens(int n) {
  Json out = Json::array();
  for (int i = 0; i < n; ++i) out.push_back(1 + i % 400);
  return out;
}

// Minutes of work for the tiny model.
Json endless() {
  Json prompts = Json::array();
  for (int i = 0; i < 64; ++i) prompts.push_back({i + 1, 2, 3});
  return {{"prompt", prompts}, {"n", 8}, {"max_tokens", kContext}, {"ignore_eos", true}, {"stream", true}};
}

TEST(Pace, IsTheMeanDistanceOfEnds) {
  Pace pace;
  const auto start = Pace::Clock::now();
  EXPECT_EQ(pace.seconds_to_next(start), 5) << "nothing is known";
  for (int i = 1; i <= 5; ++i) pace.ended(start + seconds(7 * i));
  EXPECT_EQ(pace.seconds_to_next(start + seconds(7 * 6)), 7);
  EXPECT_EQ(pace.seconds_to_next(start + seconds(7 * 6 + 5)), 8) << "it takes longer than it did";
  // What was before the last minute does not count.
  EXPECT_EQ(pace.seconds_to_next(start + seconds(35 + 90)), 90);
  EXPECT_EQ(pace.seconds_to_next(start + seconds(9000)), 120);
  Pace quick;
  for (int i = 0; i < 1000; ++i) quick.ended(start + milliseconds(20 * i));
  EXPECT_EQ(quick.seconds_to_next(start + seconds(20)), 1);
}

TEST(Wire, SaysWhenToAskAgain) {
  ServerOptions options;
  options.queue = 1;
  const TestServer server(options);
  const RawRequest running(server.port(), raw_post("/v1/completions", endless()));
  running.read_until("data: ");
  const RawRequest queued(server.port(), raw_post("/v1/completions", endless()));
  queued.read_until("\r\n\r\n");
  const httplib::Result refused = server.post("/v1/completions", {{"prompt", "a"}});
  ASSERT_EQ(refused->status, 429);
  EXPECT_EQ(refused->get_header_value("Retry-After"), "5") << "no answer has ended yet";
  EXPECT_EQ(server.client().Get("/ready")->get_header_value("Retry-After"), "5");
  EXPECT_FALSE(server.post("/v1/completions", {{"prompt", 5}})->has_header("Retry-After"));
}

// A device so slow that each part of a prompt takes tens of milliseconds.
EngineOptions slow_device() {
  EngineOptions options;
  options.device = DeviceKind::kSim;
  options.device_GBs = 0.02;
  options.prefill_chunk = 64;
  return options;
}

TEST(Wire, TellsHowFarThePromptIs) {
  const TestServer server({}, slow_device());
  constexpr int kTokens = 400;
  const auto progress = [&](const std::string& path, Json body) {
    body.update({{"stream", true}, {"max_tokens", 2}, {"ignore_eos", true}, {"return_progress", true}});
    std::vector<Json> told;
    bool text = false;
    for (const Json& event : events_of(server.post(path, body)->body)) {
      if (!event.contains("prompt_progress")) {
        text = true;
        continue;
      }
      EXPECT_FALSE(text) << "after the first token";
      EXPECT_EQ(event["choices"].size(), 1u);
      EXPECT_TRUE(event["choices"][0]["finish_reason"].is_null());
      told.push_back(event["prompt_progress"]);
    }
    return told;
  };
  const std::vector<Json> first = progress("/v1/completions", {{"prompt", tokens(kTokens)}});
  ASSERT_GE(first.size(), 3u);
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i]["total"], kTokens);
    EXPECT_EQ(first[i]["cache"], 0);
    if (i == 0) continue;
    EXPECT_GT(first[i]["processed"], first[i - 1]["processed"]);
    EXPECT_GE(first[i]["time_ms"], first[i - 1]["time_ms"]);
  }
  EXPECT_LT(first.front()["processed"], kTokens);
  EXPECT_EQ(first.back()["processed"], kTokens);
  EXPECT_GT(first.back()["time_ms"], 0);
  const std::vector<Json> again = progress("/v1/completions", {{"prompt", tokens(kTokens)}});
  ASSERT_GE(again.size(), 1u);
  EXPECT_GT(again.back()["cache"], kTokens / 2);
  EXPECT_EQ(again.back()["processed"], kTokens);

  const Json chat = {{"messages", Json::array({{{"role", "user"}, {"content", std::string(150, 'x')}}})}};
  const std::vector<Json> of_chat = progress("/v1/chat/completions", chat);
  ASSERT_GE(of_chat.size(), 1u);
  EXPECT_EQ(of_chat.back()["processed"], of_chat.back()["total"]);
  // Nobody is told who did not ask.
  Json quiet = {{"prompt", tokens(50)}, {"stream", true}, {"max_tokens", 1}};
  EXPECT_EQ(server.post("/v1/completions", quiet)->body.find("prompt_progress"), std::string::npos);
}

TEST(Wire, ShowsTheSlots) {
  const TestServer server;
  const auto slots = [&] { return Json::parse(server.client().Get("/slots")->body); };
  EXPECT_EQ(slots(), Json::parse(R"([{"is_processing":false,"id":0},{"is_processing":false,"id":1}])"));
  const RawRequest running(server.port(), raw_post("/v1/completions", endless()));
  running.read_until("data: ");
  const Json taken = slots()[0];
  EXPECT_EQ(taken["is_processing"], true);
  EXPECT_EQ(taken["route"], "/v1/completions");
  EXPECT_EQ(taken["n_ctx"], kContext);
  EXPECT_EQ(taken["n_prompt_tokens"], 64 * 3);
  EXPECT_GE(taken["n_decoded"], 1);
  EXPECT_TRUE(taken["id_task"].get<std::string>().starts_with("req_"));
  ServerOptions keyed;
  keyed.api_keys = {"k"};
  keyed.admin_keys = {"root"};
  const TestServer locked(keyed);
  const auto status = [&](const char* key) {
    return locked.client().Get("/slots", {{"Authorization", std::string("Bearer ") + key}})->status;
  };
  EXPECT_EQ(status("k"), 403);
  EXPECT_EQ(status("root"), 200);
}

TEST(Wire, CountsUnderTheNamesOfOthers) {
  const TestServer server;
  server.ask("/v1/completions", {{"prompt", tokens(40)}, {"max_tokens", 5}, {"ignore_eos", true}});
  std::string text;  // as of the last step, which ends after the answer is sent
  for (int i = 0; i < 100 && text.find("\nllamacpp:requests_processing 0\n") == std::string::npos; ++i)
    text = server.client().Get("/metrics")->body;
  for (const char* line :
       {"\nllamacpp:prompt_tokens_total 40\n", "\nllamacpp:tokens_predicted_total 5\n",
        "\nllamacpp:requests_processing 0\n", "\nllamacpp:requests_deferred 0\n",
        "\nllamacpp:kv_cache_usage_ratio 0\n", "\nvllm:kv_cache_usage_perc{model_name=\"tiny\"} 0\n",
        "\nvllm:request_queue_time_seconds_count{model_name=\"tiny\"} 1\n"})
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
  const RawRequest running(server.port(), raw_post("/v1/completions", endless()));
  running.read_until("data: ");
  double used = 0;  // as of the last step
  for (int i = 0; used == 0 && i < 100; ++i) {
    const std::string busy = server.client().Get("/metrics")->body;
    used = std::stod(busy.substr(busy.find("\nllamacpp:kv_cache_usage_ratio ") + 31));
  }
  EXPECT_GT(used, 0);
  EXPECT_LE(used, 1);
}

// The tiny model with two of its tokens renamed, so that it thinks from the first token on.
std::string thinking_model(const process::Scratch& scratch) {
  const std::string folder = scratch.file("thinking");
  std::filesystem::copy(kModel, folder);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    std::string text = process::read_file(folder + "/" + name);
    for (const auto& [from, to] :
         {std::pair{"<|im_system|>", "<think>"}, std::pair{"<|im_middle|>", "</think>"}})
      for (size_t at; (at = text.find(from)) != std::string::npos;)
        text.replace(at, std::string(from).size(), to);
    scratch.write(std::string("thinking/") + name, text);
  }
  scratch.write("thinking/chat_template.jinja", "{{ messages[0].content }}<think>");
  return folder;
}

TEST(Wire, ThinkingEndsWhereTheRequestSays) {
  const process::Scratch scratch;
  EngineOptions engine;
  engine.model = thinking_model(scratch);
  const TestServer server({}, engine);
  const Json messages = Json::array({{{"role", "user"}, {"content", "Hello"}}});
  const auto chat = [&](Json more) {
    Json body = {{"messages", messages}, {"temperature", 0}, {"max_tokens", 40}, {"ignore_eos", true}};
    body.update(more);
    return server.ask("/v1/chat/completions", body);
  };
  const auto reasoning = [](const Json& answer) {
    return answer["usage"]["completion_tokens_details"]["reasoning_tokens"].get<int64_t>();
  };
  const Json unlimited = chat(Json::object());
  ASSERT_GT(reasoning(unlimited), 20) << "it thinks on by itself\n" << unlimited;
  for (const char* name : {"thinking_budget_tokens", "thinking_budget", "thinking_token_budget"}) {
    const Json limited = chat({{name, 7}});
    EXPECT_GE(reasoning(limited), 7) << name << limited;
    EXPECT_LE(reasoning(limited), 8) << name << limited;  // with the token that ends it
    EXPECT_FALSE(limited["choices"][0]["message"]["content"].get<std::string>().empty()) << limited;
  }
  EXPECT_LE(reasoning(chat({{"reasoning_effort", "none"}})), 1);

  const Json response = server.ask("/v1/responses", {{"input", "Hello"},
                                                     {"temperature", 0},
                                                     {"max_output_tokens", 40},
                                                     {"reasoning", {{"max_tokens", 7}}}});
  const int64_t thought = response["usage"]["output_tokens_details"]["reasoning_tokens"].get<int64_t>();
  EXPECT_TRUE(thought == 7 || thought == 8) << response;
  const Json message = server.ask("/v1/messages", {{"model", "tiny"},
                                                   {"messages", messages},
                                                   {"temperature", 0},
                                                   {"max_tokens", 40},
                                                   {"thinking", {{"type", "disabled"}}}});
  EXPECT_EQ(message["content"][0]["type"], "text") << message;
}

}  // namespace
}  // namespace moebius
