// Anthropic's API: what its requests become, the blocks and events of its answers, whole requests over a
// socket.
#include <gtest/gtest.h>

#include "server/anthropic/message_answer.h"
#include "server/anthropic/message_request.h"
#include "tests/test_server.h"

namespace moebius {
namespace {

std::optional<ApiError> parse(const std::string& text, MessageRequest& request) {
  return parse_message_request(parsed(text), tiny_limits(), false, request);
}

std::string body(const std::string& fields) {
  return R"({"max_tokens": 5, "messages": [{"role": "user", "content": "hi"}])" +
         (fields.empty() ? "" : ", " + fields) + "}";
}

TEST(MessageRequest, BecomesAConversation) {
  MessageRequest request;
  const auto error = parse(
      R"({"max_tokens": 7, "temperature": 0.5, "top_k": 3, "stop_sequences": ["X"], "stream": true,
          "system": [{"type": "text", "text": "be", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "brief"}],
          "messages": [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"},
              {"type": "redacted_thinking", "data": "zz"}, {"type": "text", "text": "Wait."},
              {"type": "tool_use", "id": "t1", "name": "f", "input": {"z": 1, "a": [2]}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "4"}]},
              {"type": "text", "text": "so?"}]}],
          "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}},
                    {"type": "web_search_20250305", "name": "web_search"}],
          "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
          "thinking": {"type": "enabled", "budget_tokens": 2048}, "metadata": {"user_id": "u"}})",
      request);
  ASSERT_FALSE(error) << error->message;
  EXPECT_EQ(
      request.variables["messages"].dump(),
      R"([{"role":"system","content":"be\nbrief"},{"role":"user","content":"2+2?"},)"
      R"({"role":"assistant","content":"Wait.","reasoning_content":"hm","tool_calls":[{"id":"t1","type":"function",)"
      R"("function":{"name":"f","arguments":{"z":1,"a":[2]}}}]},)"
      R"({"role":"tool","content":"4","tool_call_id":"t1"},{"role":"user","content":"so?"}])");
  EXPECT_EQ(
      request.variables["tools"].dump(),
      R"([{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}])");
  EXPECT_TRUE(request.tools.required);
  EXPECT_FALSE(request.tools.rules.parallel);
  EXPECT_EQ(request.max_tokens, 7);
  EXPECT_EQ(request.sampling.top_k, 3);
  EXPECT_EQ(request.stop, std::vector<std::string>{"X"});
  EXPECT_TRUE(request.stream);
  EXPECT_EQ(request.think_limit, 2048);
  EXPECT_EQ(request.variables["enable_thinking"], true);
  EXPECT_EQ(request.skipped_tools, std::vector<std::string>{"web_search_20250305"});

  MessageRequest quiet;
  ASSERT_FALSE(parse(body(R"("thinking": {"type": "disabled"}, "tool_choice": {"type": "auto"},
      "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "integer"}}})"),
                     quiet));
  EXPECT_EQ(quiet.think_limit, 0);
  EXPECT_EQ(quiet.variables["enable_thinking"], false);
  EXPECT_EQ(quiet.constraint.kind, ConstraintRequest::Kind::kJsonSchema);
  EXPECT_EQ(quiet.variables["reasoning_effort"], "low");
}

