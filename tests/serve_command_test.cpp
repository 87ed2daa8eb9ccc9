// `moebius serve` as a process: where its settings come from, and what signals do.
#include <gtest/gtest.h>

#include <sys/socket.h>
#include <sys/un.h>

#include <sstream>

#include "server/json_input.h"
#include "tests/certificates.h"
#include "tests/serving.h"

namespace moebius {
namespace {

using process::Args;
using process::Environment;
using process::Finished;
using process::run;
using process::Scratch;

void expect_said(const Serving& serving, const std::string& text) {
  EXPECT_NE(serving.said().find(text), std::string::npos) << text << " is not in\n" << serving.said();
}

TEST(Settings, ComeFromTheEnvironment) {
  Serving serving({"--parallel", "3"}, {{"MOEBIUS_PARALLEL", "7"},
                                        {"MOEBIUS_CTX_SIZE", "256"},
                                        {"LLAMA_ARG_CTX_SIZE", "128"},
                                        {"LLAMA_ARG_ALIAS", "one,two"},
                                        {"LLAMA_ARG_TIMEOUT", "77"},
                                        {"MOEBIUS_ALLOW_NO_KEY", "Enabled"},
                                        {"MOEBIUS_EXACT_ACTIVATIONS", "off"},
                                        {"MOEBIUS_NO_OVERLAP", "1"},
                                        {"MOEBIUS_MAX_QUEUE", ""},
                                        {"LLAMA_API_KEY", "k1,k2"}});
  expect_said(serving, "context 256 tokens, cache 768 tokens, 3 answers at once, 64 requests may wait, 77 s");
  expect_said(serving, "model name: one, two");
  expect_said(serving, "API keys: 2 accepted");
  expect_said(serving, "--ctx-size from MOEBIUS_CTX_SIZE");
  expect_said(serving, "--timeout from LLAMA_ARG_TIMEOUT");
  EXPECT_EQ(serving.said().find("k1"), std::string::npos) << "keys are not shown";
  EXPECT_EQ(serving.client().Get("/v1/models", {{"Authorization", "Bearer k2"}})->status, 200);
  EXPECT_EQ(serving.client().Get("/v1/models", {{"Authorization", "Bearer k3"}})->status, 401);
  EXPECT_EQ(serving.end(), 0);
}

TEST(Settings, OfTheEnvironmentAreCheckedAsOfTheCommandLine) {
  const auto fails = [](const Environment& environment, const std::string& message) {
    const Finished finished = run({"serve", "-m", kTiny}, "", environment);
    EXPECT_EQ(finished.code, 2) << finished.err;
    EXPECT_NE(finished.err.find(message), std::string::npos) << finished.err;
  };
  fails({{"MOEBIUS_PORT", "99999"}}, "MOEBIUS_PORT");
  fails({{"LLAMA_ARG_N_PARALLEL", "many"}}, "LLAMA_ARG_N_PARALLEL");
  fails({{"MOEBIUS_ALLOW_NO_KEY", "maybe"}},
        "MOEBIUS_ALLOW_NO_KEY: --allow-no-key: `maybe` is neither true nor false");
}

TEST(Settings, KnowOtherServersNames) {
  Serving serving({"-np", "2", "--max-model-len", "200", "-ub", "32", "--kv-cache-dtype", "f32"});
  expect_said(serving, "context 200 tokens, cache 400 tokens, 2 answers at once");
  EXPECT_EQ(run({"serve", "-np", "0"}).code, 2);
}

TEST(Settings, ComeFromAPreset) {
  const Scratch scratch;
  const std::string file = scratch.write("preset.ini", std::string(R"(; what all share
version = 1
[*]
parallel = 5
max-queue = 9
api-key = everyone
allow-no-key = false
[small]
# by its short name, by the environment's, and by llama-server's
c = 300
MOEBIUS_MAX_QUEUE = 8
LLAMA_ARG_TIMEOUT = 66
api-key = a
api-key = b
model = )") + kTiny + "\n[other]\nmodel = /nowhere\n");
  {
    Serving serving({"--preset", file, "-m", "small"},
                    {{"MOEBIUS_MODEL", "/elsewhere"}, {"MOEBIUS_TIMEOUT", "55"}});
    expect_said(serving,
                "context 300 tokens, cache 1500 tokens, 5 answers at once, 8 requests may wait, 55 s");
    expect_said(serving, "API keys: 2 accepted");
    expect_said(serving, "--max-queue from " + file + ":11");
    EXPECT_EQ(serving.client().Get("/v1/models", {{"Authorization", "Bearer b"}})->status, 200);
    EXPECT_EQ(serving.client().Get("/v1/models", {{"Authorization", "Bearer everyone"}})->status, 401);
  }
  Serving nobodys({"--preset", file, "-m", kTiny, "--parallel", "2"});
  expect_said(nobodys, "2 answers at once, 9 requests may wait");
  const Finished several = run({"serve", "--preset", file});
  EXPECT_EQ(several.code, 2);
  EXPECT_NE(several.err.find("choose one with -m: small, other"), std::string::npos) << several.err;
}

TEST(Settings, NameTheLineOfAMistake) {
  const Scratch scratch;
  const std::string begin = "version = 1\n[*]\nport = 0\n";
  const std::vector<std::pair<std::string, std::string>> mistakes = {
      {begin + "prot = 1\n", ":4: unknown key `prot`"},
      {begin + "[m]\nport = 0\nn-gpu-layers = 3\n", ":6: unknown key `n-gpu-layers`"},
      {begin + "port = 1\n", ":4: `port` is set twice in [*]"},
      {begin + "parallel = lots\n", ":4: --parallel"},
      {begin + "overlap = perhaps\n", ":4: --overlap: `perhaps` is neither true nor false"},
      {begin + "preset = other.ini\n", ":4: unknown key `preset`"},
      {begin + "--parallel = 3\n", ":4: unknown key `--parallel`"},
      {begin + "[*]\n", ":4: section [*] stands there twice"},
      {begin + "[]\n", ":4: a section is written [NAME]"},
      {begin + "[m\n", ":4: a section is written [NAME]"},
      {begin + "parallel\n", ":4: expected KEY = VALUE"},
      {"version = 2\n", ":1: version 2 is not known here"},
      {"port = 1\n", ":1: `port` stands before any section"},
      {"[*]\nport = 1\n", ": has no `version = 1`"},
      {"", ": has no `version = 1`"},
  };
  for (const auto& [text, message] : mistakes) {
    const std::string file = scratch.write("preset.ini", text);
    const Finished finished = run({"serve", "--preset", file, "-m", kTiny});
    EXPECT_EQ(finished.code, 2) << text << finished.err;
    EXPECT_NE(finished.err.find(file + message), std::string::npos) << text << finished.err;
    EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
  }
  EXPECT_EQ(run({"serve", "--preset", scratch.file("none.ini")}).code, 2);
}

// A socket as systemd has one, and what it is told.
class Manager {
 public:
  explicit Manager(const std::string& path) : socket_(::socket(AF_UNIX, SOCK_DGRAM, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::copy(path.begin(), path.end(), address.sun_path);
    EXPECT_EQ(bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  ~Manager() { ::close(socket_); }
  std::string told() const {
    char text[256];
    const ssize_t got = recv(socket_, text, sizeof text, MSG_DONTWAIT);
    return got > 0 ? std::string(text, static_cast<size_t>(got)) : "";
  }

 private:
  int socket_;
};

TEST(Signals, TellTheServiceManager) {
  const Scratch scratch;
  const Manager manager(scratch.file("notify"));
  {
    Serving serving({}, {{"NOTIFY_SOCKET", scratch.file("notify")}});
    EXPECT_EQ(serving.client().Get("/ready")->status, 200);
    EXPECT_EQ(manager.told(), "READY=1");
    EXPECT_EQ(manager.told(), "");
    EXPECT_EQ(serving.end(), 0);
    EXPECT_EQ(manager.told(), "STOPPING=1");
  }
  const Finished failed =
      run({"serve", "-m", scratch.file("none")}, "", {{"NOTIFY_SOCKET", scratch.file("notify")}});
  EXPECT_EQ(failed.code, 1);
  EXPECT_EQ(manager.told(), "") << "nothing is ready";
}

TEST(Signals, ReloadKeysAndCertificates) {
  const Scratch scratch;
  const std::string keys = scratch.write("keys", "k1\n");
  const std::string certificate = scratch.file("cert.pem"), key = scratch.file("key.pem");
  write_certificate("first", certificate, key);
  Serving serving({"--api-key-file", keys, "--ssl-cert-file", certificate, "--ssl-key-file", key});
  const auto status = [&](const char* with) {
    httplib::SSLClient client("127.0.0.1", serving.port());
    client.enable_server_certificate_verification(false);
    const httplib::Result result =
        client.Get("/v1/models", {{"Authorization", std::string("Bearer ") + with}});
    return result ? result->status : 0;
  };
  EXPECT_EQ(status("k1"), 200);
  EXPECT_EQ(status("k2"), 401);
  EXPECT_EQ(subject_at(serving.port()), "first");
  scratch.write("keys", "k2\n");
  write_certificate("second", certificate, key);
  serving.terminal().send_signal(SIGHUP);
  serving.terminal().expect("read again; 1 keys accepted");
  EXPECT_EQ(status("k1"), 401);
  EXPECT_EQ(status("k2"), 200);
  EXPECT_EQ(subject_at(serving.port()), "second");
  scratch.write("keys", "\n");
  serving.terminal().send_signal(SIGHUP);
  serving.terminal().expect("stay as they were");
  EXPECT_EQ(status("k2"), 200);
  EXPECT_EQ(serving.end(), 0);
}

TEST(Log, IsJsonWithoutPrompts) {
  Serving serving({"--log-json"});
  const std::string prompt = "a secret of the user";
  const httplib::Result answer = serving.client().Post(
      "/v1/completions", ApiError::to_text({{"prompt", prompt}, {"max_tokens", 2}, {"ignore_eos", true}}),
      "application/json");
  ASSERT_EQ(answer->status, 200);
  EXPECT_EQ(serving.client().Get("/v1/nothing?q=secret")->status, 404);
  EXPECT_EQ(serving.end(), 0);
  std::vector<Json> lines;
  std::stringstream said(serving.terminal().seen());
  for (std::string line; std::getline(said, line);) {
    if (!line.starts_with('{')) continue;
    lines.push_back(Json::parse(line, nullptr, false));
    ASSERT_TRUE(lines.back().is_object()) << line;
    EXPECT_EQ(lines.back()["time"].get<std::string>().size(), std::string("2026-01-02T03:04:05.678Z").size())
        << line;
  }
  ASSERT_EQ(lines.size(), 3u) << serving.terminal().seen();
  EXPECT_EQ(lines[0]["level"], "info");
  EXPECT_EQ(lines[0]["route"], "/v1/completions");
  EXPECT_EQ(lines[0]["status"], 200);
  EXPECT_EQ(lines[0]["answer_tokens"], 2);
  EXPECT_EQ(lines[0]["id"], answer->get_header_value("x-request-id"));
  EXPECT_EQ(lines[1]["error"], "unknown_url");
  EXPECT_TRUE(lines[2].contains("message"));
  EXPECT_EQ(serving.terminal().seen().find("secret"), std::string::npos);
}

}  // namespace
}  // namespace moebius
