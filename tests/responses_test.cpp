// /v1/responses: what its requests become, its items and events, its store, whole requests over a socket.
#include <gtest/gtest.h>

#include "server/responses/response_answer.h"
#include "server/responses/response_items.h"
#include "server/responses/response_request.h"
#include "server/responses/response_store.h"
#include "tests/test_server.h"

namespace moebius {
namespace {

std::optional<ApiError> parse(const std::string& text, ResponseRequest& request) {
  const auto history = [](const std::string& id, Json& items) -> std::optional<ApiError> {
    if (id != "resp_1") return response_not_found(id, "previous_response_id");
    items = Json::parse(
        R"([{"id": "a", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "one"}]},
      {"id": "b", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "two"}]}])");
    return {};
  };
  return parse_response_request(parsed(text), tiny_limits(), history, false, request);
}

TEST(ResponseRequest, BecomesAConversation) {
  ResponseRequest request;
  const auto error = parse(
      R"({"model": "tiny", "instructions": "be brief", "previous_response_id": "resp_1", "max_output_tokens": 9,
          "temperature": 0, "metadata": {"k": "v"}, "reasoning": {"effort": "none", "summary": "auto"},
          "input": [{"role": "user", "content": "2+2?"},
            {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "wait", "annotations": []}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"a\": 1}"},
            {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "4"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "5"}]},
            {"role": "developer", "content": [{"type": "input_text", "text": "x"}, {"type": "input_text", "text": "y"}]}],
          "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": null},
                    {"type": "web_search"}],
          "tool_choice": {"type": "function", "name": "f"}, "parallel_tool_calls": false,
          "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "integer"}}}})",
      request);
  ASSERT_FALSE(error) << error->message;
  EXPECT_EQ(
      request.variables["messages"].dump(),
      R"([{"role":"system","content":"be brief"},{"role":"user","content":"one"},{"role":"assistant","content":"two"},)"
      R"({"role":"user","content":"2+2?"},{"role":"assistant","content":"wait","reasoning_content":"hm","tool_calls":[)"
      R"({"id":"c1","type":"function","function":{"name":"f","arguments":{"a":1}}},)"
      R"({"id":"c2","type":"function","function":{"name":"f","arguments":{}}}]},)"
      R"({"role":"tool","content":"4","tool_call_id":"c1"},{"role":"tool","content":"5","tool_call_id":"c2"},)"
      R"({"role":"system","content":"x\ny"}])");
  EXPECT_EQ(request.max_tokens, 9);
  EXPECT_EQ(request.think_limit, 0);
  EXPECT_TRUE(request.tools.required);
  EXPECT_FALSE(request.tools.rules.parallel);
  EXPECT_EQ(request.constraint.kind, ConstraintRequest::Kind::kJsonSchema);
  EXPECT_EQ(request.skipped_tools, std::vector<std::string>{"web_search"});
  EXPECT_EQ(request.input.size(), 8u);
  EXPECT_EQ(request.echo["metadata"]["k"], "v");
  EXPECT_EQ(request.echo["tools"].dump(),
            R"([{"name":"f","parameters":{"type":"object"},"type":"function","strict":false}])");
  EXPECT_EQ(request.echo["text"]["format"]["name"], "n");
  EXPECT_TRUE(request.store);
}

