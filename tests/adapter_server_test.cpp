// Adapters over HTTP: every way to choose one, loading and unloading, and what is refused.
#include "server/adapters.h"

#include <filesystem>

#include "tests/adapter_cases.h"
#include "tests/test_server.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;

void write_random_adapter(const std::string& dir, uint32_t seed) {
  const auto files = ModelFiles::open(kModel);
  const auto all = [](const ModelMatrix&) { return true; };
  const Status written =
      write_adapter(dir, (*files)->config(), adapters::random_factors((*files)->config(), all, 0.3f, seed),
                    {AdapterLayout::kPerExpert, "", "", "", ""});
  MOEBIUS_CHECK(written.ok(), written.message());
}

class AdapterServer : public testing::Test {
 protected:
  AdapterServer() {
    fs::create_directories(root());
    write_random_adapter(root() + "/one", 1);
    write_random_adapter(root() + "/two", 2);
    write_random_adapter(scratch.file("outside"), 3);
    fs::create_directory_symlink(scratch.file("outside"), root() + "/link");
  }
  std::string root() const { return scratch.file("adapters"); }
  ServerOptions with(std::vector<ServerOptions::NamedFolder> loaded) const {
    ServerOptions options;
    options.adapters = std::move(loaded);
    options.adapter_dir = root();
    return options;
  }
  static Json question(Json more) {
    Json body = {
        {"messages", {{{"role", "user"}, {"content", "hi"}}}}, {"max_tokens", 8}, {"temperature", 0}};
    body.update(more);
    return body;
  }
  static std::string said(const TestServer& server, const Json& more) {
    const Json answer = server.ask("/v1/chat/completions", question(more));
    return answer["model"].get<std::string>() + ": " +
           answer["choices"][0]["message"]["content"].get<std::string>();
  }
  static std::string refusal(const httplib::Result& result, int status) {
    if (!result) return "no answer";
    EXPECT_EQ(result->status, status) << result->body;
    const Json code = Json::parse(result->body)["error"]["code"];
    return code.is_string() ? code.get<std::string>() : "";
  }

  const process::Scratch scratch;
};

TEST_F(AdapterServer, TakesEverySpellingOfTheChoice) {
  const TestServer server(with({{"one", root() + "/one"}, {"two", root() + "/two"}}));
  const std::string base = said(server, Json::object()), one = said(server, {{"model", "one"}});
  EXPECT_TRUE(base.starts_with("tiny: ")) << base;
  EXPECT_TRUE(one.starts_with("one: ")) << one;
  EXPECT_NE(base.substr(6), one.substr(5));
  EXPECT_EQ(said(server, {{"model", "tiny"}}), base);
  EXPECT_EQ(said(server, {{"model", "tiny:one"}}), one);
  EXPECT_EQ(said(server, {{"adapter", "one"}}), one);
  EXPECT_EQ(said(server, {{"lora", {{{"id", 0}, {"scale", 1.0}}, {{"id", 1}, {"scale", 0.0}}}}}), one);
  EXPECT_EQ(said(server, {{"lora", {{{"id", "one"}}}}}), one);
  EXPECT_NE(said(server, {{"model", "two"}}).substr(5), one.substr(5));
}

TEST_F(AdapterServer, AnswersWithThemInEveryApi) {
  const TestServer server(with({{"one", root() + "/one"}}));
  const Json completion =
      server.ask("/v1/completions", {{"model", "one"}, {"prompt", "a"}, {"max_tokens", 4}});
  EXPECT_EQ(completion["model"], "one");
  EXPECT_EQ(server.ask("/v1/messages", question({{"model", "one"}}))["model"], "one");
  EXPECT_EQ(
      server.ask("/v1/responses", {{"model", "one"}, {"input", "a"}, {"max_output_tokens", 4}})["model"],
      "one");
}

TEST_F(AdapterServer, IsNotThereUnderANameThatNobodyGaveInAnyApi) {
  const TestServer server(with({{"one", root() + "/one"}}));
  for (const auto& [path, field] : {std::pair{"/v1/chat/completions", "user"},
                                    {"/v1/messages", "user"},
                                    {"/v1/responses", "input"},
                                    {"/v1/completions", "prompt"}}) {
    const httplib::Result result = server.post(path, question({{"model", "tiny:two"}, {field, "a"}}));
    ASSERT_TRUE(result);
    EXPECT_EQ(result->status, 404) << path << ": " << result->body;
  }
}

