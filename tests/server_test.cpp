// The pure parts of the server: schema, access, the check of a request's head, framing.
#include <gtest/gtest.h>

#include "server/access.h"
#include "server/answer.h"
#include "server/chunk_guard.h"
#include "server/json_input.h"
#include "server/key_ring.h"
#include "server/request.h"
#include "server/request_head.h"

namespace moebius {
namespace {

RequestLimits test_limits() {
  RequestLimits limits;
  limits.vocab = 512;
  limits.sampling.temperature = 0.8f;
  limits.sampling.top_k = 7;
  return limits;
}

std::string repeated(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

std::string numbered_keys(int count) {
  std::string out = "\"0\": 0";
  for (int i = 1; i < count; ++i) out += ", \"" + std::to_string(i) + "\": 0";
  return out;
}

struct Refused {
  std::string fields;  // after {"messages": [...], or {"prompt": "a",
  int status;
  std::string param, code;  // "": null
};

std::string code_of(const std::optional<ApiError>& error) {
  return error ? error->code.value_or("") : "none";
}
std::string param_of(const std::optional<ApiError>& error) {
  return error ? error->param.value_or("") : "none";
}

std::optional<ApiError> chat_error(const std::string& text, ChatRequest& request) {
  const Result<Json> json = parse_json(text);
  if (!json.ok()) return bad_request(json.status().message());
  return parse_chat_request(*json, test_limits(), request);
}

std::optional<ApiError> completion_error(const std::string& text, CompletionRequest& request) {
  const Result<Json> json = parse_json(text);
  if (!json.ok()) return bad_request(json.status().message());
  return parse_completion_request(*json, test_limits(), request);
}

std::string chat_body(const std::string& fields) {
  return R"({"messages": [{"role": "user", "content": "hi"}])" + (fields.empty() ? "" : ", " + fields) + "}";
}

TEST(Schema, RefusesWithStatusParamAndCode) {
  const std::string no = "unsupported_parameter";
  const std::vector<Refused> table = {
      {R"("model": 4)", 400, "model", ""},
      {R"("lora": 1)", 400, "lora", ""},
      {R"("lora": [{"id": 0, "scale": 0.5}])", 400, "lora", "unsupported_parameter"},
      {R"("lora": [{"id": 0}, {"id": 1}])", 400, "lora", "unsupported_parameter"},
      {R"("lora": [{"id": -1}])", 400, "lora.id", ""},
      {R"("lora": [{"scale": 1}])", 400, "lora.id", ""},
      {R"("lora": [7])", 400, "lora", ""},
      {R"("model": 4)", 400, "model", ""},
      {R"("temperature": "1")", 400, "temperature", ""},
      {R"("temperature": -0.1)", 400, "temperature", ""},
      {R"("temperature": 100.5)", 400, "temperature", ""},
      {R"("top_p": 1.01)", 400, "top_p", ""},
      {R"("top_p": [1])", 400, "top_p", ""},
      {R"("top_k": -2)", 400, "top_k", ""},
      {R"("top_k": 1.5)", 400, "top_k", ""},
      {R"("min_p": 2)", 400, "min_p", ""},
      {R"("presence_penalty": 2.1)", 400, "presence_penalty", ""},
      {R"("frequency_penalty": -3)", 400, "frequency_penalty", ""},
      {R"("repetition_penalty": 0)", 400, "repetition_penalty", ""},
      {R"("dry_multiplier": -1)", 400, "dry_multiplier", ""},
      {R"("dry_base": 0.5)", 400, "dry_base", ""},
      {R"("dry_allowed_length": 0)", 400, "dry_allowed_length", ""},
      {R"("dry_penalty_last_n": -2)", 400, "dry_penalty_last_n", ""},
      {R"("dry_sequence_breakers": "x")", 400, "dry_sequence_breakers", ""},
      {R"("dry_sequence_breakers": [""])", 400, "dry_sequence_breakers", ""},
      {R"("xtc_probability": 2)", 400, "xtc_probability", ""},
      {R"("xtc_threshold": "x")", 400, "xtc_threshold", ""},
      {R"("typical_p": 0.9)", 400, "typical_p", no},
      {R"("mirostat": 2)", 400, "mirostat", no},
      {R"("min_tokens": 5)", 400, "min_tokens", no},
      {R"("stop_token_ids": [1])", 400, "stop_token_ids", no},
      {R"("continue_final_message": true)", 400, "continue_final_message", no},
      {R"("thinking_budget": -1)", 400, "thinking_budget", ""},
      {R"("seed": 1.5)", 400, "seed", ""},
      {R"("max_tokens": 0)", 400, "max_tokens", ""},
      {R"("max_tokens": -1)", 400, "max_tokens", ""},
      {R"("max_tokens": 18446744073709551615)", 400, "max_tokens", ""},
      {R"("max_tokens": 1e30)", 400, "max_tokens", ""},
      {R"("max_completion_tokens": "5")", 400, "max_completion_tokens", ""},
      {R"("n": 0)", 400, "n", ""},
      {R"("n": 9)", 400, "n", ""},
      {R"("n": true)", 400, "n", ""},
      {R"("stop": 5)", 400, "stop", ""},
      {R"("stop": [""])", 400, "stop", ""},
      {R"("stop": ["a", 1])", 400, "stop", ""},
      {R"("stop": [)" + repeated("\"a\",", 16) + R"("a"])", 400, "stop", ""},
      {R"("stop": ")" + std::string(257, 'a') + "\"", 400, "stop", ""},
      {R"("stream": "yes")", 400, "stream", ""},
      {R"("stream_options": {"include_usage": true})", 400, "stream_options", ""},
      {R"("stream": true, "stream_options": {"include_usage": 1})", 400, "stream_options.include_usage", ""},
      {R"("logit_bias": {"512": 1})", 400, "logit_bias", ""},
      {R"("logit_bias": {"-1": 1})", 400, "logit_bias", ""},
      {R"("logit_bias": {"1x": 1})", 400, "logit_bias", ""},
      {R"("logit_bias": {"1": 101})", 400, "logit_bias", ""},
      {R"("logit_bias": {"1": "1"})", 400, "logit_bias", ""},
      {R"("logit_bias": [1])", 400, "logit_bias", ""},
      {R"("logit_bias": {)" + numbered_keys(1025) + "}", 400, "logit_bias", ""},
      {R"("cache_salt": ")" + std::string(257, 'a') + "\"", 400, "cache_salt", ""},
      {R"("cache_salt": 1)", 400, "cache_salt", ""},
      {R"("priority": 17)", 400, "priority", ""},
      {R"("priority": -17)", 400, "priority", ""},
      {R"("logprobs": 3)", 400, "logprobs", ""},
      {R"("top_logprobs": 3)", 400, "top_logprobs", ""},
      {R"("logprobs": true, "top_logprobs": 21)", 400, "top_logprobs", ""},
      {R"("response_format": {"type": "yaml"})", 400, "response_format.type", ""},
      {R"("response_format": {"type": "json_schema"})", 400, "response_format.json_schema", ""},
      {R"("response_format": {"type": "json_object"}, "guided_regex": "a")", 400, "guided_regex", ""},
      {R"("guided_json": "{")", 400, "guided_json", ""},
      {R"("guided_choice": [])", 400, "guided_choice", ""},
      {R"("guided_choice": ["a", 1])", 400, "guided_choice", ""},
      {R"("guided_regex": 5)", 400, "guided_regex", ""},
      {R"("guided_regex": "a", "ignore_eos": true)", 400, "ignore_eos", ""},
      {R"("structured_outputs": {"choice": "a"})", 400, "structured_outputs.choice", ""},
      {R"("grammar": ")" + std::string((1 << 20) + 1, 'x') + "\"", 400, "grammar", ""},
      {R"("response_format": "text")", 400, "response_format", ""},
      {R"("tool_choice": "required")", 400, "tool_choice", ""},
      {R"("tool_choice": {"type": "function", "function": {"name": "f"}})", 400, "tool_choice", ""},
      {R"("tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "maybe")", 400,
       "tool_choice", ""},
      {R"("tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": {"type": "function", "function": {"name": "g"}})",
       400, "tool_choice", ""},
      {R"("tools": [{"type": "function", "function": {"name": "f", "strict": 1}}])", 400,
       "tools[0].function.strict", ""},
      {R"("tools": [{"type": "function", "function": {"name": "f", "parameters": []}}])", 400,
       "tools[0].function.parameters", ""},
      {R"("parallel_tool_calls": "no")", 400, "parallel_tool_calls", ""},
      {R"("tools": {})", 400, "tools", ""},
      {R"("tools": [{"type": "function"}])", 400, "tools", ""},
      {R"("tools": [)" + repeated(R"({"type": "function", "function": {"name": "f"}},)", 128) +
           R"({"type": "function", "function": {"name": "f"}}])",
       400, "tools", ""},
      {R"("tools": [{"type": "function", "function": {"name": ")" + std::string(256 << 10, 'x') + R"("}}])",
       400, "tools", ""},
      {R"("functions": [])", 400, "functions", no},
      {R"("function_call": "auto")", 400, "function_call", no},
      {R"("audio": {})", 400, "audio", no},
      {R"("modalities": ["text", "audio"])", 400, "modalities", no},
      {R"("prediction": {})", 400, "prediction", no},
      {R"("reasoning_effort": "extreme")", 400, "reasoning_effort", ""},
      {R"("chat_template_kwargs": {"messages": []})", 400, "chat_template_kwargs", ""},
      {R"("chat_template_kwargs": {"tools": []})", 400, "chat_template_kwargs", ""},
      {R"("chat_template_kwargs": {"chat_template": ""})", 400, "chat_template_kwargs", ""},
      {R"("chat_template_kwargs": {"tokenize": true})", 400, "chat_template_kwargs", ""},
      {R"("chat_template_kwargs": [])", 400, "chat_template_kwargs", ""},
      // messages again: the last of equal keys counts
      {R"("messages": null)", 400, "messages", ""},
      {R"("messages": [])", 400, "messages", ""},
      {R"("messages": "hi")", 400, "messages", ""},
      {R"("messages": ["hi"])", 400, "messages[0]", ""},
      {R"("messages": [{"role": "function", "content": "x"}])", 400, "messages[0].role", ""},
      {R"("messages": [{"content": "x"}])", 400, "messages[0].role", ""},
      {R"("messages": [{"role": 1, "content": "x"}])", 400, "messages[0].role", ""},
      {R"("messages": [{"role": "user"}])", 400, "messages[0].content", ""},
      {R"("messages": [{"role": "user", "content": 5}])", 400, "messages[0].content", ""},
      {R"("messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])",
       400, "messages[0].content", "unsupported_content"},
      {R"("messages": [{"role": "user", "content": [{"type": "text"}]}])", 400, "messages[0].content", ""},
      {R"("messages": [{"role": "user", "content": ["text"]}])", 400, "messages[0].content", ""},
      {R"("messages": [{"role": "assistant", "tool_calls": [1]}])", 400, "messages[0].tool_calls", ""},
      {R"("messages": [)" + repeated(R"({"role": "user", "content": ""},)", 4096) +
           R"({"role": "user", "content": ""}])",
       400, "messages", ""},
  };
  for (const Refused& row : table) {
    ChatRequest request;
    const auto error = chat_error(chat_body(row.fields), request);
    const std::string shown = row.fields.substr(0, 100);
    ASSERT_TRUE(error) << shown;
    EXPECT_EQ(error->status, row.status) << shown;
    EXPECT_EQ(param_of(error), row.param) << shown << error->message;
    EXPECT_EQ(code_of(error), row.code) << shown;
    EXPECT_EQ(error->type, "invalid_request_error") << shown;
  }
}

