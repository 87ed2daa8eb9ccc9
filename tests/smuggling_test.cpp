// Request smuggling: requests whose end a proxy and this server could see in different places, to every kind
// of route, each with another request behind it on a connection that asks to be kept open. Whatever the
// server makes of the first, it never answers the second. The cases and what is expected stand in
// tests/smuggling/cases.json, written by make_cases.py beside it.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include <fmt/format.h>

#include "tests/raw_request.h"
#include "tests/test_server.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

struct Target {
  std::string method, path, body;  // no body: of a GET
};

const std::vector<Target>& targets() {
  static const auto* all = new std::vector<Target>{
      {"POST", "/v1/chat/completions", R"({"messages":[{"role":"user","content":"a"}],"max_tokens":1})"},
      {"POST", "/v1/completions", R"({"prompt":"a","max_tokens":1})"},
      {"POST", "/v1/responses", R"({"input":"a","max_output_tokens":16})"},
      {"POST", "/v1/responses/input_tokens", R"({"input":"a"})"},
      {"POST", "/v1/messages",
       R"({"model":"tiny","messages":[{"role":"user","content":"a"}],"max_tokens":1})"},
      {"POST", "/v1/messages/count_tokens", R"({"model":"tiny","messages":[{"role":"user","content":"a"}]})"},
      {"POST", "/v1/embeddings", R"({"input":"a"})"},
      {"POST", "/tokenize", R"({"prompt":"a"})"},
      {"POST", "/detokenize", R"({"tokens":[65]})"},
      {"POST", "/apply-template", R"({"messages":[{"role":"user","content":"a"}]})"},
      {"GET", "/", ""},
      {"GET", "/health", ""},
      {"GET", "/ready", ""},
      {"GET", "/version", ""},
      {"GET", "/metrics", ""},
      {"GET", "/v1/models", ""},
      {"GET", "/v1/models/tiny", ""},
      {"GET", "/v1/experts", ""},
      {"GET", "/v1/lora_adapters", ""},
      {"GET", "/lora-adapters", ""},
      {"GET", "/slots", ""},
      {"GET", "/v1/files", ""},
      {"GET", "/v1/fine_tuning/jobs", ""},
  };
  return *all;
}

std::string filled(std::string text, const Target& target) {
  const std::string& body = target.body;
  const std::vector<std::pair<std::string, std::string>> values = {
      {"@METHOD@", target.method},
      {"@PATH@", target.path},
      {"@BODY@", body},
      {"@LEN@", std::to_string(body.size())},
      {"@HEX@", fmt::format("{:x}", body.size())},
      {"@BODY1@", body.empty() ? "" : body.substr(1)},
      {"@HEX1@", fmt::format("{:X}", body.size() - 1)},
      {"@REST@",
       "GET /v1/smuggled HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"
       "GET /v1/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"}};
  for (const auto& [name, value] : values) {
    for (size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + value.size()))
      text.replace(at, name.size(), value);
  }
  return text;
}

Json cases() {
  std::ifstream file("tests/smuggling/cases.json");
  std::stringstream text;
  text << file.rdbuf();
  return parsed(text.str());
}

// Heads of answers: the version and a status.
int answers_in(const std::string& text) {
  constexpr std::string_view kVersion = "HTTP/1.1 ";
  int n = 0;
  for (size_t at = text.find(kVersion); at != std::string::npos; at = text.find(kVersion, at + 1))
    n += std::isdigit(static_cast<unsigned char>(text[std::min(at + kVersion.size(), text.size() - 1)])) != 0;
  return n;
}

void expect_one_answer(const std::string& answer, int status, const std::string& shown) {
  EXPECT_TRUE(answer.starts_with(fmt::format("HTTP/1.1 {} ", status))) << shown << '\n'
                                                                       << answer.substr(0, 300);
  EXPECT_EQ(answers_in(answer), 1) << shown << '\n' << answer;
  const size_t head = answer.find("\r\n\r\n");
  EXPECT_NE(answer.substr(0, head).find("Connection: close"), std::string::npos) << shown << '\n' << answer;
}

class Smuggling : public ::testing::TestWithParam<size_t> {};

TEST_P(Smuggling, NothingBehindARequestIsAnswered) {
  const Target& target = targets()[GetParam()];
  const process::Scratch scratch;
  ServerOptions options;
  options.tuning.folder = scratch.file("files");
  const TestServer server(options);
  for (const Json& c : cases()) {
    if (c["body"] != !target.body.empty()) continue;
    RawRequest request(server.port(), filled(c["request"], target));
    const std::string shown = target.path + ": " + c["name"].get<std::string>();
    expect_one_answer(request.read_until("never"), c["status"], shown);
  }
  // It serves on, in both framings, and saw none of what was behind.
  EXPECT_EQ(server.client().Get("/health")->status, 200);
  EXPECT_EQ(server.ask("/tokenize", {{"prompt", "a"}})["count"].is_number(), true);
  const std::string metrics = server.client().Get("/metrics")->body;
  EXPECT_EQ(metrics.find(R"(method="other",route="other",status="404")") != std::string::npos,
            target.body.empty())
      << "the only unknown addresses are those of the GET cases\n"
      << metrics;
}

INSTANTIATE_TEST_SUITE_P(Routes, Smuggling, ::testing::Range(size_t{0}, targets().size()));

// In whatever parts a request comes, it is the same request.
TEST(Smuggling, PartsMakeNoDifference) {
  const TestServer server;
  const Target& target = targets()[7];
  for (const Json& c : cases()) {
    const std::string text = filled(c["request"], target);
    if (!c["body"] || text.size() > 1000) continue;
    for (const size_t cut : {text.size() / 4, text.find("\r\n\r\n") + 2, text.find(target.body) + 1}) {
      if (cut >= text.size()) continue;
      const RawRequest request(server.port(), text.substr(0, cut));
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      request.send_more(text.substr(cut));
      expect_one_answer(request.read_until("never"), c["status"], c["name"]);
    }
  }
}

}  // namespace
}  // namespace moebius
