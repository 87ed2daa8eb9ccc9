// The server under TLS, to the HTTP library's client and to OpenSSL's.
#include <gtest/gtest.h>

#include "server/tls.h"
#include "tests/certificates.h"
#include "tests/raw_request.h"
#include "tests/test_server.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

class TlsServing : public ::testing::Test {
 protected:
  TlsServing() {
    write_certificate("first", certificate, key);
    ServerOptions options;
    options.ssl_cert_file = certificate;
    options.ssl_key_file = key;
    server = std::make_unique<TestServer>(options);
  }
  std::unique_ptr<httplib::SSLClient> client() const {
    auto made = std::make_unique<httplib::SSLClient>("localhost", server->port());
    made->set_ca_cert_path(certificate.c_str());
    made->set_address_family(AF_INET);
    made->set_read_timeout(60);
    return made;
  }

  const process::Scratch scratch;
  const std::string certificate = scratch.file("cert.pem"), key = scratch.file("key.pem");
  std::unique_ptr<TestServer> server;
};

TEST_F(TlsServing, AnswersWholeAndStreams) {
  EXPECT_EQ(client()->Get("/health")->body, R"({"status":"ok"})");
  const Json asked = {{"prompt", "Hello"}, {"temperature", 0}, {"ignore_eos", true}, {"max_tokens", 9}};
  const httplib::Result whole =
      client()->Post("/v1/completions", ApiError::to_text(asked), "application/json");
  ASSERT_TRUE(whole);
  Json streaming = asked;
  streaming["stream"] = true;
  const httplib::Result streamed =
      client()->Post("/v1/completions", ApiError::to_text(streaming), "application/json");
  ASSERT_TRUE(streamed);
  std::string pieces;
  for (const Json& event : events_of(streamed->body)) pieces += event["choices"][0]["text"];
  EXPECT_EQ(pieces, Json::parse(whole->body)["choices"][0]["text"]);
}

// Bodies and answers of many records, sized and chunked.
TEST_F(TlsServing, CarriesLargeBodies) {
  const std::string text(2 << 20, 'a');
  const std::string body = ApiError::to_text({{"prompt", text}});
  const httplib::Result sized = client()->Post("/tokenize", body, "application/json");
  ASSERT_TRUE(sized);
  const Json tokens = Json::parse(sized->body);
  EXPECT_GT(tokens["count"].get<int64_t>(), 1000);
  const auto provide = [&](size_t offset, httplib::DataSink& sink) {
    const size_t n = std::min<size_t>(10'000, body.size() - offset);
    sink.write(body.data() + offset, n);
    if (offset + n == body.size()) sink.done();
    return true;
  };
  const httplib::Result chunked = client()->Post("/tokenize", provide, "application/json");
  ASSERT_TRUE(chunked);
  EXPECT_EQ(chunked->body, sized->body);
}

TEST_F(TlsServing, KeepsTheLimitsOfTheHead) {
  EXPECT_EQ(client()->Get("/health", {{"X-A", std::string(9000, 'a')}})->status, 431);
  EXPECT_EQ(client()->Get("/health", {{"Host", "evil.example"}})->status, 403);
  EXPECT_EQ(client()->Post("/tokenize", {{"Transfer-Encoding", "chunked"}}, "{}", "application/json")->status,
            400);
}

TEST_F(TlsServing, RefusesWhatIsNotTls) {
  const RawRequest plain(server->port(), "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(plain.read_until("never").find("HTTP"), std::string::npos);
  EXPECT_EQ(subject_at(server->port()), "first");
  EXPECT_EQ(subject_at(server->port(), TLS1_2_VERSION), "first");
  EXPECT_EQ(subject_at(server->port(), TLS1_1_VERSION), "");
  EXPECT_EQ(client()->Get("/health")->status, 200);
}

// More than there are threads, that connect and say nothing, or the beginning of a handshake.
TEST_F(TlsServing, HandshakesThatDoNotEndTakeNoThread) {
  std::vector<std::unique_ptr<RawRequest>> waiting;
  const std::string hello("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11);
  for (int i = 0; i < 300; ++i)
    waiting.push_back(std::make_unique<RawRequest>(server->port(), i % 2 == 0 ? "" : hello));
  EXPECT_EQ(client()->Get("/health")->status, 200);
  for (const auto& one : waiting) EXPECT_FALSE(one->has_answer());
}

TEST_F(TlsServing, ReadsTheCertificateAgain) {
  write_certificate("second", certificate, key);
  EXPECT_EQ(subject_at(server->port()), "first") << "not before it is told to";
  EXPECT_TRUE(server->server().reload({}, {}).ok());
  EXPECT_EQ(subject_at(server->port()), "second");
  EXPECT_EQ(client()->Get("/health")->status, 200);
  scratch.write("cert.pem", "no certificate");
  EXPECT_EQ(server->server().reload({"k"}, {}).code(), Code::kInvalid);
  EXPECT_EQ(subject_at(server->port()), "second") << "what was there stays";
}

TEST(Tls, SaysWhichFileIsWrong) {
  const process::Scratch scratch;
  const std::string certificate = scratch.file("c"), key = scratch.file("k"), other = scratch.file("o");
  write_certificate("a", scratch.file("unused"), other);
  write_certificate("b", certificate, key);
  const std::string text = scratch.write("t", "text");
  EXPECT_TRUE(Tls::open(certificate, key).ok());
  struct Case {
    std::string certificate, key, names;
    Code code;
  };
  for (const Case& c :
       {Case{scratch.file("none"), key, scratch.file("none"), Code::kIo},
        Case{certificate, scratch.file("none"), scratch.file("none"), Code::kIo},
        Case{text, key, text, Code::kInvalid}, Case{certificate, text, text, Code::kInvalid},
        Case{certificate, other, other, Code::kInvalid}, Case{key, key, key, Code::kInvalid}}) {
    const Status status = Tls::open(c.certificate, c.key).status();
    EXPECT_EQ(status.code(), c.code) << status.message();
    EXPECT_TRUE(status.message().starts_with(c.names)) << status.message();
  }
}

}  // namespace
}  // namespace moebius
