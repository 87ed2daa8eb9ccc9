// Constrained answers, tool calls and thinking: from the fields of a request, through pebble, to OpenAI's
// objects.
#include <gtest/gtest.h>

#include "server/answer.h"
#include "server/fields.h"
#include "server/json_input.h"
#include "server/request.h"
#include "tests/test_server.h"

namespace moebius {
namespace {

using Kind = ConstraintRequest::Kind;

ChatRequest parsed(const std::string& fields) {
  RequestLimits limits;
  limits.vocab = 512;
  ChatRequest request;
  const Result<Json> json =
      parse_json(R"({"messages": [{"role": "user", "content": "hi"}], )" + fields + "}");
  EXPECT_TRUE(json.ok()) << fields;
  const auto error = parse_chat_request(*json, limits, request);
  EXPECT_FALSE(error) << fields << error->message;
  return request;
}

TEST(ConstraintRequest, ReadsEverySpelling) {
  EXPECT_EQ(parsed(R"("response_format": {"type": "text"})").constraint.kind, Kind::kNone);
  EXPECT_EQ(parsed(R"("response_format": {"type": "json_object"})").constraint.kind, Kind::kJsonObject);
  EXPECT_EQ(parsed(R"("structured_outputs": {"json_object": true})").constraint.kind, Kind::kJsonObject);
  for (
      const char* schema :
      {R"("response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": {"a": 1}}})",
       R"("response_format": {"type": "json_object", "schema": {"a": 1}})", R"("guided_json": {"a": 1})",
       R"("guided_json": "{\"a\": 1}")", R"("json_schema": {"a": 1})",
       R"("structured_outputs": {"json": {"a": 1}})"}) {
    const ConstraintRequest asked = parsed(schema).constraint;
    EXPECT_EQ(asked.kind, Kind::kJsonSchema) << schema;
    EXPECT_EQ(asked.schema, Json({{"a", 1}})) << schema;
  }
  for (const char* regex : {R"("guided_regex": "a+")", R"("structured_outputs": {"regex": "a+"})"}) {
    EXPECT_EQ(parsed(regex).constraint.kind, Kind::kRegex);
    EXPECT_EQ(parsed(regex).constraint.text, "a+");
  }
  for (const char* choice :
       {R"("guided_choice": ["a", "b"])", R"("structured_outputs": {"choice": ["a", "b"]})"})
    EXPECT_EQ(parsed(choice).constraint.choices, (std::vector<std::string>{"a", "b"}));
  for (const char* grammar : {R"("grammar": "root ::= a")", R"("guided_grammar": "root ::= a")",
                              R"("structured_outputs": {"grammar": "root ::= a"})"})
    EXPECT_EQ(parsed(grammar).constraint.kind, Kind::kGrammar);
}

TEST(ConstraintRequest, ReadsTools) {
  const std::string tools =
      R"("tools": [{"type": "function", "function": {"name": "f", "strict": true, "parameters": {"type": "object"}}},
                                         {"type": "function", "function": {"name": "g"}}], )";
  ToolRequest asked = parsed(tools + R"("tool_choice": "auto", "parallel_tool_calls": false)").tools;
  ASSERT_EQ(asked.rules.functions.size(), 2u);
  EXPECT_TRUE(asked.rules.functions[0].strict && asked.rules.functions[1].parameters.is_null());
  EXPECT_FALSE(asked.required || asked.rules.parallel);
  EXPECT_TRUE(parsed(tools + R"("tool_choice": "required")").tools.required);
  for (
      const char* named :
      {R"("tool_choice": {"type": "function", "function": {"name": "g"}})",
       R"("tool_choice": {"type": "function", "name": "g"})",
       R"("tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "name": "g"}]}})"}) {
    const ChatRequest request = parsed(tools + named);
    EXPECT_TRUE(request.tools.required) << named;
    ASSERT_EQ(request.tools.rules.functions.size(), 1u) << named;
    EXPECT_EQ(request.tools.rules.functions[0].name, "g");
    EXPECT_EQ(request.variables["tools"].size(), 2u) << "the model sees all of them";
  }
  const ChatRequest none = parsed(tools + R"("tool_choice": "none")");
  EXPECT_TRUE(none.tools.rules.functions.empty());
  EXPECT_FALSE(none.variables.contains("tools"));
}

GenerationEvent piece(const std::string& reasoning, const std::string& text, std::vector<CallPiece> calls) {
  GenerationEvent event;
  event.reasoning = reasoning;
  event.text = text;
  event.calls = std::move(calls);
  event.id = 1;
  return event;
}

GenerationEvent ended(FinishReason reason) {
  GenerationEvent event;
  event.kind = GenerationEvent::Kind::kChoiceDone;
  event.stats.finish = reason;
  event.stats.answer_tokens = 9;
  event.stats.reasoning_tokens = 4;
  return event;
}