TEST(ResponseRequest, IsRefusedByName) {
  const std::vector<std::pair<std::string, std::string>> table = {
      {R"("x": 1)", "input"},
      {R"("input": 5)", "input"},
      {R"("input": [5])", "input[0]"},
      {R"("input": [{"role": "tool", "content": "x"}])", "input[0].role"},
      {R"("input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}])",
       "`input_image`"},
      {R"("input": [{"role": "user"}])", "input[0].content"},
      {R"("input": [{"type": "item_reference", "id": "x"}])", "`item_reference`"},
      {R"("input": [{"type": "function_call", "name": "f"}])", "input[0].call_id"},
      {R"("input": [{"type": "function_call_output", "output": "f"}])", "input[0].call_id"},
      {R"("input": [{"type": "function_call_output", "call_id": "f"}])", "input[0].output"},
      {R"("input": "a", "previous_response_id": "resp_2")", "resp_2"},
      {R"("input": "a", "instructions": ["x"])", "instructions"},
      {R"("input": "a", "tools": [{"type": "function"}])", "tools[0].name"},
      {R"("input": "a", "tools": [7])", "tools[0]"},
      {R"("input": "a", "tool_choice": "required")", "tool_choice"},
      {R"("input": "a", "text": {"format": {"type": "xml"}})", "text.format.type"},
      {R"("input": "a", "text": {"format": {"type": "json_schema"}})", "text.format.schema"},
      {R"("input": "a", "reasoning": {"effort": "huge"})", "reasoning_effort"},
      {R"("input": "a", "store": false, "background": true)", "background"},
      {R"("input": "a", "stream": true, "background": true)", "background"},
      {R"("input": "a", "conversation": "c")", "conversation"},
      {R"("input": "a", "prompt": {"id": "p"})", "prompt"},
      {R"("input": "a", "max_output_tokens": 0)", "max_completion_tokens"},
      {R"("input": "a", "temperature": "x")", "temperature"},
  };
  for (const auto& [fields, text] : table) {
    ResponseRequest request;
    const auto error = parse("{" + fields + "}", request);
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

std::vector<GenerationEvent> an_answer(FinishReason finish = FinishReason::kStop) {
  GenerationEvent end, done;
  end.kind = GenerationEvent::Kind::kChoiceDone;
  end.stats.prompt_tokens = 30, end.stats.reused_tokens = 20, end.stats.answer_tokens = 9;
  end.stats.finish = finish;
  done.kind = GenerationEvent::Kind::kDone;
  return {piece("hm", ""),
          piece("m", "Let"),
          piece("", " me."),
          piece("", "", {{0, "", "f", "{\"a\":"}}),
          piece("", "", {{0, "", "", " 1}"}, {1, "own_id", "g", "{}"}}),
          end,
          done};
}

std::string token_name(int32_t id) { return "t" + std::to_string(id); }

TEST(ResponseAnswer, IsItemsInOrder) {
  ResponseAnswer answer({"resp_1", "m", 5, false, false, {{"store", true}}}, token_name);
  EXPECT_EQ(answer.json()["status"], "in_progress");
  for (const GenerationEvent& event : an_answer()) EXPECT_EQ(answer.add(event), "");
  EXPECT_EQ(
      answer.json().dump(),
      R"({"id":"resp_1","object":"response","created_at":5,"status":"completed","error":null,"incomplete_details":null,)"
      R"("model":"m","output":[{"id":"rs_1_0","type":"reasoning","summary":[],"content":[{"type":"reasoning_text",)"
      R"("text":"hmm"}],"status":"completed"},{"id":"msg_1_1","type":"message","role":"assistant","content":[)"
      R"({"type":"output_text","text":"Let me.","annotations":[],"logprobs":[]}],"status":"completed"},)"
      R"({"id":"fc_1_2","type":"function_call","call_id":"call_1_0","name":"f","arguments":"{\"a\": 1}","status":"completed"},)"
      R"({"id":"fc_1_3","type":"function_call","call_id":"own_id","name":"g","arguments":"{}","status":"completed"}],)"
      R"("usage":{"input_tokens":30,"input_tokens_details":{"cached_tokens":20,"cache_write_tokens":0},"output_tokens":9,)"
      R"("output_tokens_details":{"reasoning_tokens":0},"total_tokens":39},"store":true})");
}

// What a client that builds the output from the events alone arrives at.
Json rebuild(const std::string& stream, std::string& types) {
  Json output = Json::array();
  int64_t number = 0;
  for (const auto& [name, data] : named_events_of(stream)) {
    EXPECT_EQ(data["type"], name);
    EXPECT_EQ(data["sequence_number"], number++);
    types += name + " ";
    if (name == "response.output_item.added") {
      EXPECT_EQ(data["output_index"], output.size());
      output.push_back(data["item"]);
      continue;
    }
    if (!data.contains("output_index")) continue;
    Json& item = output[data["output_index"].get<size_t>()];
    EXPECT_EQ(data.value("item_id", item["id"]), item["id"]);
    if (name == "response.content_part.added") item["content"].push_back(data["part"]);
    if (name == "response.function_call_arguments.delta")
      item["arguments"] = item["arguments"].get<std::string>() + data["delta"].get<std::string>();
    if (name == "response.output_text.delta" || name == "response.reasoning_text.delta") {
      Json& text = item["content"][0]["text"];
      text = text.get<std::string>() + data["delta"].get<std::string>();
    }
    if (name == "response.output_text.done") {
      EXPECT_EQ(data["text"], item["content"][0]["text"]);
    }
    if (name == "response.output_item.done") {
      item["status"] = data["item"]["status"];
      if (item["type"] == "message") item["content"][0]["logprobs"] = data["item"]["content"][0]["logprobs"];
      EXPECT_EQ(item, data["item"]);
    }
  }
  return output;
}

