// The router, metrics, and the routes that turn text into tokens and back.
#include <gtest/gtest.h>

#include "server/metrics.h"
#include "server/page.h"
#include "server/router.h"
#include "tests/test_server.h"

namespace moebius {
namespace {

std::vector<std::string> matched(std::string_view pattern, std::string_view path) {
  std::vector<std::string> arguments;
  if (!match_pattern(pattern, path, arguments)) return {"no"};
  return arguments;
}

TEST(Router, MatchesPatterns) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(matched("/", "/"), Names{});
  EXPECT_EQ(matched("/health", "/health"), Names{});
  EXPECT_EQ(matched("/v1/r/{id}", "/v1/r/abc"), Names{"abc"});
  EXPECT_EQ(matched("/v1/r/{id}/cancel", "/v1/r/abc/cancel"), Names{"abc"});
  EXPECT_EQ(matched("/v1/models/{id*}", "/v1/models/org/name"), Names{"org/name"});
  const std::vector<std::pair<const char*, const char*>> differ = {{"/health", "/health/"},
                                                                   {"/health", "/healthy"},
                                                                   {"/health", "health"},
                                                                   {"/health", ""},
                                                                   {"/v1/r/{id}", "/v1/r/"},
                                                                   {"/v1/r/{id}", "/v1/r"},
                                                                   {"/v1/r/{id}", "/v1/r/a/b"},
                                                                   {"/v1/r/{id}", "/v1//a"},
                                                                   {"/v1/r/{id}/c", "/v1/r/a/d"},
                                                                   {"/v1/models/{id*}", "/v1/models/"},
                                                                   {"/", "//"},
                                                                   {"/a/b", "/a"}};
  for (const auto& [pattern, path] : differ)
    EXPECT_EQ(matched(pattern, path), Names{"no"}) << pattern << " " << path;
}

TEST(Router, SaysWhichMethodsAPathTakes) {
  Router router;
  std::string called;
  router.get("/r/{id}", [&](Exchange&) { called = "get"; });
  router.add({"DELETE", "/r/{id}", [&](Exchange&) { called = "delete"; }});
  EXPECT_EQ(router.find("POST", "/r/a").route, nullptr);
  EXPECT_EQ(router.find("POST", "/r/a").allowed, "GET, DELETE");
  EXPECT_EQ(router.find("GET", "/s").allowed, "");
  EXPECT_EQ(router.find("HEAD", "/r/a").route, router.find("GET", "/r/a").route);
  EXPECT_EQ(router.find("DELETE", "/r/a").arguments, std::vector<std::string>{"a"});
}

// The value of the sample whose line begins so.
double sample(const std::string& text, const std::string& name) {
  const size_t at = ("\n" + text).find("\n" + name + " ");
  if (at == std::string::npos) return -1;
  return std::stod(text.substr(at + name.size()));
}

TEST(Metrics, AreWrittenForPrometheus) {
  Metrics metrics("m", "1.2");
  metrics.count_request("GET", "/v1/models/{id*}", 404);
  metrics.first_token(0.03);
  metrics.next_token(0.004);
  metrics.next_token(1e6);
  Usage usage;
  usage.prompt = 10, usage.completion = 3, usage.cached = 4;
  metrics.ended(usage, "stop", false, 2);
  metrics.ended(usage, "timeout", true, 9);
  LayerUse use;
  use.device_slots = 6, use.host_slots = 2, use.skipped_slots = 1, use.moved_bytes = 77;
  SchedulerStats now;
  now.running = 2, now.waiting = 5, now.pages = 8, now.pages_committed = 2;
  const std::string text = metrics.text(now, {LayerUse(), use}, {});
  EXPECT_EQ(
      sample(text, R"(moebius_http_requests_total{method="GET",route="/v1/models/{id*}",status="404"})"), 1);
  EXPECT_EQ(sample(text, R"(vllm:num_requests_running{model_name="m"})"), 2) << text;
  EXPECT_EQ(sample(text, R"(vllm:num_requests_waiting{model_name="m"})"), 5);
  EXPECT_EQ(sample(text, R"(vllm:kv_cache_usage_perc{model_name="m"})"), 0.25);
  EXPECT_EQ(sample(text, "llamacpp:kv_cache_usage_ratio"), 0.25);
  EXPECT_EQ(sample(text, "llamacpp:requests_deferred"), 5);
  EXPECT_EQ(sample(text, R"(vllm:prompt_tokens_total{model_name="m"})"), 20);
  EXPECT_EQ(sample(text, R"(vllm:generation_tokens_total{model_name="m"})"), 6);
  EXPECT_EQ(sample(text, R"(vllm:prefix_cache_hits_total{model_name="m"})"), 8);
  EXPECT_EQ(sample(text, R"(vllm:request_success_total{finished_reason="stop",model_name="m"})"), 1);
  EXPECT_EQ(sample(text, R"(moebius_request_failures_total{finished_reason="timeout",model_name="m"})"), 1);
  EXPECT_EQ(sample(text, R"(vllm:time_to_first_token_seconds_bucket{model_name="m",le="0.05"})"), 1);
  EXPECT_EQ(sample(text, R"(vllm:time_to_first_token_seconds_bucket{model_name="m",le="0.02"})"), 0);
  EXPECT_EQ(sample(text, R"(vllm:inter_token_latency_seconds_bucket{model_name="m",le="600"})"), 1);
  EXPECT_EQ(sample(text, R"(vllm:inter_token_latency_seconds_count{model_name="m"})"), 2);
  EXPECT_EQ(sample(text, R"(moebius_expert_slots_total{layer="1",where="device"})"), 6);
  EXPECT_EQ(sample(text, R"(moebius_expert_slots_total{layer="1",where="skipped"})"), 1);
  EXPECT_EQ(sample(text, R"(moebius_expert_bytes_total{layer="1",where="moved"})"), 77);
  EXPECT_EQ(text.find(R"(layer="0")"), std::string::npos);
}

TEST(Metrics, CountSkippedSlotsOnTheHostToo) {
  ExpertLayer idle, busy;
  idle.layer = 1, idle.chosen = {0, 0};
  busy.layer = 2, busy.chosen = {3, 4}, busy.skipped = 5;
  const std::string text = Metrics("m", "1.2").text({}, {}, {idle, busy});
  EXPECT_EQ(sample(text, R"(moebius_expert_slots_total{layer="2",where="host"})"), 7) << text;
  EXPECT_EQ(sample(text, R"(moebius_expert_slots_total{layer="2",where="skipped"})"), 5);
  EXPECT_EQ(text.find(R"(layer="1")"), std::string::npos);
}

TEST(Metrics, CountWhatTheServerDid) {
  TestServer server;
  const Json answer =
      server.ask("/v1/completions", {{"prompt", "Hello"}, {"n", 2}, {"max_tokens", 5}, {"ignore_eos", true}});
  server.post("/v1/completions", {{"prompt", 5}});
  server.client().Get("/nowhere");
  // Requests are counted once their answer is sent.
  httplib::Result got = server.client().Get("/metrics");
  for (int i = 0; i < 100 && got->body.find("route=\"other\"") == std::string::npos; ++i)
    got = server.client().Get("/metrics");
  EXPECT_EQ(got->get_header_value("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
  const std::string& text = got->body;
  const std::string route = R"(moebius_http_requests_total{method="POST",route="/v1/completions",status=)";
  EXPECT_EQ(sample(text, route + "\"200\"}"), 1) << text;
  EXPECT_EQ(sample(text, route + "\"400\"}"), 1);
  EXPECT_EQ(sample(text, R"(moebius_http_requests_total{method="other",route="other",status="404"})"), 1);
  EXPECT_EQ(sample(text, R"(vllm:generation_tokens_total{model_name="tiny"})"), 10);
  EXPECT_EQ(sample(text, R"(vllm:prompt_tokens_total{model_name="tiny"})"), answer["usage"]["prompt_tokens"]);
  EXPECT_EQ(sample(text, R"(vllm:time_to_first_token_seconds_count{model_name="tiny"})"), 1);
  EXPECT_EQ(sample(text, R"(vllm:inter_token_latency_seconds_count{model_name="tiny"})"), 8);
  EXPECT_EQ(sample(text, R"(vllm:num_requests_running{model_name="tiny"})"), 0);
}

TEST(TextRoutes, TurnTextIntoTokensAndBack) {
  TestServer server;
  const Json vllm = server.ask("/tokenize", {{"prompt", "Hällo"}, {"return_token_strs", true}});
  EXPECT_EQ(vllm["count"], vllm["tokens"].size());
  EXPECT_EQ(vllm["token_strs"].size(), vllm["tokens"].size());
  EXPECT_EQ(vllm["max_model_len"], kContext);
  const Json llama = server.ask("/tokenize", {{"content", "Hällo"}});
  const Json pieces = server.ask("/tokenize", {{"content", "Hällo"}, {"with_pieces", true}})["tokens"];
  ASSERT_EQ(pieces.size(), llama["tokens"].size());
  for (size_t i = 0; i < pieces.size(); ++i) EXPECT_EQ(pieces[i]["id"], llama["tokens"][i]);
  const Json back = server.ask("/detokenize", {{"tokens", llama["tokens"]}});
  EXPECT_EQ(back["prompt"], "Hällo");
  EXPECT_EQ(back["content"], "Hällo");
  EXPECT_EQ(server.ask("/detokenize", {{"tokens", Json::array()}})["prompt"], "");
}

TEST(TextRoutes, ApplyTheTemplateThatChatsUse) {
  TestServer server;
  const Json messages = Json::array({{{"role", "user"}, {"content", "Hello there"}}});
  const std::string prompt = server.ask("/apply-template", {{"messages", messages}})["prompt"];
  EXPECT_NE(prompt.find("Hello there"), std::string::npos);
  const std::string shorter =
      server.ask("/apply-template", {{"messages", messages}, {"add_generation_prompt", false}})["prompt"];
  EXPECT_LT(shorter.size(), prompt.size());
  const Json chat = server.ask("/v1/chat/completions", {{"messages", messages}, {"max_tokens", 1}});
  EXPECT_EQ(server.ask("/tokenize", {{"messages", messages}})["count"], chat["usage"]["prompt_tokens"]);
  EXPECT_EQ(server.ask("/tokenize", {{"prompt", prompt}, {"add_special_tokens", false}})["count"],
            chat["usage"]["prompt_tokens"]);
}

TEST(TextRoutes, RefuseWhatTheyCannotDo) {
  TestServer server;
  const std::vector<std::pair<const char*, Json>> table = {
      {"/tokenize", Json::object()},
      {"/tokenize", {{"prompt", 5}}},
      {"/tokenize", {{"prompt", "a"}, {"content", "a"}}},
      {"/tokenize", {{"messages", Json::array()}}},
      {"/detokenize", Json::object()},
      {"/detokenize", {{"tokens", {-1}}}},
      {"/detokenize", {{"tokens", {1 << 30}}}},
      {"/detokenize", {{"tokens", {1.5}}}},
      {"/apply-template", Json::object()},
      {"/apply-template", {{"messages", "x"}}},
      {"/apply-template", Json::array({1})},
  };
  for (const auto& [path, body] : table) EXPECT_EQ(server.post(path, body)->status, 400) << path << body;
}

TEST(Page, ComesWithAStrictPolicy) {
  ServerOptions options;
  options.api_keys = {"k"};
  TestServer server(options);
  const httplib::Result page = server.client().Get("/");
  ASSERT_EQ(page->status, 200);
  EXPECT_TRUE(page->get_header_value("Content-Type").starts_with("text/html"));
  const std::string policy = page->get_header_value("Content-Security-Policy");
  EXPECT_EQ(policy, content_security_policy(page->body));
  EXPECT_TRUE(policy.starts_with("default-src 'none'; script-src 'sha256-"));
  EXPECT_EQ(policy.find("unsafe"), std::string::npos);
  EXPECT_EQ(page->body.find("<script>"), page->body.rfind("<script"));
  for (const char* never :
       {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " src=", "@import"})
    EXPECT_EQ(page->body.find(never), std::string::npos) << never;
  // The hash of an empty text, by openssl's command line.
  EXPECT_NE(content_security_policy("<style></style><script></script>")
                .find("script-src 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"),
            std::string::npos);
  EXPECT_EQ(server.client().Get("/index.html")->status, 401);
}

TEST(ModelRoutes, AreReadyUntilTheyDrain) {
  ServerOptions options;
  options.api_keys = {"k"};
  TestServer server(options);
  EXPECT_EQ(server.client().Get("/ready")->body, R"({"status":"ready"})");
  EXPECT_EQ(server.client().Get("/metrics")->status, 401);
  EXPECT_EQ(server.client().Get("/v1/models", httplib::Headers{{"x-api-key", "k"}})->status, 200);
}

}  // namespace
}  // namespace moebius