Answer make_answer(bool stream) {
  AnswerOptions options;
  options.id = "chatcmpl-XY";
  options.stream = stream;
  return Answer(options, [](int32_t) { return std::string(); });
}

const std::vector<GenerationEvent> kEvents = {
    piece("Hm", "", {}), piece("", "I call", {}), piece("", "", {{0, "", "f", ""}}),
    piece("", "", {{0, "", "", "{\"a\":"}}),
    piece("", "", {{0, "", "", " 1}"}, {1, "functions.g:1", "g", "{}"}})};

TEST(Answer, HoldsThinkingAndCalls) {
  Answer answer = make_answer(false);
  for (const GenerationEvent& event : kEvents) answer.add(event);
  answer.add(ended(FinishReason::kStop));
  EXPECT_EQ(
      answer.json()["choices"][0].dump(),
      R"({"index":0,"message":{"role":"assistant","content":"I call","refusal":null,"reasoning_content":"Hm","tool_calls":[)"
      R"({"id":"call_XY_0_0","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}},)"
      R"({"id":"functions.g:1","type":"function","function":{"name":"g","arguments":"{}"}}]},)"
      R"("logprobs":null,"finish_reason":"tool_calls"})");
  EXPECT_EQ(answer.json()["usage"]["completion_tokens_details"]["reasoning_tokens"], 4);
  Answer alone = make_answer(false);
  alone.add(piece("", "", {{0, "", "f", "{"}}));
  alone.add(ended(FinishReason::kLength));
  EXPECT_TRUE(alone.json()["choices"][0]["message"]["content"].is_null());
  EXPECT_EQ(alone.json()["choices"][0]["finish_reason"], "length");
}

TEST(Answer, StreamsThinkingAndCalls) {
  Answer answer = make_answer(true);
  std::vector<std::string> deltas;
  std::string stream;
  for (const GenerationEvent& event : kEvents) stream += answer.add(event);
  stream += answer.add(ended(FinishReason::kStop));
  GenerationEvent done;
  done.kind = GenerationEvent::Kind::kDone;
  stream += answer.add(done);
  for (const Json& event : events_of(stream)) deltas.push_back(event["choices"][0]["delta"].dump());
  const std::vector<std::string> expected = {
      R"({"role":"assistant","content":""})",
      R"({"reasoning_content":"Hm"})",
      R"({"content":"I call"})",
      R"({"tool_calls":[{"index":0,"id":"call_XY_0_0","type":"function","function":{"name":"f","arguments":""}}]})",
      R"({"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]})",
      R"({"tool_calls":[{"index":0,"function":{"arguments":" 1}"}}]})",
      R"({"tool_calls":[{"index":1,"id":"functions.g:1","type":"function","function":{"name":"g","arguments":"{}"}}]})",
      "{}"};
  EXPECT_EQ(deltas, expected);
  EXPECT_NE(stream.find(R"("finish_reason":"tool_calls")"), std::string::npos);
}

class Pebble : public TestServer {
 public:
  Pebble() : TestServer({}, options()) {}

 private:
  static EngineOptions options() {
    EngineOptions out;
    out.model = "models/pebble";
    return out;
  }
};

Json asking(const std::string& question, const Json& more = Json::object()) {
  Json body = {{"messages", Json::array({{{"role", "user"}, {"content", question}}})},
               {"temperature", 0},
               {"max_tokens", 120}};
  body.update(more);
  return body;
}

const char* kChat = "/v1/chat/completions";

Json calculator() {
  return Json::parse(
      R"([{"type": "function", "function": {"name": "calculator", "description": "Evaluates an expression with + - * / and parentheses.",
      "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}}}])");
}