TEST(ResponseAnswer, StreamsNumberedEvents) {
  for (const FinishReason finish : {FinishReason::kStop, FinishReason::kLength}) {
    ResponseAnswer answer({"resp_1", "m", 5, true, true, Json::object()}, token_name);
    std::string text = answer.begin();
    text += answer.silence();
    for (const GenerationEvent& event : an_answer(finish)) text += answer.add(event);
    std::string types;
    EXPECT_EQ(rebuild(text, types), answer.json()["output"]);
    EXPECT_TRUE(
        types.starts_with("response.created response.in_progress response.in_progress "
                          "response.output_item.added response.content_part.added "
                          "response.reasoning_text.delta "))
        << types;
    const bool whole = finish == FinishReason::kStop;
    EXPECT_TRUE(types.ends_with(whole ? "response.completed " : "response.incomplete ")) << types;
    const Json last = named_events_of(text).back().second["response"];
    EXPECT_EQ(last, answer.json());
    EXPECT_EQ(last["incomplete_details"].is_null(), whole);
    EXPECT_EQ(last["output"][1]["content"][0]["logprobs"].size(), 1u);  // of " me.", the only one of content
  }
  ResponseAnswer failing({"resp_1", "m", 5, true, false, Json::object()}, token_name);
  failing.add(piece("", "Let"));
  const auto events = named_events_of(failing.failed(internal_error()));
  EXPECT_EQ(events.back().first, "response.failed");
  EXPECT_EQ(events.back().second["response"]["error"]["code"], "server_error");
  EXPECT_EQ(events.back().second["response"]["output"][0]["status"], "incomplete");
}

Json response(const std::string& id, const Json& previous = nullptr) {
  return {{"id", id},
          {"status", "completed"},
          {"previous_response_id", previous},
          {"output", Json::array({{{"id", "out_" + id}}})}};
}

