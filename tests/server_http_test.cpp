// The server over a socket: whole requests to a tiny model.
#include <gtest/gtest.h>

#include "server/cors.h"
#include "tests/device_models.h"
#include "tests/raw_request.h"
#include "tests/test_server.h"

namespace moebius {
namespace {

using Headers = httplib::Headers;

Json chat_request(Json more = Json::object()) {
  Json body = {{"messages", Json::array({{{"role", "user"}, {"content", "Hello there"}}})},
               {"temperature", 0},
               {"max_tokens", 24},
               {"ignore_eos", true}};
  body.update(more);
  return body;
}

// Minutes of work for the tiny model.
Json endless() {
  Json prompts = Json::array();
  for (int i = 0; i < 64; ++i) prompts.push_back(Json::array({i + 1, 2, 3}));
  return {{"prompt", prompts}, {"n", 8}, {"max_tokens", kContext}, {"ignore_eos", true}, {"stream", true}};
}

TEST(EndToEnd, ServesItsRoutes) {
  TestServer server;
  httplib::Client client = server.client();
  EXPECT_EQ(client.Get("/health")->body, R"({"status":"ok"})");
  EXPECT_EQ(client.Get("/version")->body, R"({"version":"test"})");
  const Json models = Json::parse(client.Get("/v1/models")->body);
  EXPECT_EQ(models["object"], "list");
  EXPECT_EQ(models["data"][0]["id"], "tiny");
  EXPECT_EQ(Json::parse(client.Get("/v1/models/tiny")->body), models["data"][0]);
  EXPECT_EQ(error_code(client.Get("/v1/models/other")), "model_not_found");
  EXPECT_EQ(client.Get("/v1/models/other")->status, 404);
  EXPECT_EQ(client.Get("/v1/nothing")->status, 404);
  EXPECT_EQ(error_code(client.Get("/v1/nothing")), "unknown_url");
  const httplib::Result wrong = client.Get("/v1/chat/completions");
  EXPECT_EQ(wrong->status, 405);
  EXPECT_EQ(wrong->get_header_value("Allow"), "POST");
  EXPECT_EQ(error_code(wrong), "method_not_allowed");
  EXPECT_EQ(client.Post("/health", "{}", "application/json")->status, 405);
  EXPECT_EQ(client.Get("/health", Headers{{"Host", "evil.example"}})->status, 403);
  EXPECT_EQ(error_code(client.Get("/health", Headers{{"Host", "evil.example"}})), "host_not_allowed");
  EXPECT_EQ(error_code(client.Get("/health", Headers{{"Origin", "http://evil.example"}})),
            "origin_not_allowed");
  EXPECT_EQ(client.Get("/health", Headers{{"Origin", "http://localhost:3000"}})->status, 200);
  EXPECT_EQ(client.Get("/health", Headers{{"Range", "bytes=0-3"}})->body, R"({"status":"ok"})");
  EXPECT_TRUE(server.stop().ok());
}

TEST(EndToEnd, SaysWhoComputedTheExperts) {
  EngineOptions options;
  options.device = DeviceKind::kSim;
  options.model = kModel;
  options.context = kContext;
  options.sessions = 2;
  options.device_memory = budget(options, 0.5);
  options.speeds = speeds(1, 1);
  TestServer server({}, options), host;
  const auto layers = [](const TestServer& from) {
    const Json body = Json::parse(from.client().Get("/v1/experts")->body);
    EXPECT_EQ(body["object"], "experts");
    return body["layers"];
  };
  EXPECT_EQ(layers(server), Json::array()) << "before the first token";
  const Json answer = server.ask("/v1/chat/completions", chat_request());
  EXPECT_EQ(answer["choices"][0]["message"],
            host.ask("/v1/chat/completions", chat_request())["choices"][0]["message"]);
  const Json used = layers(server);
  ASSERT_EQ(used.size(), 2u) << used;
  const int64_t tokens = answer["usage"]["total_tokens"].get<int64_t>() - 1;  // the last is not run
  const Json body = Json::parse(server.client().Get("/v1/experts")->body);
  const Json on_host = Json::parse(host.client().Get("/v1/experts")->body)["map"];
  EXPECT_EQ(body["generated_tokens"], 24);
  ASSERT_EQ(body["map"].size(), used.size());
  for (size_t l = 0; l < used.size(); ++l) {
    const Json& layer = body["map"][l];
    EXPECT_EQ(layer["layer"], used[l]["layer"]);
    const std::string places = layer["places"];
    EXPECT_NE(places.find('G'), std::string::npos) << places << used[l];
    EXPECT_NE(places.find('R'), std::string::npos) << places;
    EXPECT_EQ(layer["chosen"].size(), places.size());
    EXPECT_EQ(layer["chosen"], on_host[l]["chosen"]) << "the same tokens choose the same experts";
    EXPECT_EQ(on_host[l]["places"], std::string(places.size(), 'R'));
  }
  for (const Json& layer : used) {
    const int64_t device = layer["device_slots"], all = device + layer["host_slots"].get<int64_t>();
    EXPECT_EQ(all, tokens * 3) << layer;  // three experts a token
    const int64_t hits = device - layer["streamed_slots"].get<int64_t>();
    EXPECT_DOUBLE_EQ(layer["hit_rate"], static_cast<double>(hits) / static_cast<double>(all));
  }
  EXPECT_EQ(layers(host), Json::array());
}

// Experts are of one size, and a whole number of them moves or is streamed.
TEST(EndToEnd, SaysHowMuchOfTheExpertsCrossedTheLink) {
  EngineOptions options;
  options.device = DeviceKind::kSim;
  options.model = kModel, options.context = kContext, options.sessions = 2;
  options.device_memory = budget(options, 0.5);
  options.speeds = speeds(100, 1);
  TestServer server({}, options);
  const auto start = std::chrono::steady_clock::now();
  server.ask("/v1/completions",
             {{"prompt", std::vector<int>(40, 7)}, {"max_tokens", 24}, {"ignore_eos", true}});
  const double ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  const Json body = Json::parse(server.client().Get("/v1/experts")->body);
  int64_t experts = 0;
  for (const Json& layer : body["map"]) experts += std::ssize(layer["places"].get<std::string>());
  const int64_t bytes = all_expert_bytes(kModel) / experts;
  ASSERT_EQ(body["layers"].size(), 2u) << body;
  double host_ms = 0;
  for (const Json& layer : body["layers"]) {
    EXPECT_EQ(layer["moved_bytes"], layer["moves"].get<int64_t>() * bytes) << layer;
    EXPECT_GT(layer["streamed_bytes"], 0) << layer;
    EXPECT_EQ(layer["streamed_bytes"].get<int64_t>() % bytes, 0) << layer;
    EXPECT_GT(layer["host_ms"], 0) << layer;
    host_ms += layer["host_ms"].get<double>();
  }
  EXPECT_LT(host_ms, ms);
}

// The same slots are skipped on the host, with half of the experts on a device and with all of them there,
// and every place that tells of it says the same.
TEST(EndToEnd, SaysHowManyExpertSlotsWereSkipped) {
  EngineOptions options;
  options.model = kModel, options.skip_threshold = 0.3;
  TestServer host({}, options);
  options.device = DeviceKind::kSim, options.context = kContext, options.sessions = 2;
  options.device_memory = budget(options, 0.5), options.speeds = speeds(1, 1);
  TestServer half({}, options);
  options.device_memory = 0;
  TestServer whole({}, options);
  const Json request = {
      {"prompt", {1, 2, 3, 4, 5, 6, 7, 8}}, {"max_tokens", 8}, {"ignore_eos", true}, {"temperature", 0}};
  std::vector<std::vector<int64_t>> skipped;
  for (const TestServer* server : {&host, &half, &whole}) {
    EXPECT_EQ(Json::parse(server->client().Get("/v1/experts")->body)["skip_rate"], 0) << "before a token";
    server->ask("/v1/completions", request);
    const Json experts = Json::parse(server->client().Get("/v1/experts")->body);
    const std::string metrics = server->client().Get("/metrics")->body;
    int64_t all = 0, none = 0;
    skipped.emplace_back();
    for (const Json& layer : experts["map"]) {
      const int64_t of_layer = layer["skipped"];
      int64_t slots = of_layer;
      for (const Json& chosen : layer["chosen"]) slots += chosen.get<int64_t>();
      EXPECT_DOUBLE_EQ(layer["skip_rate"], static_cast<double>(of_layer) / static_cast<double>(slots));
      EXPECT_NE(metrics.find(fmt::format("moebius_expert_slots_total{{layer=\"{}\",where=\"skipped\"}} {}\n",
                                         layer["layer"].get<int>(), of_layer)),
                std::string::npos)
          << metrics;
      all += slots, none += of_layer;
      skipped.back().push_back(of_layer);
    }
    EXPECT_GT(none, 0);
    EXPECT_LT(none, all);
    EXPECT_DOUBLE_EQ(experts["skip_rate"], static_cast<double>(none) / static_cast<double>(all));
  }
  EXPECT_EQ(skipped[0], skipped[1]);
  EXPECT_EQ(skipped[0], skipped[2]);
}

TEST(EndToEnd, StreamsWhatItAnswersWhole) {
  TestServer server;
  const Json whole = server.ask("/v1/chat/completions", chat_request());
  const std::string text = whole["choices"][0]["message"]["content"];
  EXPECT_FALSE(text.empty());
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(whole["usage"]["completion_tokens"], 24);
  EXPECT_EQ(whole["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
  EXPECT_TRUE(whole["id"].get<std::string>().starts_with("chatcmpl-"));

  const Json streamed = {{"stream", true}, {"stream_options", {{"include_usage", true}}}};
  const httplib::Result result = server.post("/v1/chat/completions", chat_request(streamed));
  ASSERT_TRUE(result);
  EXPECT_EQ(result->get_header_value("Content-Type"), "text/event-stream");
  EXPECT_EQ(result->get_header_value("Cache-Control"), "no-cache");
  EXPECT_EQ(result->get_header_value("X-Accel-Buffering"), "no");
  const std::vector<Json> events = events_of(result->body);
  ASSERT_GT(events.size(), 3u);
  EXPECT_EQ(events.front()["choices"][0]["delta"]["role"], "assistant");
  std::string joined;
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    EXPECT_EQ(events[i]["id"], events[0]["id"]);
    EXPECT_TRUE(events[i]["usage"].is_null());
    joined += events[i]["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(joined, text);
  EXPECT_EQ(events[events.size() - 2]["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(events.back()["choices"].empty());
  EXPECT_EQ(events.back()["usage"]["total_tokens"], whole["usage"]["total_tokens"]);
  EXPECT_GT(events.back()["usage"]["prompt_tokens_details"]["cached_tokens"],
            0);  // the prompt was there already

  const Json completion = {
      {"prompt", "Hello"}, {"temperature", 0}, {"ignore_eos", true}, {"stream", true}, {"max_tokens", 9}};
  std::string pieces;
  for (const Json& event : events_of(server.post("/v1/completions", completion)->body)) {
    pieces += event["choices"][0]["text"];
  }
  Json same = completion;
  same["stream"] = false;
  EXPECT_EQ(server.ask("/v1/completions", same)["choices"][0]["text"], pieces);
}

TEST(EndToEnd, StopsBeforeAStopString) {
  TestServer server;
  const std::string text =
      server.ask("/v1/chat/completions", chat_request())["choices"][0]["message"]["content"];
  ASSERT_GT(text.size(), 12u);
  size_t at = text.size() / 2;
  while (at < text.size() && (text[at] & 0xC0) == 0x80) ++at;
  size_t end = std::min(text.size(), at + 4);
  while (end < text.size() && (text[end] & 0xC0) == 0x80) ++end;
  const std::string stop = text.substr(at, end - at);
  const Json answer =
      server.ask("/v1/chat/completions", chat_request({{"stop", Json::array({"\x01", stop})}}));
  EXPECT_EQ(answer["choices"][0]["message"]["content"], text.substr(0, text.find(stop)));
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
  std::string joined;
  const Json streamed = chat_request({{"stop", stop}, {"stream", true}});
  for (const Json& event : events_of(server.post("/v1/chat/completions", streamed)->body)) {
    joined += event["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(joined, text.substr(0, text.find(stop)));
}

TEST(EndToEnd, GivesSeveralChoices) {
  TestServer server;
  const Json asked = {{"n", 3}, {"temperature", 1.5}, {"seed", 11}};
  const Json first = server.ask("/v1/chat/completions", chat_request(asked));
  ASSERT_EQ(first["choices"].size(), 3u);
  EXPECT_EQ(first["usage"]["completion_tokens"], 72);
  EXPECT_NE(first["choices"][0]["message"], first["choices"][1]["message"]);
  EXPECT_EQ(server.ask("/v1/chat/completions", chat_request(asked))["choices"], first["choices"]);
  Json single = asked;
  single["n"] = 1;
  EXPECT_EQ(server.ask("/v1/chat/completions", chat_request(single))["choices"][0], first["choices"][0]);

  Json prompts = {{"prompt", Json::array({"One", Json::array({1, 2, 3})})},
                  {"n", 2},
                  {"temperature", 0},
                  {"ignore_eos", true},
                  {"max_tokens", 5}};
  const Json both = server.ask("/v1/completions", prompts);
  ASSERT_EQ(both["choices"].size(), 4u);
  EXPECT_EQ(both["choices"][0]["text"], both["choices"][1]["text"]);
  prompts["prompt"] = {1, 2, 3};
  EXPECT_EQ(server.ask("/v1/completions", prompts)["choices"][1]["text"], both["choices"][3]["text"]);
}

TEST(EndToEnd, GivesLogprobs) {
  TestServer server;
  const Json answer = server.ask("/v1/chat/completions",
                                 chat_request({{"logprobs", true}, {"top_logprobs", 3}}))["choices"][0];
  ASSERT_EQ(answer["logprobs"]["content"].size(), 24u);
  for (const Json& token : answer["logprobs"]["content"]) {
    ASSERT_EQ(token["top_logprobs"].size(), 3u);
    EXPECT_EQ(token["top_logprobs"][0]["bytes"], token["bytes"]);  // greedy
    EXPECT_LE(token["logprob"].get<double>(), 0);
    EXPECT_GE(token["top_logprobs"][0]["logprob"], token["top_logprobs"][1]["logprob"]);
  }
  // A bias changes what is chosen, not the logprobs of the raw logits.
  const Json biased = server.ask(
      "/v1/chat/completions",
      chat_request(
          {{"logprobs", true}, {"top_logprobs", 1}, {"max_tokens", 3}, {"logit_bias", {{"65", 100}}}}));
  const Json& tokens = biased["choices"][0]["logprobs"]["content"];
  EXPECT_EQ(tokens[0]["bytes"], tokens[2]["bytes"]);
  EXPECT_LT(tokens[0]["logprob"], tokens[0]["top_logprobs"][0]["logprob"]);
  const Json completion = server.ask(
      "/v1/completions",
      {{"prompt", "a"}, {"max_tokens", 4}, {"logprobs", 2}, {"temperature", 0}, {"ignore_eos", true}});
  const Json& logprobs = completion["choices"][0]["logprobs"];
  for (const char* key : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    EXPECT_EQ(logprobs[key].size(), 4u) << key;
  }
}

TEST(EndToEnd, RefusesWhatItCannotAnswer) {
  TestServer server;
  const std::string chat = "/v1/chat/completions";
  const httplib::Result longer =
      server.post("/v1/completions", {{"prompt", Json(std::vector<int>(kContext, 1))}});
  EXPECT_EQ(longer->status, 400);
  EXPECT_EQ(error_code(longer), "context_length_exceeded");
  const Json error = Json::parse(longer->body)["error"];
  EXPECT_EQ(error["n_prompt_tokens"], kContext);
  EXPECT_EQ(error["n_ctx"], kContext);
  const Json fits = server.ask(
      "/v1/completions",
      {{"prompt", Json(std::vector<int>(kContext - 3, 1))}, {"max_tokens", 1000}, {"ignore_eos", true}});
  EXPECT_EQ(fits["usage"]["total_tokens"], kContext);
  EXPECT_EQ(fits["choices"][0]["finish_reason"], "length");

  EXPECT_EQ(server.post(chat, chat_request({{"model", "gpt-4"}}))->status, 404);
  EXPECT_EQ(server.post(chat, chat_request({{"temperature", "hot"}}))->status, 400);
  for (const std::string& body :
       {std::string("{"), std::string(), std::string("[]"), std::string("\"\xff\""), std::string(70, '[')}) {
    const httplib::Result result = server.client().Post(chat, body, "application/json");
    ASSERT_TRUE(result) << body;
    EXPECT_EQ(result->status, 400) << body;
    EXPECT_EQ(error_code(result), "") << body;
  }
}

TEST(EndToEnd, LimitsTheBody) {
  ServerOptions options;
  options.body_bytes = 1000;
  TestServer server(options);
  const std::string big(5000, ' ');
  const httplib::Result sized = server.client().Post("/v1/completions", big, "application/json");
  ASSERT_TRUE(sized);
  EXPECT_EQ(sized->status, 413);
  const auto provide = [&](size_t, httplib::DataSink& sink) {
    sink.write(big.data(), big.size());
    sink.done();
    return true;
  };
  const httplib::Result chunked = server.client().Post("/v1/completions", provide, "application/json");
  ASSERT_TRUE(chunked);
  EXPECT_EQ(chunked->status, 413);
  EXPECT_EQ(error_code(chunked), "request_too_large");
}

TEST(EndToEnd, WantsAKey) {
  ServerOptions options;
  options.api_keys = {"k1", "k2"};
  TestServer server(options);
  httplib::Client client = server.client();
  EXPECT_EQ(client.Get("/health")->status, 200);
  for (const char* path : {"/v1/models", "/version", "/v1/nothing"}) {
    EXPECT_EQ(client.Get(path)->status, 401) << path;
    EXPECT_EQ(error_code(client.Get(path)), "invalid_api_key") << path;
  }
  EXPECT_EQ(client.Get("/v1/models", Headers{{"Authorization", "Bearer k3"}})->status, 401);
  EXPECT_EQ(client.Get("/v1/models", Headers{{"Authorization", "Bearer k2"}})->status, 200);
}

TEST(EndToEnd, AdministrationWantsAKeyOfItsOwn) {
  const std::string path = "/v1/load_lora_adapter", body = R"({"lora_name": "a", "lora_path": "b"})";
  const auto code = [&](const TestServer& server, const char* key) {
    return error_code(server.client().Post(path, Headers{{"Authorization", std::string("Bearer ") + key}},
                                           body, "application/json"));
  };
  ServerOptions options;
  options.api_keys = {"k"};
  {
    const TestServer server(options);
    EXPECT_EQ(code(server, "k"), "admin_key_needed") << "there is none: nobody may";
  }
  options.admin_keys = {"root"};
  TestServer server(options);
  EXPECT_EQ(code(server, "k"), "admin_key_needed");
  EXPECT_EQ(code(server, "x"), "invalid_api_key");
  EXPECT_EQ(code(server, "root"), "no_adapter_dir");
  const auto models = [&](const char* key) {
    return server.client()
        .Get("/v1/models", Headers{{"Authorization", std::string("Bearer ") + key}})
        ->status;
  };
  EXPECT_EQ(models("root"), 200);
  EXPECT_TRUE(server.server().reload({"k2"}, {"root"}).ok());
  EXPECT_EQ(models("k"), 401);
  EXPECT_EQ(models("k2"), 200);
  const TestServer alone;
  EXPECT_EQ(code(alone, "any"), "no_adapter_dir") << "this machine's user, where there are no keys";
}

TEST(EndToEnd, LetsPagesOfNamedOriginsAsk) {
  const std::string page = "https://chat.example:8443";
  const Headers asks = {{"Origin", page},
                        {"Access-Control-Request-Method", "POST"},
                        {"Access-Control-Request-Headers", "authorization,content-type"}};
  const auto with = [](Headers headers, const char* origin) {
    headers.erase("Origin");
    headers.emplace("Origin", origin);
    return headers;
  };
  ServerOptions options;
  options.api_keys = {"k"};
  {
    const TestServer off(options);
    const httplib::Result refused = off.client().Options("/v1/models", asks);
    EXPECT_EQ(refused->status, 403);
    for (const auto& [name, value] : refused->headers)
      EXPECT_FALSE(name.starts_with("Access-Control")) << name;
  }
  options.cors_origins = {"http://other.example", page};
  const TestServer server(options);
  const httplib::Result may = server.client().Options("/v1/chat/completions", asks);
  EXPECT_EQ(may->status, 204);
  EXPECT_EQ(may->get_header_value("Access-Control-Allow-Origin"), page);
  EXPECT_EQ(may->get_header_value("Access-Control-Allow-Headers"), "Authorization, *");
  EXPECT_EQ(may->get_header_value("Vary"), "Origin");
  EXPECT_FALSE(may->has_header("Access-Control-Allow-Credentials"));
  const Headers get = {{"Origin", page}, {"Authorization", "Bearer k"}};
  const httplib::Result models = server.client().Get("/v1/models", get);
  EXPECT_EQ(models->status, 200);
  EXPECT_EQ(models->get_header_value("Access-Control-Allow-Origin"), page);
  EXPECT_EQ(server.client().Get("/v1/models", Headers{{"Origin", page}})->status, 401)
      << "a key is wanted all the same";
  for (const char* origin :
       {"https://chat.example", "https://chat.example:8443.evil.example", "HTTPS://chat.example:8443",
        "http://chat.example:8443", "null", "https://evil.example", "https://chat.example:8443/"}) {
    for (const httplib::Result& other : {server.client().Options("/v1/models", with(asks, origin)),
                                         server.client().Get("/v1/models", with(get, origin))}) {
      EXPECT_EQ(other->status, 403) << origin;
      EXPECT_FALSE(other->has_header("Access-Control-Allow-Origin")) << origin;
    }
  }
  EXPECT_EQ(server.client()
                .Get("/v1/models",
                     Headers{{"Origin", page}, {"Authorization", "Bearer k"}, {"Host", "evil.example"}})
                ->status,
            403);
  for (const char* good : {"http://a", "https://a.b:1", "http://[::1]:80"})
    EXPECT_TRUE(is_origin(good)) << good;
  for (const char* bad : {"", "*", "null", "a.b", "ftp://a", "http://", "http://a/", "http://a?b", "http://A",
                          "http://a b", "http://u@a"})
    EXPECT_FALSE(is_origin(bad)) << bad;
}

TEST(EndToEnd, AKeyHasSoManyRequestsAtOnce) {
  ServerOptions options;
  options.api_keys = {"k1", "k2"};
  options.per_key = 1;
  const TestServer server(options);
  RawRequest first(server.port(), raw_post("/v1/completions", endless(), "Authorization: Bearer k1\r\n"));
  first.read_until("data: ");
  const auto ask = [&](const char* key) {
    return server.client().Post("/tokenize", Headers{{"Authorization", std::string("Bearer ") + key}},
                                R"({"prompt":"a"})", "application/json");
  };
  const httplib::Result second = ask("k1");
  EXPECT_EQ(second->status, 429);
  EXPECT_EQ(error_code(second), "rate_limit_exceeded");
  EXPECT_EQ(ask("k2")->status, 200);
  first.hang_up();
  const auto begun = std::chrono::steady_clock::now();
  while (ask("k1")->status == 429 && std::chrono::steady_clock::now() - begun < std::chrono::seconds(5)) {
  }
  EXPECT_EQ(ask("k1")->status, 200);
}

// What one key's request left in the cache is no other's, whichever API it comes by; its own it finds again.
TEST(EndToEnd, KeysShareNoPrefixes) {
  const auto text = [](char c) { return std::string(200, c); };
  const auto chat = [&](char c) { return Json::array({{{"role", "user"}, {"content", text(c)}}}); };
  struct Way {
    std::string path;
    Json body;
    std::vector<std::string> cached;  // where the answer says how much was
  };
  const std::vector<Way> ways = {{"/v1/completions",
                                  {{"prompt", text('a')}, {"max_tokens", 1}},
                                  {"prompt_tokens_details", "cached_tokens"}},
                                 {"/v1/chat/completions",
                                  {{"messages", chat('b')}, {"max_tokens", 1}},
                                  {"prompt_tokens_details", "cached_tokens"}},
                                 {"/v1/responses",
                                  {{"input", text('c')}, {"max_output_tokens", 16}},
                                  {"input_tokens_details", "cached_tokens"}},
                                 {"/v1/messages",
                                  {{"model", "tiny"}, {"messages", chat('d')}, {"max_tokens", 1}},
                                  {"cache_read_input_tokens"}}};
  for (const std::vector<std::string>& keys :
       {std::vector<std::string>{"k1", "k2"}, std::vector<std::string>{"k1"}}) {
    ServerOptions options;
    options.api_keys = keys;
    const TestServer server(options);
    const auto cached = [&](const Way& way, const std::string& key, const std::string& salt) {
      Json body = way.body;
      if (!salt.empty()) body["cache_salt"] = salt;
      const httplib::Result result = server.client().Post(
          way.path, Headers{{"Authorization", "Bearer " + key}}, ApiError::to_text(body), "application/json");
      EXPECT_EQ(result->status, 200) << result->body;
      Json at = Json::parse(result->body)["usage"];
      for (const std::string& name : way.cached) at = Json(at[name]);
      return at.get<int64_t>();
    };
    for (const Way& way : ways) {
      const int64_t before = cached(way, "k1", "");
      EXPECT_GT(cached(way, "k1", ""), before) << way.path << ": its own";
      if (keys.size() > 1) {
        EXPECT_EQ(cached(way, "k2", ""), before) << way.path << ": another's";
        EXPECT_GT(cached(way, "k2", ""), before) << way.path;
      }
    }
    // A salt of the request's own is kept beside the key's.
    EXPECT_EQ(cached(ways[0], "k1", "s"), 0);
    EXPECT_GT(cached(ways[0], "k1", "s"), 0);
    if (keys.size() > 1) {
      EXPECT_EQ(cached(ways[0], "k2", "s"), 0);
    }
  }
}

TEST(EndToEnd, RefusesToListenToAllWithoutAKey) {
  EngineOptions engine_options;
  engine_options.model = kModel;
  auto engine = Engine::open(engine_options);
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  spdlog::logger log("test", std::make_shared<spdlog::sinks::null_sink_mt>());
  ServerOptions options;
  options.models = {"tiny"};
  options.host = "0.0.0.0";
  EXPECT_EQ(Server::create(**engine, options, log).status().code(), Code::kInvalid);
  options.allow_no_key = true;
  EXPECT_TRUE(Server::create(**engine, options, log).ok());
  options.allow_no_key = false;
  options.api_keys = {"k"};
  EXPECT_TRUE(Server::create(**engine, options, log).ok());
}

// More connections that ask nothing, or half of something, than there are threads: all still wait when
// another has its answer.
TEST(EndToEnd, ConnectionsThatWaitTakeNoThreadFromOthers) {
  const TestServer server;
  std::vector<std::unique_ptr<RawRequest>> waiting;
  for (int i = 0; i < 300; ++i)
    waiting.push_back(
        std::make_unique<RawRequest>(server.port(), i % 2 == 0 ? "" : "GET /version HTTP/1.1\r\nHost:"));
  EXPECT_EQ(server.client().Get("/version")->status, 200);
  for (const auto& one : waiting) EXPECT_FALSE(one->has_answer());
}

TEST(EndToEnd, GoesOnAfterAClientHungUp) {
  TestServer server;
  RawRequest streaming(server.port(), raw_post("/v1/completions", endless()));
  EXPECT_NE(streaming.read_until("data: ").find("200 OK"), std::string::npos);
  streaming.hang_up();
  Json whole = endless();
  whole["stream"] = false;
  RawRequest waiting(server.port(), raw_post("/v1/completions", whole));
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  waiting.hang_up();
  const auto begun = std::chrono::steady_clock::now();
  EXPECT_EQ(server.ask("/v1/chat/completions", chat_request())["usage"]["completion_tokens"], 24);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(20));
}

TEST(EndToEnd, RefusesWhenTheQueueIsFull) {
  ServerOptions options;
  options.queue = 1;
  TestServer server(options);
  RawRequest running(server.port(), raw_post("/v1/completions", endless()));
  running.read_until("data: ");
  RawRequest queued(server.port(), raw_post("/v1/completions", endless()));
  queued.read_until("\r\n\r\n");  // its header is sent once it waits
  const httplib::Result refused = server.post("/v1/chat/completions", chat_request());
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status, 429);
  EXPECT_EQ(error_code(refused), "rate_limit_exceeded");
  EXPECT_TRUE(refused->has_header("Retry-After"));
  queued.hang_up();  // leaves its place in the queue while it waits
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  RawRequest next(server.port(), raw_post("/v1/completions", endless()));
  EXPECT_NE(next.read_until("\r\n\r\n").find("200 OK"), std::string::npos);
}

TEST(EndToEnd, PingsWhileARequestWaits) {
  ServerOptions options;
  options.ping = std::chrono::milliseconds(100);
  TestServer server(options);
  RawRequest running(server.port(), raw_post("/v1/completions", endless()));
  running.read_until("data: ");
  RawRequest queued(server.port(), raw_post("/v1/completions", endless()));
  EXPECT_NE(queued.read_until(": ping\n\n").find(": ping\n\n"), std::string::npos);
}

TEST(EndToEnd, GivesUpAfterTheTimeout) {
  ServerOptions options;
  options.timeout = std::chrono::milliseconds(300);
  TestServer server(options);
  Json whole = endless();
  whole["stream"] = false;
  const httplib::Result result = server.post("/v1/completions", whole);
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 503);
  EXPECT_EQ(error_code(result), "timeout");
  const httplib::Result streamed = server.post("/v1/completions", endless());
  ASSERT_TRUE(streamed);
  EXPECT_NE(streamed->body.find(R"(data: {"error":{"message":)"), std::string::npos);
  EXPECT_EQ(streamed->body.find("[DONE]"), std::string::npos);
}

TEST(EndToEnd, DrainsBeforeItEnds) {
  ServerOptions options;
  options.drain = std::chrono::milliseconds(30'000);
  TestServer server(options);
  RawRequest idle(server.port(), "POST /v1/completions HTTP/1.1\r\n");  // must not hold up the end
  const Json body = {{"prompt", Json::array({Json::array({1, 2, 3})})},
                     {"n", 4},
                     {"max_tokens", 200},
                     {"ignore_eos", true},
                     {"stream", true}};
  RawRequest running(server.port(), raw_post("/v1/completions", body));
  running.read_until("data: ");
  server.drain();
  const httplib::Result refused = server.post("/v1/chat/completions", chat_request());
  if (refused) {  // else the four answers were finished already
    EXPECT_EQ(refused->status, 503);
    EXPECT_EQ(error_code(refused), "shutting_down");
  }
  EXPECT_NE(running.read_until("[DONE]").find("[DONE]"), std::string::npos);
  const auto begun = std::chrono::steady_clock::now();
  EXPECT_TRUE(server.stop().ok());
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(5));
}

TEST(EndToEnd, GivesUpAnswersThatOutlastTheDrain) {
  ServerOptions options;
  options.drain = std::chrono::milliseconds(100);
  TestServer server(options);
  RawRequest running(server.port(), raw_post("/v1/completions", endless()));
  running.read_until("data: ");
  server.drain();
  EXPECT_NE(running.read_until("shutting_down").find("shutting_down"), std::string::npos);
  EXPECT_TRUE(server.stop().ok());
}

}  // namespace
}  // namespace moebius