TEST(Constrained, AnswersSatisfyWhatIsAsked) {
  Pebble server;
  const auto content = [&](const Json& more) {
    const Json answer = server.ask(kChat, asking("What is 47 + 85?", more));
    EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop") << answer;
    return answer["choices"][0]["message"]["content"].get<std::string>();
  };
  const Json schema = Json::parse(
      R"({"type": "object", "properties": {"answer": {"type": "integer", "minimum": 0, "maximum": 999},
      "sure": {"type": "boolean"}}, "required": ["answer", "sure"], "additionalProperties": false})");
  for (const double temperature : {0.0, 1.0, 3.0}) {
    const Json value =
        Json::parse(content({{"temperature", temperature},
                             {"seed", 5},
                             {"response_format",
                              {{"type", "json_schema"},
                               {"json_schema", {{"name", "n"}, {"strict", true}, {"schema", schema}}}}}}),
                    nullptr, false);
    ASSERT_TRUE(value.is_object()) << value;
    EXPECT_TRUE(value.size() == 2 && value["answer"].is_number_integer() && value["sure"].is_boolean())
        << value;
  }
  const std::string choice = content({{"guided_choice", {"132", "133"}}});
  EXPECT_EQ(choice, "132");  // that it knows
  const std::string by_regex = content({{"guided_regex", "Answer: [0-9]{3}"}});
  EXPECT_TRUE(by_regex.size() == 11 && by_regex.starts_with("Answer: ")) << by_regex;
  EXPECT_EQ(content({{"grammar", "root ::= \"The answer is \" [0-9]+ \".\""}}).substr(0, 14),
            "The answer is ");
  const Json completion = server.ask(
      "/v1/completions", {{"prompt", "2 + 2 ="}, {"max_tokens", 40}, {"guided_choice", {" four", " 4"}}});
  EXPECT_EQ(completion["choices"][0]["finish_reason"], "stop");
  const std::string text = completion["choices"][0]["text"];
  EXPECT_TRUE(text == " four" || text == " 4") << text;
  // Cut off: valid so far, and said to be cut.
  const Json cut =
      server.ask(kChat, asking("Hi", {{"max_tokens", 3}, {"response_format", {{"type", "json_object"}}}}));
  EXPECT_EQ(cut["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(cut["choices"][0]["message"]["content"].get<std::string>().substr(0, 1), "{");
}

TEST(Constrained, CallsTools) {
  Pebble server;
  const Json auto_call =
      server.ask(kChat, asking("What is 4567 * 89?", {{"tools", calculator()}}))["choices"][0];
  EXPECT_EQ(auto_call["finish_reason"], "tool_calls") << auto_call;
  EXPECT_TRUE(auto_call["message"]["content"].is_null());
  ASSERT_EQ(auto_call["message"]["tool_calls"].size(), 1u);
  const Json call = auto_call["message"]["tool_calls"][0];
  EXPECT_EQ(call["function"]["name"], "calculator");
  EXPECT_EQ(Json::parse(call["function"]["arguments"].get<std::string>()),
            Json({{"expression", "4567 * 89"}}));

  // The result goes back, and the answer uses it.
  Json conversation = asking("What is 4567 * 89?", {{"tools", calculator()}});
  conversation["messages"].push_back(auto_call["message"]);
  conversation["messages"].push_back({{"role", "tool"}, {"tool_call_id", call["id"]}, {"content", "406463"}});
  const Json answer = server.ask(kChat, conversation)["choices"][0];
  EXPECT_EQ(answer["finish_reason"], "stop");
  EXPECT_NE(answer["message"]["content"].get<std::string>().find("406463"), std::string::npos) << answer;

  std::string name, arguments, finish;
  for (const Json& event : events_of(
           server.post(kChat, asking("What is 4567 * 89?", {{"tools", calculator()}, {"stream", true}}))
               ->body)) {
    const Json& choice = event["choices"][0];
    EXPECT_EQ(choice["delta"].value("content", ""), "");
    for (const Json& piece : choice["delta"].value("tool_calls", Json::array())) {
      EXPECT_EQ(piece["index"], 0);
      name += piece["function"].value("name", "");
      arguments += piece["function"].value("arguments", "");
    }
    if (choice["finish_reason"].is_string()) finish = choice["finish_reason"];
  }
  EXPECT_EQ(name, "calculator");
  EXPECT_EQ(arguments, call["function"]["arguments"]);
  EXPECT_EQ(finish, "tool_calls");

  // Forced where the model would rather answer, and by a schema that it never saw.
  Json tools = calculator();
  tools.push_back(Json::parse(
      R"({"type": "function", "function": {"name": "set_timer", "strict": true, "parameters": {"type": "object",
      "properties": {"minutes": {"type": "integer", "minimum": 1, "maximum": 60}}, "required": ["minutes"], "additionalProperties": false}}})"));
  for (const Json& choice :
       {Json("required"), Json({{"type", "function"}, {"function", {{"name", "set_timer"}}}})}) {
    const Json forced = server.ask(
        kChat,
        asking("Sort 3, 1, 2.",
               {{"tools", tools}, {"tool_choice", choice}, {"parallel_tool_calls", false}}))["choices"][0];
    EXPECT_EQ(forced["finish_reason"], "tool_calls") << forced;
    ASSERT_EQ(forced["message"]["tool_calls"].size(), 1u);
    const Json& function = forced["message"]["tool_calls"][0]["function"];
    const Json given = Json::parse(function["arguments"].get<std::string>(), nullptr, false);
    if (choice.is_object()) {
      EXPECT_EQ(function["name"], "set_timer");
      EXPECT_TRUE(given["minutes"].is_number_integer() && given["minutes"] >= 1 && given["minutes"] <= 60)
          << given;
    }
  }
  const Json none = server.ask(
      kChat, asking("What is 4567 * 89?", {{"tools", calculator()}, {"tool_choice", "none"}}))["choices"][0];
  EXPECT_FALSE(none["message"].contains("tool_calls")) << none;
}

