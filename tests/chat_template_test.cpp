#include "models/chat_template.h"

#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include <gtest/gtest.h>

namespace moebius {
namespace {

using Json = nlohmann::ordered_json;

const std::string kFolder = "tests/golden/templates/";

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// The moment at which the golden files were rendered.
TemplateLimits golden_limits() {
  TemplateLimits limits;
  limits.clock = [] {
    std::tm time{};
    time.tm_year = 125;
    time.tm_mon = 2;
    time.tm_mday = 9;
    time.tm_hour = 7;
    time.tm_min = 5;
    time.tm_sec = 2;
    time.tm_wday = 0;
    time.tm_yday = 67;
    return time;
  };
  return limits;
}

Result<std::string> render(const std::string& source, const Json& variables,
                           TemplateLimits limits = golden_limits()) {
  auto parsed = ChatTemplate::parse(source, std::move(limits));
  if (!parsed.ok()) return parsed.status();
  return (*parsed)->render(variables);
}

void expect_result(const std::string& source, const Json& variables, const Json& golden) {
  const auto result = render(source, variables);
  if (!golden.contains("error")) {
    ASSERT_TRUE(result.ok()) << result.status().message();
    EXPECT_EQ(*result, golden["output"].get<std::string>());
    return;
  }
  ASSERT_FALSE(result.ok()) << "rendered: " << *result;
  EXPECT_EQ(result.status().message().find('\n'), std::string::npos);
  EXPECT_NE(result.status().message().find(golden["message"].get<std::string>()), std::string::npos)
      << result.status().message();
}

TEST(ChatTemplate, RendersConversationsAsPythonDoes) {
  const Json golden = Json::parse(read(kFolder + "conversations.json"));
  std::map<std::string, std::string> sources;
  int rendered = 0;
  for (const Json& row : golden["results"]) {
    const auto name = row["template"].get<std::string>();
    const auto title = row["case"].get<std::string>();
    SCOPED_TRACE(name + ": " + title);
    if (sources.count(name) == 0) sources[name] = read(kFolder + name);
    expect_result(sources[name], golden["variables"][title], row);
    rendered += row.contains("output");
  }
  EXPECT_EQ(sources.size(), 6u);
  EXPECT_GT(rendered, 200);
}

TEST(ChatTemplate, RendersSnippetsAsPythonDoes) {
  const Json golden = Json::parse(read(kFolder + "snippets.json"));
  ASSERT_GT(golden["results"].size(), 250u);
  for (const Json& row : golden["results"]) {
    const auto source = row["source"].get<std::string>();
    SCOPED_TRACE(source);
    expect_result(source, golden["variables"], row);
  }
}

}  // namespace
}  // namespace moebius