TEST(Schema, RefusesCompletions) {
  const std::vector<Refused> table = {
      {R"("prompt": null)", 400, "prompt", ""},
      {R"("prompt": [])", 400, "prompt", ""},
      {R"("prompt": [1, 512])", 400, "prompt", ""},
      {R"("prompt": [1, -1])", 400, "prompt", ""},
      {R"("prompt": [1.5])", 400, "prompt", ""},
      {R"("prompt": [1, "a"])", 400, "prompt", ""},
      {R"("prompt": [18446744073709551615])", 400, "prompt", ""},
      {R"("prompt": [[]])", 400, "prompt", ""},
      {R"("prompt": {"a": 1})", 400, "prompt", ""},
      {R"("prompt": [)" + repeated("\"a\",", 64) + R"("a"])", 400, "prompt", ""},
      {R"("suffix": "x")", 400, "suffix", "unsupported_parameter"},
      {R"("echo": true)", 400, "echo", "unsupported_parameter"},
      {R"("best_of": 2)", 400, "best_of", "unsupported_parameter"},
      {R"("logprobs": 6)", 400, "logprobs", ""},
      {R"("logprobs": true)", 400, "logprobs", ""},
  };
  for (const Refused& row : table) {
    CompletionRequest request;
    const auto error = completion_error(R"({"prompt": "a", )" + row.fields + "}", request);
    EXPECT_EQ(param_of(error), row.param) << row.fields;
    EXPECT_EQ(code_of(error), row.code) << row.fields;
  }
}