TEST(Constrained, RefusesByName) {
  Pebble server;
  const auto refused = [&](const Json& more, const std::string& word) {
    const httplib::Result result = server.post(kChat, asking("Hi", more));
    ASSERT_TRUE(result);
    EXPECT_EQ(result->status, 400) << result->body;
    EXPECT_EQ(error_code(result), "unsupported_constraint") << result->body;
    EXPECT_NE(result->body.find(word), std::string::npos) << result->body;
  };
  refused({{"guided_json", {{"type", "string"}, {"not", {{"maxLength", 3}}}}}}, "`not` at #");
  refused({{"guided_regex", "(?=a)b"}}, "look-around");
  refused({{"grammar", "root ::= x"}}, "`x`");
  refused({{"guided_json", {{"type", "array"}, {"items", false}, {"minItems", 1}}}}, "contradicts");
  Json strict = calculator();
  strict[0]["function"]["strict"] = true;
  strict[0]["function"]["parameters"]["properties"]["expression"]["not"] = Json::object();
  refused({{"tools", strict}}, "calculator");
  TestServer without;  // its template knows no calls
  EXPECT_EQ(error_code(without.post(kChat, asking("Hi", {{"tools", calculator()}}))),
            "unsupported_parameter");
}

TEST(Constrained, SurvivesHostileRequests) {
  Pebble server;
  Json deep = {{"type", "string"}};
  for (int i = 0; i < 25; ++i) deep = {{"type", "array"}, {"items", std::move(deep)}};
  Json bomb = Json::parse(R"({"$ref": "#/$defs/d40", "$defs": {"d0": {"type": "string"}}})");
  for (int i = 1; i <= 40; ++i) {
    const Json before = {{"$ref", "#/$defs/d" + std::to_string(i - 1)}};
    bomb["$defs"]["d" + std::to_string(i)] = {
        {"anyOf", Json::array({before,
                               {{"type", "array"}, {"items", before}},
                               {{"type", "object"}, {"additionalProperties", before}}})}};
  }
  Json wide = {{"type", "object"}, {"properties", Json::object()}};
  for (int i = 0; i < 1100; ++i)
    wide["properties"]["p" + std::to_string(i)] = {{"type", {"string", "null", "number"}},
                                                   {"maxLength", 1000 + i}};
  Json doubling = {{"type", "object"}};  // what holds beside anyOf is compiled once for every alternative
  for (int i = 0; i < 20; ++i) {
    const Json part = {{"required", Json::array({"a"})}};
    doubling = {{"type", "object"}, {"properties", {{"a", doubling}}}, {"anyOf", Json::array({part, part})}};
  }
  const Json self = Json::parse(
      R"({"type": "object", "properties": {"a": {"$ref": "#", "required": ["a"]}, "b": {"$ref": "#", "required": ["b"]}}})");
  std::string rules = "root ::= r0\n";
  for (int i = 0; i < 9000; ++i)
    rules += "r" + std::to_string(i) + " ::= r" + std::to_string((i * 7 + 1) % 9000) + " \"a\" | \"b\"\n";
  const std::vector<std::pair<const char*, Json>> table = {
      {"guided_json", deep},
      {"guided_json", bomb},
      {"guided_json", wide},
      {"guided_json", doubling},
      {"guided_json", self},
      {"grammar", rules},
      {"grammar", "root ::= root"},
      {"grammar", "root ::= " + std::string(50'000, '(')},
      {"guided_regex", std::string(100'000, '(')},
      {"guided_regex", "((((a{1,1000}){1,1000}){1,1000}){1,1000}){1,1000}"},
      {"guided_regex", "(a?){1000}(a|aa){1000}"},
      {"guided_regex", "(.*a){500}"},
      {"guided_json", {{"type", "string"}, {"minLength", 1e9}}}};
  for (const auto& [field, value] : table) {
    const auto begin = std::chrono::steady_clock::now();
    const httplib::Result result = server.post(kChat, asking("Hi", {{field, value}, {"max_tokens", 20}}));
    ASSERT_TRUE(result) << field;
    EXPECT_TRUE(result->status == 200 || result->status == 400) << result->body;
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20))
        << field << result->body.substr(0, 300);
  }
  EXPECT_EQ(server.ask(kChat,
                       asking("Hi", {{"guided_choice", {"still here"}}}))["choices"][0]["message"]["content"],
            "still here");
}

}  // namespace
}  // namespace moebius