TEST(MessageRequest, IsRefusedByName) {
  const std::vector<std::pair<std::string, std::string>> table = {
      {R"("max_tokens": null)", "max_tokens"},
      {R"("max_tokens": 0)", "max_tokens"},
      {R"("temperature": -1)", "temperature"},
      {R"("system": 5)", "system"},
      {R"("system": [{"type": "image"}])", "reads text only"},
      {R"("messages": null)", "messages"},
      {R"("messages": [])", "messages"},
      {R"("messages": [5])", "messages[0]"},
      {R"("messages": [{"role": "tool", "content": "x"}])", "messages[0].role"},
      {R"("messages": [{"role": "user"}])", "messages[0].content"},
      {R"("messages": [{"role": "user", "content": [1]}])", "messages[0].content"},
      {R"("messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}])", "`image`"},
      {R"("messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}])",
       "`tool_use`"},
      {R"("messages": [{"role": "user", "content": [{"type": "tool_result"}]}])", "tool_use_id"},
      {R"("messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])",
       "continued"},
      {R"("stop_sequences": "x")", "stop_sequences"},
      {R"("stop_sequences": [""])", "stop"},
      {R"("tools": [{"name": "f"}])", "input_schema"},
      {R"("tools": 5)", "tools"},
      {R"("tool_choice": {"type": "tool"})", "tool_choice.type"},
      {R"("tool_choice": {"type": "any"})", "tool_choice"},
      {R"("thinking": {"type": "enabled"})", "budget_tokens"},
      {R"("thinking": {"type": "maybe"})", "thinking.type"},
      {R"("output_config": {"format": {"type": "xml"}})", "output_config.format"},
      {R"("container": "c")", "container"},
      {R"("mcp_servers": [])", "mcp_servers"},
  };
  for (const auto& [fields, text] : table) {
    MessageRequest request;
    const auto error = parse(body(fields), request);
    ASSERT_TRUE(error) << fields;
    EXPECT_NE(error->message.find(text), std::string::npos) << fields << ": " << error->message;
  }
}

GenerationEvent piece(const std::string& reasoning, const std::string& text,
                      std::vector<CallPiece> calls = {}) {
  GenerationEvent event;
  event.id = 1;
  event.reasoning = reasoning;
  event.text = text;
  event.calls = std::move(calls);
  return event;
}

std::vector<GenerationEvent> an_answer() {
  GenerationEvent end, done;
  end.kind = GenerationEvent::Kind::kChoiceDone;
  end.stats.prompt_tokens = 30, end.stats.reused_tokens = 20, end.stats.answer_tokens = 9;
  end.stats.reasoning_tokens = 2;
  done.kind = GenerationEvent::Kind::kDone;
  return {piece("hm", ""),
          piece("m", "Let"),
          piece("", " me."),
          piece("", "", {{0, "", "f", "{\"a\":"}}),
          piece("", "", {{0, "", "", " 1}"}, {1, "own_id", "g", ""}}),
          piece("", "", {{1, "", "", "{}"}}),
          end,
          done};
}

TEST(MessageAnswer, IsBlocksInOrder) {
  MessageAnswer answer({"msg_1", "m", false, 30});
  for (const GenerationEvent& event : an_answer()) EXPECT_EQ(answer.add(event), "");
  EXPECT_EQ(
      answer.json().dump(),
      R"({"id":"msg_1","type":"message","role":"assistant","model":"m","content":[)"
      R"({"type":"thinking","thinking":"hmm","signature":""},{"type":"text","text":"Let me.","citations":null},)"
      R"({"type":"tool_use","id":"toolu_1_0","name":"f","input":{"a":1}},)"
      R"({"type":"tool_use","id":"own_id","name":"g","input":{}}],)"
      R"("stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":10,)"
      R"("cache_creation_input_tokens":0,"cache_read_input_tokens":20,"output_tokens":9,)"
      R"("output_tokens_details":{"thinking_tokens":2}}})");
}

TEST(MessageAnswer, StreamsEvents) {
  MessageAnswer answer({"msg_1", "m", true, 30});
  std::string text = answer.begin();
  for (const GenerationEvent& event : an_answer()) text += answer.add(event);
  std::string types;
  std::vector<std::string> blocks;
  int64_t open = -1;
  for (const auto& [name, data] : named_events_of(text)) {
    EXPECT_EQ(data["type"], name);
    types += name + " ";
    if (name == "content_block_start") {
      EXPECT_EQ(open, -1);
      open = data["index"];
      EXPECT_EQ(open, std::ssize(blocks));
      blocks.emplace_back();
    }
    if (name == "content_block_delta") {
      EXPECT_EQ(data["index"], open);
      for (const char* key : {"text", "thinking", "partial_json"})
        blocks.back() += data["delta"].value(key, "");
    }
    if (name == "content_block_stop") open = -1;
    if (name == "message_delta") {
      EXPECT_EQ(open, -1);
      EXPECT_EQ(data["delta"]["stop_reason"], "tool_use");
      EXPECT_EQ(data["usage"]["output_tokens"], 9);
    }
  }
  EXPECT_EQ(blocks, (std::vector<std::string>{"hmm", "Let me.", "{\"a\": 1}", "{}"}));
  EXPECT_TRUE(types.starts_with("message_start ping content_block_start ")) << types;
  EXPECT_TRUE(types.ends_with("content_block_stop message_delta message_stop ")) << types;
  EXPECT_EQ(named_events_of(answer.failed(bad_request("no")))[0].second.dump(),
            R"({"type":"error","error":{"type":"invalid_request_error","message":"no"}})");
}