TEST(Schema, ReadsWhatIsAllowed) {
  ChatRequest request;
  const auto error = chat_error(
      chat_body(
          R"("model": "alias", "temperature": 0, "top_p": 0, "top_k": -1, "seed": -1, "stop": "END", "n": 8,
             "max_tokens": 3, "max_completion_tokens": 4, "logprobs": true, "top_logprobs": 20,
             "logit_bias": {"511": -100}, "stream": true,
             "stream_options": {"include_usage": true, "include_obfuscation": false},
             "store": true, "metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k",
             "service_tier": "auto", "verbosity": "low", "parallel_tool_calls": true, "unheard_of": [1],
             "modalities": ["text"], "response_format": {"type": "text"}, "tool_choice": "auto",
             "frequency_penalty": null, "reasoning_effort": "none", "chat_template_kwargs": {"thinking": 3})"),
      request);
  ASSERT_FALSE(error) << error->message;
  EXPECT_EQ(request.sampling.temperature, 0);
  EXPECT_GT(request.sampling.top_p, 0);
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_EQ(request.sampling.seed, UINT64_MAX);
  EXPECT_EQ(request.sampling.frequency_penalty, 0);
  EXPECT_TRUE(request.sampling.validate(512).ok());
  EXPECT_EQ(request.sampling.logit_bias, (std::vector<std::pair<int32_t, float>>{{511, -100.f}}));
  EXPECT_EQ(request.stop, std::vector<std::string>{"END"});
  EXPECT_EQ(request.max_tokens, 4);
  EXPECT_EQ(request.top_logprobs, 20);
  EXPECT_TRUE(request.include_usage);
  EXPECT_EQ(request.variables["enable_thinking"], false);
  EXPECT_EQ(request.variables["thinking"], 3);

  ChatRequest plain;
  ASSERT_FALSE(chat_error(chat_body(""), plain));
  EXPECT_EQ(plain.sampling.temperature, 0.8f);
  EXPECT_EQ(plain.sampling.top_k, 7);
  EXPECT_EQ(plain.max_tokens, -1);
  EXPECT_EQ(plain.top_logprobs, -1);
  EXPECT_FALSE(plain.has_seed);
}

