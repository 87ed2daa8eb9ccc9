#include "server/responses/response_request.h"

#include <fmt/format.h>

#include "server/fields.h"
#include "server/responses/response_items.h"

namespace moebius {

namespace {

// Function tools in the nested form of a chat; `echo` gets them as they are.
Json read_tool_list(Fields& in, const RequestLimits& limits, Json& echo, std::vector<std::string>& skipped) {
  Json out = Json::array();
  const Json* tools = in.array("tools");
  if (tools != nullptr && std::ssize(*tools) > limits.tools)
    in.fail("tools", fmt::format("may hold at most {} tools", limits.tools));
  for (size_t i = 0; tools != nullptr && i < tools->size() && !in.failed(); ++i) {
    const Json& tool = (*tools)[i];
    const std::string name = fmt::format("tools[{}]", i);
    if (!tool.is_object()) return in.fail(name, "must be an object"), out;
    Fields fields(tool, name + ".");
    std::string type;
    fields.text("type", type);
    if (!fields.failed() && type != "function" && !type.empty()) {
      skipped.push_back(type.substr(0, 40));
      continue;
    }
    bool strict = false;
    std::string function;
    fields.text("name", function);
    fields.boolean("strict", strict);
    if (function.empty()) fields.fail("name", "is missing");
    if (fields.failed()) return in.fail(*fields.error()), out;
    Json nested = {{"name", function}};
    for (const char* key : {"description", "parameters"})
      if (const Json* value = fields.find(key)) nested[key] = *value;
    if (strict) nested["strict"] = true;
    Json flat = nested;
    flat["type"] = "function";
    flat["strict"] = strict;
    if (!flat.contains("parameters")) flat["parameters"] = nullptr;
    echo["tools"].push_back(std::move(flat));
    out.push_back({{"type", "function"}, {"function", std::move(nested)}});
  }
  return out;
}

void read_text(Fields& in, Json& chat, Json& echo) {
  echo["text"] = {{"format", {{"type", "text"}}}};
  const Json* text = in.object("text");
  const Json* format = nullptr;
  if (text != nullptr) {
    Fields fields(*text, "text.");
    format = fields.object("format");
    if (fields.failed()) return in.fail(*fields.error());
    if (const Json* verbosity = fields.find("verbosity")) echo["text"]["verbosity"] = *verbosity;
  }
  if (format == nullptr) return;
  Fields fields(*format, "text.format.");
  std::string type;
  fields.text("type", type);
  if (type == "json_schema") {
    const Json* schema = fields.object("schema");
    if (schema == nullptr)
      fields.fail("schema", "is missing");
    else
      chat["json_schema"] = *schema;
  } else if (type == "json_object") {
    chat["response_format"] = {{"type", "json_object"}};
  } else if (!fields.failed() && type != "text") {
    fields.fail("type", "must be text, json_object or json_schema");
  }
  if (fields.failed()) return in.fail(*fields.error());
  echo["text"]["format"] = *format;
}

void read_reasoning(Fields& in, Json& chat, Json& echo) {
  echo["reasoning"] = {{"effort", nullptr}, {"summary", nullptr}};
  const Json* reasoning = in.object("reasoning");
  if (reasoning == nullptr) return;
  if (const auto effort = reasoning->find("effort"); effort != reasoning->end() && !effort->is_null())
    chat["reasoning_effort"] = *effort;
  if (const auto limit = reasoning->find("max_tokens"); limit != reasoning->end() && !limit->is_null())
    chat["thinking_budget_tokens"] = *limit;
  echo["reasoning"].update(*reasoning);
}

// What an answer of /v1/responses needs beside what a chat's has.
void read_own(Fields& in, Json& chat, ResponseRequest& request) {
  in.boolean("store", request.store);
  in.boolean("background", request.background);
  if (request.background && !request.store) in.fail("background", "needs `store`");
  if (const Json* stream = in.find("stream"); request.background && stream != nullptr && *stream == true)
    in.unsupported("background", "leave it out of a request with `stream`");
  for (const char* name : {"conversation", "prompt", "context_management", "moderation"})
    in.unsupported(name, "send `input`, or `previous_response_id`");
  for (const char* name : {"temperature", "top_p", "stream", "stream_options", "model", "parallel_tool_calls",
                           "top_logprobs", "seed", "top_k", "min_p", "stop", "logit_bias", "ignore_eos"}) {
    if (const Json* value = in.find(name)) chat[name] = *value;
  }
  if (const Json* limit = in.find("max_output_tokens")) chat["max_completion_tokens"] = *limit;
  const Json* include = in.array("include");
  for (size_t i = 0; include != nullptr && i < include->size(); ++i)
    if ((*include)[i] == "message.output_text.logprobs") chat["logprobs"] = true;
  if (chat.contains("top_logprobs")) chat["logprobs"] = true;
}

Json echo_of(const Fields& in, const ResponseRequest& request, bool parallel) {
  Json echo = {{"background", request.background},
               {"instructions", nullptr},
               {"max_output_tokens", nullptr},
               {"metadata", Json::object()},
               {"parallel_tool_calls", parallel},
               {"previous_response_id", nullptr},
               {"temperature", request.sampling.temperature},
               {"top_p", request.sampling.top_p},
               {"tool_choice", "auto"},
               {"user", nullptr}};
  for (const char* name : {"instructions", "max_output_tokens", "metadata", "previous_response_id",
                           "tool_choice", "temperature", "top_p", "user"}) {
    if (const Json* value = in.find(name)) echo[name] = *value;
  }
  echo["store"] = request.store;
  echo["truncation"] = "disabled";  // nothing is ever left out of a prompt
  echo["service_tier"] = "default";
  return echo;
}

}  // namespace

std::optional<ApiError> parse_response_request(const Json& body, const RequestLimits& limits,
                                               const ResponseHistory& history, bool count_only,
                                               ResponseRequest& request) {
  Fields in(body);
  std::string instructions, previous;
  in.text("instructions", instructions);
  in.text("previous_response_id", previous);
  in.object("metadata");
  const Json* input = in.find("input");
  if (input == nullptr && previous.empty()) in.fail("input", "is missing");
  request.input = input == nullptr ? Json::array() : read_items(*input, in);
  Json chat = {{"messages", Json::array()}}, echo = {{"tools", Json::array()}};
  Json tools = read_tool_list(in, limits, echo, request.skipped_tools);
  if (!tools.empty()) chat["tools"] = std::move(tools);
  if (const Json* choice = in.find("tool_choice")) chat["tool_choice"] = *choice;
  read_text(in, chat, echo);
  read_reasoning(in, chat, echo);
  if (!count_only) read_own(in, chat, request);
  if (in.failed()) return in.error();

  Json items = Json::array();
  if (!previous.empty()) {
    if (auto error = history(previous, items)) return error;
  }
  Json& messages = chat["messages"];
  if (!instructions.empty()) messages.push_back({{"role", "system"}, {"content", instructions}});
  items.insert(items.end(), request.input.begin(), request.input.end());
  append_messages(items, messages);
  if (auto error = parse_chat_request(chat, limits, request)) return error;
  const bool parallel = request.tools.rules.parallel;
  request.echo = echo_of(in, request, parallel);
  request.echo.update(echo);
  return {};
}

}  // namespace moebius