TEST(MessageAnswer, SaysWhyItStopped) {
  const auto reason = [](FinishReason finish, const std::string& matched) {
    MessageAnswer answer({"msg_1", "m", false, 1});
    GenerationEvent end;
    end.kind = GenerationEvent::Kind::kChoiceDone;
    end.stats.finish = finish;
    end.stats.matched_stop = matched;
    answer.add(end);
    return answer.json()["stop_reason"].get<std::string>() + "/" + answer.json()["stop_sequence"].dump();
  };
  EXPECT_EQ(reason(FinishReason::kStop, ""), "end_turn/null");
  EXPECT_EQ(reason(FinishReason::kStop, "X"), "stop_sequence/\"X\"");
  EXPECT_EQ(reason(FinishReason::kLength, ""), "max_tokens/null");
}

TEST(EndToEnd, AnswersMessages) {
  TestServer server;
  const Json request = {{"model", "tiny"},
                        {"max_tokens", 12},
                        {"temperature", 0},
                        {"messages", Json::array({{{"role", "user"}, {"content", "Hello there"}}})}};
  const Json chat = server.ask("/v1/chat/completions", request);
  const Json message = server.ask("/v1/messages", request);
  EXPECT_EQ(message["content"][0]["text"], chat["choices"][0]["message"]["content"]);
  EXPECT_EQ(
      message["usage"]["input_tokens"].get<int>() + message["usage"]["cache_read_input_tokens"].get<int>(),
      chat["usage"]["prompt_tokens"]);
  EXPECT_EQ(server.ask("/v1/messages/count_tokens", request)["input_tokens"], chat["usage"]["prompt_tokens"]);
  Json streamed = request;
  streamed["stream"] = true;
  const httplib::Result result = server.post("/v1/messages", streamed);
  EXPECT_EQ(result->get_header_value("Content-Type"), "text/event-stream");
  EXPECT_TRUE(result->get_header_value("request-id").starts_with("req_"));
  std::string text;
  for (const auto& [name, data] : named_events_of(result->body)) {
    if (name == "content_block_delta") text += data["delta"]["text"];
    if (name == "message_start") {
      EXPECT_EQ(data["message"]["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
    }
  }
  EXPECT_EQ(text, message["content"][0]["text"]);
  Json search = request;
  search["tools"] = Json::array({{{"type", "web_search_20250305"}, {"name", "web_search"}}});
  EXPECT_EQ(server.post("/v1/messages", search)->get_header_value("x-moebius-skipped-tools"),
            "web_search_20250305");
}

TEST(EndToEnd, RefusesAsAnthropicDoes) {
  ServerOptions options;
  options.api_keys = {"k"};
  TestServer server(options);
  const auto error = [&](const char* path, const char* key, const std::string& text) {
    const httplib::Result result =
        server.client().Post(path, httplib::Headers{{"x-api-key", key}}, text, "application/json");
    const Json json = Json::parse(result->body);
    EXPECT_EQ(json["type"], "error") << result->body;
    return std::to_string(result->status) + " " + json["error"]["type"].get<std::string>();
  };
  EXPECT_EQ(error("/v1/messages", "wrong", "{}"), "401 authentication_error");
  EXPECT_EQ(error("/v1/messages", "k", "{"), "400 invalid_request_error");
  EXPECT_EQ(error("/v1/messages", "k", "[]"), "400 invalid_request_error");
  EXPECT_EQ(error("/v1/messages", "k", "{}"), "400 invalid_request_error");
  EXPECT_EQ(error("/v1/messages/batches", "k", "{}"), "404 not_found_error");
  EXPECT_EQ(error("/v1/messages", "k",
                  R"({"model": "x", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]})"),
            "404 not_found_error");
}

}  // namespace
}  // namespace moebius