TEST(Schema, NormalisesTheConversation) {
  ChatRequest request;
  const auto error = chat_error(
      R"({"messages": [{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
           {"role": "assistant", "content": null, "tool_calls":
             [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"z\": 1, \"a\": 2}"}}]},
           {"role": "tool", "tool_call_id": "1", "content": "3"},
           {"role": "user", "name": "Ann", "content": "ü"}],
         "tools": [{"type": "function", "function": {"name": "f", "parameters": {"z": {}, "a": {}}}}]})",
      request);
  ASSERT_FALSE(error) << error->message;
  EXPECT_EQ(
      request.variables.dump(),
      R"({"tools":[{"type":"function","function":{"name":"f","parameters":{"z":{},"a":{}}}}],"messages":[)"
      R"({"role":"system","content":"a\nb"},{"role":"assistant","content":"","tool_calls":[{"id":"1",)"
      R"("type":"function","function":{"name":"f","arguments":{"z":1,"a":2}}}]},)"
      R"({"role":"tool","content":"3","tool_call_id":"1"},{"role":"user","content":"ü","name":"Ann"}]})");
  ChatRequest without;
  ASSERT_FALSE(chat_error(
      chat_body(R"("tool_choice": "none", "tools": [{"type": "function", "function": {"name": "f"}}])"),
      without));
  EXPECT_FALSE(without.variables.contains("tools"));
}

