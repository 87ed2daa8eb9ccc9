// A server on a free port in this process, and what comes back from it.
#pragma once

#include <thread>

#include <gtest/gtest.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/null_sink.h>

#include "server/errors.h"
#include "server/http_library.h"
#include "server/json_input.h"
#include "server/request.h"
#include "server/server.h"

namespace moebius {

constexpr const char* kModel = "tests/golden/models/deepseek_v3_tiny";
constexpr int64_t kContext = 512;

// What a server of that model accepts.
inline RequestLimits tiny_limits() {
  RequestLimits limits;
  limits.vocab = 512;
  return limits;
}

inline Json parsed(const std::string& text) {
  Result<Json> json = parse_json(text);
  MOEBIUS_CHECK(json.ok(), json.status().message());
  return std::move(*json);
}

class TestServer {
 public:
  explicit TestServer(ServerOptions options = {}, EngineOptions engine_options = {})
      : log_("test", std::make_shared<spdlog::sinks::null_sink_mt>()) {
    if (engine_options.model.empty()) engine_options.model = kModel;
    engine_options.context = kContext;
    if (engine_options.sessions == 1) engine_options.sessions = 2;
    engine_options.threads = 1;
    auto engine = Engine::open(engine_options);
    MOEBIUS_CHECK(engine.ok(), engine.status().message());
    engine_ = std::move(*engine);
    options.port = 0;
    options.models = {"tiny"};
    options.version = "test";
    auto server = Server::create(*engine_, options, log_);
    MOEBIUS_CHECK(server.ok(), server.status().message());
    server_ = std::move(*server);
    const Status bound = server_->bind();
    MOEBIUS_CHECK(bound.ok(), bound.message());
    thread_ = std::thread([this] { status_ = server_->run(); });
  }
  ~TestServer() { EXPECT_TRUE(stop().ok()); }

  void drain() { server_->drain(); }
  Server& server() { return *server_; }
  Status stop() {
    drain();
    if (thread_.joinable()) thread_.join();
    return status_;
  }
  int port() const { return server_->port(); }

  httplib::Client client() const {
    httplib::Client client("127.0.0.1", port());
    client.set_read_timeout(60);
    return client;
  }
  httplib::Result post(const std::string& path, const Json& body) const {
    return client().Post(path, ApiError::to_text(body), "application/json");
  }
  // The body of an answer with status 200.
  Json ask(const std::string& path, const Json& body) const {
    const httplib::Result result = post(path, body);
    if (!result) return "no answer";
    EXPECT_EQ(result->status, 200) << result->body;
    return Json::parse(result->body, nullptr, false);
  }

 private:
  spdlog::logger log_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Server> server_;
  Status status_;
  std::thread thread_;
};

// The objects of a stream, which must end in [DONE].
inline std::vector<Json> events_of(const std::string& body) {
  std::vector<Json> events;
  bool done = false;
  size_t at = 0;
  while (at < body.size()) {
    const size_t end = body.find("\n\n", at);
    if (end == std::string::npos) ADD_FAILURE() << "an event is cut off";
    const std::string event = body.substr(at, end - at);
    at = end == std::string::npos ? body.size() : end + 2;
    if (event.starts_with(":")) continue;
    EXPECT_TRUE(event.starts_with("data: ")) << event;
    EXPECT_FALSE(done) << "after [DONE]";
    done = event == "data: [DONE]";
    if (!done) events.push_back(Json::parse(event.substr(6), nullptr, false));
  }
  EXPECT_TRUE(done);
  return events;
}

// The events of a stream of named ones: name and data.
inline std::vector<std::pair<std::string, Json>> named_events_of(const std::string& body) {
  std::vector<std::pair<std::string, Json>> events;
  for (size_t at = 0; at < body.size();) {
    const size_t end = body.find("\n\n", at);
    const std::string event = body.substr(at, end - at);
    at = end == std::string::npos ? body.size() : end + 2;
    if (event.starts_with(":")) continue;
    const size_t line = event.find("\ndata: ");
    if (!event.starts_with("event: ") || line == std::string::npos) {
      ADD_FAILURE() << "not a named event: " << event;
      return events;
    }
    events.emplace_back(event.substr(7, line - 7), Json::parse(event.substr(line + 7), nullptr, false));
  }
  return events;
}

inline std::string error_code(const httplib::Result& result) {
  if (!result) return "no answer";
  const Json body = Json::parse(result->body, nullptr, false);
  if (!body.is_object() || !body.contains("error")) return "no error object: " + result->body;
  const Json& error = body["error"];
  for (const char* key : {"message", "type", "param", "code"})
    EXPECT_TRUE(error.contains(key)) << result->body;
  return error["code"].is_string() ? error["code"].get<std::string>() : "";
}

}  // namespace moebius
