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

// --- limits ---

TemplateLimits small_limits() {
  TemplateLimits limits;
  limits.steps = 200'000;
  limits.output_bytes = 1 << 20;
  return limits;
}

void expect_refused(const std::string& source, const std::string& reason,
                    const Json& variables = Json::object()) {
  SCOPED_TRACE(source.substr(0, 200));
  const auto result = render(source, variables, small_limits());
  ASSERT_FALSE(result.ok());
  const std::string& message = result.status().message();
  EXPECT_NE(message.find(reason), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_LT(message.size(), 400u);
}

TEST(ChatTemplateLimits, StopsTemplatesThatDoNotEnd) {
  const std::string steps = "does not end within 200000 steps";
  expect_refused("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "");
  expect_refused("{% set l = [1] %}{% for i in l %}{% set _ = l.append(1) %}{% endfor %}", "1048576 bytes");
  expect_refused("{% set s = 'ab' * 200000 %}{% for i in range(9999) %}{{ s.count('b') }}{% endfor %}",
                 steps);
  expect_refused("{% set s = 'a' * 400000 %}{% for i in range(9999) %}{{ s.rfind('b') }}{% endfor %}", steps);
  expect_refused("{% set s = 'a' * 400000 %}{% for i in range(9999) %}{{ s == s }}{% endfor %}", steps);
  expect_refused("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}\n{{ m(0) }}",
                 "nesting is deeper than 500 levels");
  expect_refused("{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
                 "nesting");
  expect_refused("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", "nesting");
}

TEST(ChatTemplateLimits, StopsTemplatesThatGrow) {
  const std::string memory = "needs more than 1048576 bytes";
  expect_refused("{{ 'a' * 10000000000000 }}", memory);
  expect_refused("{{ [1] * 10000000000000 }}", memory);
  expect_refused("{{ ('abcdefgh' * 9999) | replace('', 'xxxxxxxxxxxxxxxxxxxx') }}", memory);
  expect_refused("{{ ('a\\n' * 9999) | indent(1000) }}", memory);
  expect_refused("{{ 'a' | indent(10000000000) }}", memory);
  expect_refused("{{ 'a'.ljust(10000000000) }}{{ 'a'.zfill(10000000000) }}", memory);
  expect_refused("{{ '%10000000000d' % 1 }}", memory);
  expect_refused("{{ '{:>1000000000}'.format(1) }}", memory);
  expect_refused("{{ range(1000) | join('x' * 9999) }}", memory);
  expect_refused("{{ ('x' * 9999).join('abc' * 999) }}", memory);
  expect_refused("{{ [1] | tojson(indent=10000000000) }}", memory);
  expect_refused("{{ [[1]] | tojson(indent='x' * 900000) }}", memory);
  expect_refused("{{ [1] | batch(10000000000, 0) | list }}", memory);
  expect_refused("{{ [1] | slice(10000000000) | list }}", memory);
  expect_refused("{{ ('ab' * 99999) | list }}", memory);
  expect_refused(
      "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
      memory);
  expect_refused(
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}"
      "{{ ns.l }}",
      "does not end within");
  expect_refused("{% for i in range(99999) %}{{ 'text text text' }}{% endfor %}", memory);
  expect_refused(
      "{% macro m(s) %}{{ s }}{{ s }}{% endmacro %}{% set ns = namespace(s='ab') %}"
      "{% for i in range(99) %}{% set ns.s = m(ns.s) %}{% endfor %}",
      memory);
}

TEST(ChatTemplateLimits, GivesBackTheBytesOfStrings) {
  const std::string source =
      "{% set ns = namespace(s='') %}{% for i in range(999) %}{% set ns.s = 'abc' * 9999 %}{% endfor %}{{ "
      "ns.s | length }}";
  TemplateLimits limits = small_limits();
  limits.steps = 5'000'000;
  const auto result = render(source, Json::object(), limits);
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(*result, "29997");
}

TEST(ChatTemplateLimits, BoundsNesting) {
  const auto repeat = [](const std::string& text, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += text;
    return out;
  };
  constexpr int kDeep = 100'000;
  const std::string nesting = "deeper than 500 levels";
  expect_refused("{{ " + repeat("(", kDeep), nesting);
  expect_refused("{{ " + repeat("[", kDeep), nesting);
  expect_refused("{{ " + repeat("{1:", kDeep), nesting);
  expect_refused("{{ " + repeat("not ", kDeep), nesting);
  expect_refused("{{ " + repeat("-", kDeep), nesting);
  expect_refused("{{ a" + repeat("[a", kDeep), nesting);
  expect_refused("{{ a" + repeat("(a", kDeep), nesting);
  expect_refused("{{ 1" + repeat(" if 1 else 1", kDeep), nesting);
  expect_refused("{{ 1" + repeat(" + 1", kDeep) + " }}", nesting);
  expect_refused("{{ a" + repeat(".a", kDeep) + " }}", nesting);
  expect_refused("{{ a" + repeat("|upper", kDeep) + " }}", nesting);
  expect_refused("{% filter upper" + repeat("|upper", kDeep) + " %}x{% endfilter %}", nesting);
  expect_refused(repeat("{% if a %}", kDeep), nesting);
  expect_refused(repeat("{% for a in b %}", kDeep), nesting);
  expect_refused(
      "{% set ns = namespace(l=[]) %}{% for i in range(999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
      nesting);
  expect_refused(
      "{% set ns = namespace(l=[]) %}{% for i in range(999) %}{% set ns.l = [ns.l] %}{% endfor %}"
      "{{ ns.l | tojson }}",
      nesting);
  expect_refused(
      "{% set a = [] %}{% set b = [] %}{% set _ = a.append(b) %}{% set _ = b.append(a) %}{{ a == b }}",
      nesting);
  expect_refused("{% set a = [] %}{% set _ = a.append(a) %}{{ a }}", nesting);
  Json deep = 1;
  for (int i = 0; i < 2000; ++i) {
    Json outer = Json::array();
    outer.push_back(std::move(deep));
    deep = std::move(outer);
  }
  expect_refused("x", nesting, {{"messages", deep}});
  const auto many = render(repeat("{% if true %}x{% endif %}", 5000), Json::object(), small_limits());
  EXPECT_TRUE(many.ok());
}

TEST(ChatTemplateLimits, HoldsOnToTheDepthItAllows) {
  // As deep as the default limit lets a template be, on the stack of an ordinary thread.
  std::string source =
      "{% macro m(n) %}{% if n > 0 %}{% for i in [1] %}{{ (m(n - 1) + '') | trim }}{% endfor %}"
      "{% endif %}x{% endmacro %}{{ m(N) }}";
  std::string last;
  for (int n = 1; n < 200; ++n) {
    std::string deeper = source;
    deeper.replace(deeper.find("N"), 1, std::to_string(n));
    const auto result = render(deeper, Json::object());
    if (!result.ok()) {
      EXPECT_NE(result.status().message().find("nesting"), std::string::npos);
      EXPECT_GT(n, 20);
      return;
    }
  }
  FAIL() << "the depth has no end";
}

TEST(ChatTemplate, SaysWhatIsWrongAndWhere) {
  const auto message = [](const std::string& source) {
    const auto result = render(source, {{"a", 1}});
    return result.ok() ? "rendered: " + *result : result.status().message();
  };
  EXPECT_EQ(message("a\n{{ missing.role }}"), "chat template, line 2: 'missing' is undefined");
  EXPECT_EQ(message("\n\n{{ a.b.c }}"), "chat template, line 3: a value of type int has no attribute 'b'");
  EXPECT_EQ(message("{% if a %}\n{{ raise_exception('no\\nway') }}{% endif %}"),
            "chat template, line 2: no way");
  EXPECT_EQ(message("{% for %}"), "chat template, line 1: unexpected '%}'");
  EXPECT_EQ(message("{% if a %}\n"), "chat template, line 1: a block is not closed; it needs {% endif %}");
  EXPECT_EQ(message("{% frob %}"), "chat template, line 1: unknown or misplaced statement 'frob'");
  EXPECT_EQ(render("{% include 'x' %}", Json::object()).status().code(), Code::kUnsupported);
  EXPECT_EQ(render("{{ a | xmlattr }}", {{"a", 1}}).status().code(), Code::kUnsupported);
  EXPECT_EQ(render("\xff", Json::object()).status().code(), Code::kInvalid);
  EXPECT_EQ(render("{{ a }}", {{"a", "\xff"}}).status().code(), Code::kInvalid);
  EXPECT_EQ(render("x", Json::array()).status().code(), Code::kInvalid);
}

TEST(ChatTemplate, DoesNotChangeTheCallersVariables) {
  const Json variables = {{"l", {1, 2}}};
  const auto parsed = ChatTemplate::parse("{{ l.append(3) }}{{ l }}");
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(*(*parsed)->render(variables), "None[1, 2, 3]");
  EXPECT_EQ(*(*parsed)->render(variables), "None[1, 2, 3]");
}

TEST(ChatTemplate, RendersFromSeveralThreads) {
  const Json golden = Json::parse(read(kFolder + "conversations.json"));
  const auto parsed = ChatTemplate::parse(read(kFolder + "Kimi-K2-Instruct.jinja"));
  ASSERT_TRUE(parsed.ok());
  const Json& variables = golden["variables"]["tool calls"];
  const std::string expected = *(*parsed)->render(variables);
  std::vector<std::thread> threads;
  std::vector<int> equal(4, 0);
  for (size_t t = 0; t < equal.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) equal[t] += *(*parsed)->render(variables) == expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(equal, std::vector<int>(4, 50));
}

}  // namespace
}  // namespace moebius