TEST(Schema, ReadsPrompts) {
  CompletionRequest request;
  ASSERT_FALSE(completion_error(R"({"prompt": ["a", [1, 2], "b"], "logprobs": 5, "best_of": 1})", request));
  ASSERT_EQ(request.prompts.size(), 3u);
  EXPECT_EQ(std::get<std::string>(request.prompts[0]), "a");
  EXPECT_EQ(std::get<std::vector<int32_t>>(request.prompts[1]), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(request.max_tokens, 16);
  EXPECT_EQ(request.top_logprobs, 5);
  CompletionRequest ids;
  ASSERT_FALSE(completion_error(R"({"prompt": [5, 6]})", ids));
  EXPECT_EQ(ids.prompts.size(), 1u);
}

TEST(JsonInput, BoundsDepthSizeAndShape) {
  EXPECT_TRUE(parse_json(repeated("[", 64) + repeated("]", 64)).ok());
  EXPECT_FALSE(parse_json(repeated("[", 65) + repeated("]", 65)).ok());
  EXPECT_FALSE(parse_json(repeated(R"({"a":)", 100'000)).ok());
  for (const char* text :
       {"", "{", "{}}", "nul", "[1,]", "{\"a\" 1}", "NaN", "[Infinity]", "[1e999]", "\"\xff\"",
        "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\\ud800\"", "'a'", "[01]", "\"a\nb\""}) {
    const Result<Json> json = parse_json(text);
    ASSERT_FALSE(json.ok()) << text;
    EXPECT_EQ(json.status().message().find('\n'), std::string::npos);
  }
  std::string keys = "{\"k\":0";
  for (int i = 0; i < 1200; ++i) keys += ",\"" + std::to_string(i) + "\":0";
  EXPECT_FALSE(parse_json(keys + "}").ok());
  JsonLimits few;
  few.values = 10;
  EXPECT_TRUE(parse_json("[1,2,3,4,5,6,7,8,9]", few).ok());
  EXPECT_FALSE(parse_json("[1,2,3,4,5,6,7,8,9,10]", few).ok());
  EXPECT_EQ((*parse_json(R"({"a": 1, "a": 2})"))["a"], 2);
}

TEST(Errors, HaveAllFourKeys) {
  EXPECT_EQ(bad_request("no", "n").body(),
            R"({"error":{"message":"no","type":"invalid_request_error","param":"n","code":null}})");
  const Json error = context_exceeded(9, 8, "prompt").json()["error"];
  EXPECT_EQ(error["code"], "context_length_exceeded");
  EXPECT_EQ(error["n_prompt_tokens"], 9);
  EXPECT_EQ(error["n_ctx"], 8);
  EXPECT_EQ(bad_request("\xff").json()["error"].size(), 4u);
  EXPECT_NE(bad_request("\xff").body().find("\xEF\xBF\xBD"), std::string::npos);
}

TEST(Access, ComparesKeys) {
  KeyRing keys({"first", "second"}, {"root"}, 2);
  EXPECT_TRUE(keys.required());
  for (const char* right : {"first", "second", "root"}) EXPECT_TRUE(keys.find(right).known) << right;
  for (const char* wrong : {"", "firs", "first ", "firstsecond", "First"})
    EXPECT_FALSE(keys.find(wrong).known) << wrong;
  EXPECT_TRUE(keys.find("root").admin);
  EXPECT_FALSE(keys.find("first").admin);
  const KeyRing none({}, {}, 2);
  EXPECT_FALSE(none.required());
  EXPECT_TRUE(none.find("").known);
  EXPECT_FALSE(none.find("").admin);
  EXPECT_EQ(bearer_token("Bearer abc"), "abc");
  EXPECT_EQ(bearer_token("bearer   abc "), "abc");
  for (const char* wrong : {"", "Bearer", "Bearer ", "Basic abc", "Bearerabc"})
    EXPECT_EQ(bearer_token(wrong), "");
}

TEST(Access, KeepsKeysApart) {
  KeyRing keys({"first", "second"}, {}, 2);
  const KeyHolder first = keys.find("first"), second = keys.find("second");
  EXPECT_FALSE(first.space.empty());
  EXPECT_NE(first.space, second.space);
  EXPECT_EQ(first.space, keys.find("first").space);
  EXPECT_EQ(first.space.find("first"), std::string::npos);
  const KeyRing alone({"first"}, {}, 2);
  EXPECT_EQ(alone.find("first").space, "") << "one key shares with nobody";

  auto one = keys.enter(first), two = keys.enter(first);
  EXPECT_TRUE(two);
  EXPECT_FALSE(keys.enter(first)) << "it has two already";
  EXPECT_TRUE(keys.enter(second));
  one.reset();
  EXPECT_TRUE(keys.enter(first));

  keys.exchange({"third"}, {});
  EXPECT_FALSE(keys.find("first").known);
  EXPECT_TRUE(keys.find("third").known);
  KeyRing open({}, {}, 1);
  const auto place = open.enter(open.find(""));
  EXPECT_TRUE(open.enter(open.find(""))) << "without keys nobody is told from another";
}

TEST(Access, KnowsLoopback) {
  for (const char* yes : {"localhost", "LocalHost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"})
    EXPECT_TRUE(is_loopback(yes)) << yes;
  for (const char* no : {"", "0.0.0.0", "::", "127.0.0.1.evil.com", "127.evil.com", "127.0.0", "127.0.0.",
                         "127..0.1", "10.0.0.1", "localhost.evil.com", "127.0.0.0001"})
    EXPECT_FALSE(is_loopback(no)) << no;
}

TEST(Access, ChecksHostAndOrigin) {
  const std::vector<std::string> more = {"moe.lan", "box:9000"};
  for (const char* yes : {"localhost", "localhost:1", "127.0.0.1:8080", "[::1]", "[::1]:8080", "LOCALHOST:80",
                          "moe.lan", "MOE.lan:443", "box:9000"})
    EXPECT_TRUE(host_allowed(yes, more)) << yes;
  for (const char* no : {"", "evil.com", "localhost.evil.com", "127.0.0.1.evil.com:80", "localhost:80:80",
                         "localhost:x", "[::1", "[::1]x", "[::1]:80x", "::1:80", "box:9001", "user@localhost",
                         "localhost:123456", "localhost/"})
    EXPECT_FALSE(host_allowed(no, more)) << no;
  EXPECT_TRUE(origin_allowed("http://localhost:3000", more));
  EXPECT_TRUE(origin_allowed("https://moe.lan", more));
  for (const char* no : {"null", "", "http://evil.com", "http://localhost.evil.com", "file://", "localhost"})
    EXPECT_FALSE(origin_allowed(no, more)) << no;
}

TEST(Connection, ChecksTheHead) {
  const std::string line = "POST /v1/completions HTTP/1.1\r\n", host = "Host: localhost\r\n";
  const std::string length = "Content-Length: 2\r\n";
  ConnectionLimits limits;
  const auto status = [&](const std::string& head) {
    const auto error = check_head(head, limits);
    return error ? error->status : 200;
  };
  EXPECT_EQ(status(line + host + length + "\r\n"), 200);
  EXPECT_EQ(status(line + host + "Transfer-Encoding: chunked\r\n\r\n"), 200);
  EXPECT_EQ(status("GET / HTTP/1.0\r\n\r\n"), 200);
  const std::vector<std::pair<std::string, int>> refused = {
      {line + host + length + "Transfer-Encoding: chunked\r\n\r\n", 400},
      {line + host + length + length + "\r\n", 400},
      {line + host + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n", 400},
      {line + host + "Content-Length: +2\r\n\r\n", 400},
      {line + host + "Content-Length: 0x2\r\n\r\n", 400},
      {line + host + "Content-Length: 2, 2\r\n\r\n", 400},
      {line + host + "Content-Length: -1\r\n\r\n", 400},
      {line + host + "Content-Length:\r\n\r\n", 400},
      {line + host + "Content-Length: 99999999999999999999\r\n\r\n", 400},
      {line + host + "Content-Length: 999999999999\r\n\r\n", 413},
      {line + host + "Transfer-Encoding: gzip, chunked\r\n\r\n", 400},
      {line + host + "Transfer-Encoding: xchunked\r\n\r\n", 400},
      {line + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {line + host + "Content-Length : 2\r\n\r\n", 400},
      {line + host + " Content-Length: 2\r\n\r\n", 400},
      {line + host + "X-A: b\r\n folded\r\nContent-Length: 2\r\n\r\n", 400},
      {line + host + "X-A: b\nContent-Length: 2\r\n\r\n", 400},
      {line + host + std::string("X-A: b\0c\r\n", 10) + length + "\r\n", 400},
      {line + host + "X-A: b\rc\r\n" + length + "\r\n", 400},
      {line + host + "nonsense\r\n" + length + "\r\n", 400},
      {line + host + host + length + "\r\n", 400},
      {line + length + "\r\n", 400},
      {line + host + "\r\n", 411},
      {line + host + length + "Content-Type: multipart/form-data; boundary=x\r\n\r\n", 415},
      {"POST /v1/completions\r\n\r\n", 400},
      {"POST /v1 HTTP/2.0\r\n" + host + length + "\r\n", 400},
      {"POST http://localhost/v1 HTTP/1.1\r\n" + host + length + "\r\n", 400},
      {"POST /a b HTTP/1.1\r\n" + host + length + "\r\n", 400},
      {line + "Host: a b\r\n" + length + "\r\n", 400},
      {line + "Host: localhost, evil.example\r\n" + length + "\r\n", 400},
      {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {"P@ST / HTTP/1.1\r\n" + host + length + "\r\n", 400},
      {"GET /" + std::string(3000, 'a') + " HTTP/1.1\r\n" + host + "\r\n", 414},
      {line + host + length + "X-A: " + std::string(9000, 'a') + "\r\n\r\n", 431},
      {line + host + length + repeated("X-A: b\r\n", 100) + "\r\n", 431},
      {line + host + length + repeated("X-A: " + std::string(7000, 'a') + "\r\n", 5) + "\r\n", 431},
  };
  for (const auto& [head, expected] : refused) EXPECT_EQ(status(head), expected) << head.substr(0, 120);
}

// Whatever parts a body comes in, the verdict is the same.
TEST(ChunkGuard, TakesWellFormedChunksOnly) {
  const auto takes = [](const std::string& body) {
    ChunkGuard whole;
    const bool verdict = whole.take(body);
    for (size_t cut = 0; cut <= body.size(); ++cut) {
      ChunkGuard parts;
      EXPECT_EQ(parts.take(body.substr(0, cut)) && parts.take(body.substr(cut)), verdict) << body << cut;
    }
    return verdict;
  };
  for (const char* good :
       {"", "2\r\n{}\r\n0\r\n\r\n", "A\r\n0123456789\r\n0\r\n\r\n", "00000002\r\n{}\r\n000\r\n\r\n",
        "1\r\n\n\r\n1\r\n\r\r\n0\r\n\r\n", "0\r\n\r\nGET / HTTP/1.1\r\n", "ff\r\nnot all yet"})
    EXPECT_TRUE(takes(good)) << good;
  for (const char* bad :
       {"2\n{}\r\n", "2\r{}\r\n", "0x2\r\n{}\r\n", "+2\r\n{}\r\n", "-2\r\n", " 2\r\n{}\r\n", "2 \r\n{}\r\n",
        "\r\n", "g\r\n", "2;a=b\r\n{}\r\n", "2\r\n{}0\r\n\r\n", "2\r\n{}\n0\r\n\r\n", "0\r\nX-A: b\r\n\r\n",
        "0\r\n\n", "000000002\r\n{}\r\n", "FFFFFFFFFFFFFFFF\r\n"})
    EXPECT_FALSE(takes(bad)) << bad;
}

GenerationEvent piece(int choice, const std::string& text, int32_t id) {
  GenerationEvent event;
  event.choice = choice;
  event.text = text;
  event.id = id;
  event.chosen = {id, -0.5f};
  event.alternatives = {{id, -0.5f}, {9, -2}};
  return event;
}

GenerationEvent ended(int choice, FinishReason reason) {
  GenerationEvent event;
  event.kind = GenerationEvent::Kind::kChoiceDone;
  event.choice = choice;
  event.stats.finish = reason;
  event.stats.prompt_tokens = 10, event.stats.reused_tokens = 4, event.stats.answer_tokens = 3;
  return event;
}

GenerationEvent all_done() {
  GenerationEvent event;
  event.kind = GenerationEvent::Kind::kDone;
  return event;
}

AnswerOptions answer_options(Api api, bool stream) {
  AnswerOptions options;
  options.api = api;
  options.id = "id-1", options.model = "m", options.fingerprint = "f", options.created = 7;
  options.stream = stream;
  return options;
}

std::string token_name(int32_t id) { return id == 3 ? "\xc3" : "t" + std::to_string(id); }

TEST(Answer, StreamsChat) {
  AnswerOptions options = answer_options(Api::kChat, true);
  options.include_usage = true;
  Answer answer(options, token_name);
  const std::string head =
      R"(data: {"id":"id-1","object":"chat.completion.chunk","created":7,"model":"m","system_fingerprint":"f","choices":)";
  EXPECT_EQ(
      answer.add(piece(0, "a\n", 1)),
      head +
          R"([{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null})" +
          "\n\n" + head +
          R"([{"index":0,"delta":{"content":"a\n"},"logprobs":null,"finish_reason":null}],"usage":null})" +
          "\n\n");
  EXPECT_EQ(answer.add(piece(0, "", 2)), "");
  EXPECT_EQ(
      answer.add(ended(0, FinishReason::kStop)),
      head + R"([{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null})" + "\n\n");
  EXPECT_EQ(
      answer.add(all_done()),
      head +
          R"([],"usage":{"prompt_tokens":10,"completion_tokens":3,"total_tokens":13,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":0}}})" +
          "\n\ndata: [DONE]\n\n");
}

TEST(Answer, StreamsAnEmptyAnswer) {
  Answer answer(answer_options(Api::kChat, true), token_name);
  const std::string text = answer.add(ended(0, FinishReason::kLength));
  EXPECT_NE(text.find(R"("role":"assistant")"), std::string::npos);
  EXPECT_NE(text.find(R"("finish_reason":"length")"), std::string::npos);
  EXPECT_EQ(text.find("usage"), std::string::npos);
  EXPECT_EQ(answer.add(all_done()), "data: [DONE]\n\n");
}

TEST(Answer, CountsAPromptOnceForItsChoices) {
  AnswerOptions options = answer_options(Api::kCompletion, false);
  options.n = 2, options.choices = 4;
  Answer answer(options, token_name);
  for (int i = 0; i < 4; ++i) {
    answer.add(piece(i, std::to_string(i), i));
    answer.add(ended(i, FinishReason::kLength));
  }
  const Json json = answer.json();
  EXPECT_EQ(json["usage"]["prompt_tokens"], 20);
  EXPECT_EQ(json["usage"]["completion_tokens"], 12);
  EXPECT_EQ(json["usage"]["prompt_tokens_details"]["cached_tokens"], 8);
  EXPECT_EQ(json["choices"][3].dump(), R"({"index":3,"text":"3","logprobs":null,"finish_reason":"length"})");
  EXPECT_EQ(json["object"], "text_completion");
}

TEST(Answer, WritesLogprobs) {
  AnswerOptions options = answer_options(Api::kChat, false);
  options.logprobs = true;
  Answer chat(options, token_name);
  chat.add(piece(0, "x", 3));
  chat.add(piece(0, "rest", -1));
  chat.add(ended(0, FinishReason::kStop));
  EXPECT_EQ(chat.json()["choices"][0]["message"]["content"], "xrest");
  EXPECT_EQ(ApiError::to_text(chat.json()["choices"][0]["logprobs"]),
            "{\"content\":[{\"token\":\"\xEF\xBF\xBD\",\"logprob\":-0.5,\"bytes\":[195],\"top_logprobs\":["
            "{\"token\":\"\xEF\xBF\xBD\",\"logprob\":-0.5,\"bytes\":[195]},"
            "{\"token\":\"t9\",\"logprob\":-2.0,\"bytes\":[116,57]}]}],\"refusal\":null}");
  options.api = Api::kCompletion;
  Answer completion(options, token_name);
  completion.add(piece(0, "t1", 1));
  completion.add(piece(0, "t2", 2));
  completion.add(ended(0, FinishReason::kStop));
  EXPECT_EQ(completion.json()["choices"][0]["logprobs"].dump(),
            R"({"tokens":["t1","t2"],"token_logprobs":[-0.5,-0.5],)"
            R"("top_logprobs":[{"t1":-0.5,"t9":-2.0},{"t2":-0.5,"t9":-2.0}],"text_offset":[0,2]})");
}

}  // namespace
}  // namespace moebius