TEST(ResponseStore, IsBounded) {
  ResponseStore store(3, 100'000);
  for (const char* id : {"a", "b", "c"}) store.put({response(id), Json::array()});
  EXPECT_TRUE(store.find("a"));  // used last now
  store.put({response("d"), Json::array()});
  EXPECT_TRUE(store.find("a") && store.find("c") && store.find("d"));
  EXPECT_FALSE(store.find("b"));
  store.put({response("e"), Json::array({std::string(99'000, 'x')})});
  EXPECT_TRUE(store.find("e"));
  store.put({response("f"), Json::array({std::string(99'000, 'x')})});
  EXPECT_FALSE(store.find("e"));
  store.put({response("g"), Json::array({std::string(100'001, 'x')})});
  EXPECT_FALSE(store.find("g"));
  EXPECT_TRUE(store.find("f"));
  EXPECT_TRUE(store.erase("f"));
  EXPECT_FALSE(store.erase("f"));
  store.put({response("h"), Json::array()});
  store.put({response("h"), Json::array()});  // replaces
  EXPECT_TRUE(store.erase("h"));
  EXPECT_FALSE(store.find("h"));
}

TEST(ResponseStore, WalksTheHistory) {
  ResponseStore store;
  const auto item = [](const char* id) { return Json::array({{{"id", id}}}); };
  store.put({response("a"), item("in_a")});
  store.put({response("b", "a"), item("in_b")});
  Json items;
  EXPECT_FALSE(store.history("b", items));
  EXPECT_EQ(items.dump(), R"([{"id":"in_a"},{"id":"out_a"},{"id":"in_b"},{"id":"out_b"}])");
  store.put({response("self", "self"), item("x")});
  EXPECT_FALSE(store.history("self", items));
  EXPECT_EQ(items.size(), 2 * ResponseStore::kResponses);
  store.erase("a");
  EXPECT_EQ(store.history("b", items)->code, "previous_response_not_found");
}

Json request(const Json& more = Json::object()) {
  Json body = {{"model", "tiny"}, {"input", "Hello there"}, {"temperature", 0}, {"max_output_tokens", 12}};
  body.update(more);
  return body;
}

TEST(EndToEnd, KeepsResponses) {
  TestServer server;
  const Json chat = server.ask("/v1/chat/completions",
                               {{"messages", Json::array({{{"role", "user"}, {"content", "Hello there"}}})},
                                {"temperature", 0},
                                {"max_tokens", 12}});
  const Json whole = server.ask("/v1/responses", request());
  EXPECT_EQ(whole["output"][0]["content"][0]["text"], chat["choices"][0]["message"]["content"]);
  EXPECT_EQ(whole["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
  const std::string id = whole["id"], path = "/v1/responses/" + id;
  EXPECT_EQ(Json::parse(server.client().Get(path)->body), whole);
  const Json items = Json::parse(server.client().Get(path + "/input_items")->body);
  EXPECT_EQ(items["data"][0]["content"][0]["text"], "Hello there");
  EXPECT_EQ(items["has_more"], false);
  EXPECT_EQ(server.client().Get(path + "/input_items?limit=0")->status, 400);
  EXPECT_EQ(server.client().Get(path + "/input_items?after=x")->status, 400);
  EXPECT_EQ(server.client().Get(path + "?stream=true")->status, 400);
  EXPECT_EQ(server.client().Post(path + "/cancel", "", "application/json")->status, 400);

  const Json next = server.ask("/v1/responses", request({{"previous_response_id", id}, {"input", "And?"}}));
  const Json again = server.ask("/v1/chat/completions",
                                {{"messages", Json::array({{{"role", "user"}, {"content", "Hello there"}},
                                                           chat["choices"][0]["message"],
                                                           {{"role", "user"}, {"content", "And?"}}})},
                                 {"temperature", 0},
                                 {"max_tokens", 12}});
  EXPECT_EQ(next["usage"]["input_tokens"], again["usage"]["prompt_tokens"]);
  EXPECT_EQ(next["output"][0]["content"][0]["text"], again["choices"][0]["message"]["content"]);
  EXPECT_EQ(server.ask("/v1/responses/input_tokens",
                       {{"previous_response_id", id}, {"input", "And?"}})["input_tokens"],
            again["usage"]["prompt_tokens"]);

  EXPECT_EQ(Json::parse(server.client().Delete(path)->body)["deleted"], true);
  EXPECT_EQ(server.client().Get(path)->status, 404);
  EXPECT_EQ(error_code(server.post("/v1/responses", request({{"previous_response_id", id}}))),
            "previous_response_not_found");
  const Json loose = server.ask("/v1/responses", request({{"store", false}}));
  EXPECT_EQ(server.client().Get("/v1/responses/" + loose["id"].get<std::string>())->status, 404);
}

TEST(EndToEnd, StreamsResponses) {
  TestServer server;
  const Json whole = server.ask("/v1/responses", request());
  const httplib::Result streamed = server.post("/v1/responses", request({{"stream", true}}));
  std::string types;
  const Json output = rebuild(streamed->body, types);
  EXPECT_EQ(output[0]["content"], whole["output"][0]["content"]);
  const Json last = named_events_of(streamed->body).back().second["response"];
  EXPECT_EQ(Json::parse(server.client().Get("/v1/responses/" + last["id"].get<std::string>())->body), last);
}

TEST(EndToEnd, AnswersInTheBackground) {
  TestServer server;
  const auto wait = [&](const std::string& path) {
    Json now = Json::parse(server.client().Get(path)->body);
    for (int i = 0; i < 500 && now["status"] == "in_progress"; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      now = Json::parse(server.client().Get(path)->body);
    }
    return now;
  };
  const Json whole = server.ask("/v1/responses", request());
  const Json begun = server.ask("/v1/responses", request({{"background", true}}));
  EXPECT_EQ(begun["status"], "in_progress");
  const Json ended = wait("/v1/responses/" + begun["id"].get<std::string>());
  EXPECT_EQ(ended["status"], whole["status"]);
  EXPECT_EQ(ended["output"][0]["content"], whole["output"][0]["content"]);

  // One that is cancelled while another is computed before it.
  const Json longer = {{"background", true}, {"max_output_tokens", 400}, {"ignore_eos", true}};
  const Json first = server.ask("/v1/responses", request(longer));
  const Json second = server.ask("/v1/responses", request(longer));
  const std::string path = "/v1/responses/" + second["id"].get<std::string>();
  const httplib::Result cancelled = server.client().Post(path + "/cancel", "", "application/json");
  EXPECT_EQ(cancelled->status, 200);
  EXPECT_EQ(Json::parse(cancelled->body)["status"], "cancelled") << cancelled->body;
  EXPECT_EQ(Json::parse(server.client().Get(path)->body)["status"], "cancelled");
  EXPECT_EQ(server.client().Delete("/v1/responses/" + first["id"].get<std::string>())->status, 200);
}

}  // namespace
}  // namespace moebius