TEST_F(AdapterServer, ListsThemAsModels) {
  const TestServer server(with({{"one", root() + "/one"}}));
  const Json models = Json::parse(server.client().Get("/v1/models")->body);
  ASSERT_EQ(models["data"].size(), 2);
  EXPECT_EQ(models["data"][1]["id"], "one");
  EXPECT_EQ(models["data"][1]["parent"], "tiny");
  EXPECT_EQ(models["last_id"], "one");
  EXPECT_EQ(Json::parse(server.client().Get("/v1/models/one")->body)["id"], "one");
  EXPECT_EQ(Json::parse(server.client().Get("/lora-adapters")->body)[0]["path"], "one");
  const std::string listed = server.client().Get("/v1/lora_adapters")->body;
  EXPECT_EQ(Json::parse(listed)["data"][0]["name"], "one");
  EXPECT_EQ(listed.find(root()), std::string::npos);  // where it lies is nobody's business
}

TEST_F(AdapterServer, LoadsAndUnloadsOnRequest) {
  const TestServer server(with({}));
  EXPECT_EQ(refusal(server.post("/v1/chat/completions", question({{"model", "late"}})), 404),
            "model_not_found");
  const auto loaded = server.post("/v1/load_lora_adapter", {{"lora_name", "late"}, {"lora_path", "one"}});
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->status, 200) << loaded->body;
  const std::string first = said(server, {{"model", "late"}});
  EXPECT_TRUE(first.starts_with("late: "));
  const Json again = {{"lora_name", "late"},
                      {"lora_path", root() + "/two"}};  // an absolute path under the root
  EXPECT_EQ(refusal(server.post("/v1/load_lora_adapter", again), 400), "adapter_refused");
  Json inplace = again;
  inplace["load_inplace"] = true;
  EXPECT_EQ(server.post("/v1/load_lora_adapter", inplace)->status, 200);
  EXPECT_NE(said(server, {{"model", "late"}}), first);
  // One that cannot be read leaves the other in its place.
  fs::create_directories(root() + "/none");
  const std::string second = said(server, {{"model", "late"}});
  inplace["lora_path"] = "none";
  EXPECT_EQ(refusal(server.post("/v1/load_lora_adapter", inplace), 400), "adapter_refused");
  EXPECT_EQ(said(server, {{"model", "late"}}), second);
  EXPECT_EQ(server.post("/v1/unload_lora_adapter", {{"lora_name", "late"}})->status, 200);
  EXPECT_EQ(refusal(server.post("/v1/chat/completions", question({{"model", "late"}})), 404),
            "model_not_found");
  EXPECT_EQ(refusal(server.post("/v1/unload_lora_adapter", {{"lora_name", "late"}}), 404),
            "adapter_not_found");
}

TEST_F(AdapterServer, RefusesFoldersElsewhereAndNamesThatCannotBe) {
  const TestServer server(with({}));
  const auto load = [&](const std::string& name, const std::string& path) {
    return refusal(server.post("/v1/load_lora_adapter", {{"lora_name", name}, {"lora_path", path}}), 400);
  };
  for (const std::string& path :
       {std::string("../outside"), scratch.file("outside"), std::string("link"), std::string("nowhere"),
        std::string("/"), std::string(".."), std::string("one/../../outside")})
    EXPECT_EQ(load("x", path), "adapter_not_found") << path;
  EXPECT_EQ(load("tiny", "one"), "adapter_refused");
  EXPECT_EQ(load("a b", "one"), "adapter_refused");
  EXPECT_EQ(load(std::string(129, 'a'), "one"), "adapter_refused");
  fs::create_directories(root() + "/empty");
  const auto empty = server.post("/v1/load_lora_adapter", {{"lora_name", "x"}, {"lora_path", "empty"}});
  EXPECT_EQ(empty->body.find(root()), std::string::npos) << empty->body;
  EXPECT_EQ(refusal(server.post("/v1/chat/completions", question({{"adapter", "x"}})), 404),
            "adapter_not_found");
  EXPECT_EQ(refusal(server.post("/v1/chat/completions", question({{"lora", {{{"id", 3}}}}})), 404),
            "adapter_not_found");
  EXPECT_EQ(refusal(server.post("/v1/load_lora_adapter", {{"lora_path", "one"}}), 400), "");
}

TEST_F(AdapterServer, LoadsNothingForClientsWithoutAFolder) {
  const TestServer server;
  EXPECT_EQ(
      refusal(server.post("/v1/load_lora_adapter", {{"lora_name", "x"}, {"lora_path", root() + "/one"}}),
              403),
      "no_adapter_dir");
  EXPECT_EQ(refusal(server.post("/v1/unload_lora_adapter", {{"lora_name", "x"}}), 403), "no_adapter_dir");
}

}  // namespace
}  // namespace moebius
