#include "server/anthropic/message_request.h"

#include <fmt/format.h>

#include "server/fields.h"

namespace moebius {

namespace {

std::string type_of(const Json& block) {
  const auto type = block.is_object() ? block.find("type") : block.end();
  return block.is_object() && type != block.end() && type->is_string() ? type->get<std::string>() : "";
}

// The parts of an OpenAI message: a string, or a list of text blocks as text parts.
Json text_content(const Json& content, const std::string& name, Fields& in) {
  if (content.is_string()) return content;
  Json parts = Json::array();
  if (!content.is_array()) in.fail(name, "must be a string or a list of blocks");
  for (size_t i = 0; !in.failed() && i < content.size(); ++i) {
    const std::string type = type_of(content[i]);
    if (type != "text") {
      in.fail(bad_request(
          fmt::format("`{}` has a block of type `{}`; this model reads text only", name, type.substr(0, 40)),
          name, "unsupported_content"));
    } else if (!content[i].contains("text") || !content[i]["text"].is_string()) {
      in.fail(name, "has a text block without `text`");
    } else {
      parts.push_back({{"type", "text"}, {"text", content[i]["text"]}});
    }
  }
  return parts;
}

// Blocks of one turn, sorted into what OpenAI's messages have for them.
class TurnReader {
 public:
  TurnReader(Fields& in, std::string role, std::string name, Json& messages)
      : in_(in), role_(std::move(role)), name_(std::move(name)), messages_(messages) {}

  void read(const Json& content) {
    if (!content.is_array()) {
      messages_.push_back({{"role", role_}, {"content", text_content(content, name_, in_)}});
      return;
    }
    for (const Json& block : content) {
      if (in_.failed()) return;
      if (!block.is_object()) return in_.fail(name_, "must hold blocks with a `type`");
      take(block);
    }
    flush();
  }

 private:
  void take(const Json& block) {
    const std::string type = type_of(block);
    const bool assistant = role_ == "assistant";
    Fields fields(block, name_ + ".");
    if (assistant && type == "thinking") {
      std::string text;
      fields.text("thinking", text);
      reasoning_ += text;
    } else if (assistant && type == "tool_use") {
      take_call(fields);
    } else if (role_ == "user" && type == "tool_result") {
      flush();
      take_result(fields);
    } else if (!(assistant && type == "redacted_thinking")) {  // which nobody can read
      const Json part = text_content(Json::array({block}), name_, in_);
      parts_.insert(parts_.end(), part.begin(), part.end());
    }
    if (fields.failed()) in_.fail(*fields.error());
  }

  void take_call(Fields& fields) {
    std::string id, name;
    fields.text("id", id);
    fields.text("name", name);
    const Json* input = fields.object("input");
    if (name.empty() || input == nullptr) return fields.fail("input", "and `name` are needed in a tool_use");
    calls_.push_back(
        {{"id", id}, {"type", "function"}, {"function", {{"name", name}, {"arguments", *input}}}});
  }

  void take_result(Fields& fields) {
    std::string id;
    fields.text("tool_use_id", id);
    if (id.empty()) fields.fail("tool_use_id", "is missing");
    const Json* content = fields.find("content");
    Json text = content == nullptr ? Json("") : text_content(*content, fields.path("content"), in_);
    messages_.push_back({{"role", "tool"}, {"tool_call_id", id}, {"content", std::move(text)}});
  }

  void flush() {
    if (parts_.empty() && calls_.empty() && reasoning_.empty()) return;
    Json message = {{"role", role_}, {"content", std::exchange(parts_, Json::array())}};
    if (!reasoning_.empty()) message["reasoning_content"] = std::exchange(reasoning_, "");
    if (!calls_.empty()) message["tool_calls"] = std::exchange(calls_, Json::array());
    messages_.push_back(std::move(message));
  }

  Fields& in_;
  const std::string role_, name_;
  Json& messages_;
  Json parts_ = Json::array(), calls_ = Json::array();
  std::string reasoning_;
};

Json read_messages(Fields& in) {
  Json out = Json::array();
  if (const Json* system = in.find("system"))
    out.push_back({{"role", "system"}, {"content", text_content(*system, "system", in)}});
  const Json* messages = in.array("messages");
  if (messages == nullptr || messages->empty()) in.fail("messages", "must hold at least one message");
  std::string role;
  for (size_t i = 0; !in.failed() && i < messages->size(); ++i) {
    const Json& message = (*messages)[i];
    const std::string name = fmt::format("messages[{}]", i);
    if (!message.is_object()) {
      in.fail(name, "must be an object");
      break;
    }
    Fields fields(message, name + ".");
    fields.text("role", role);
    if (!fields.failed() && role != "user" && role != "assistant" && role != "system")
      fields.fail("role", "must be user, assistant or system");
    const Json* content = fields.find("content");
    if (content == nullptr) fields.fail("content", "is missing");
    if (fields.failed()) return in.fail(*fields.error()), out;
    TurnReader(in, role, fields.path("content"), out).read(*content);
  }
  if (!in.failed() && role == "assistant")
    in.fail("messages", "must not end with an assistant's message: none can be continued here");
  return out;
}

Json read_tool_list(Fields& in, const RequestLimits& limits, std::vector<std::string>& skipped) {
  Json out = Json::array();
  const Json* tools = in.array("tools");
  if (tools != nullptr && std::ssize(*tools) > limits.tools)
    in.fail("tools", fmt::format("may hold at most {} tools", limits.tools));
  for (size_t i = 0; tools != nullptr && i < tools->size() && !in.failed(); ++i) {
    const Json& tool = (*tools)[i];
    const std::string type = type_of(tool);
    if (!type.empty() && type != "custom") {
      skipped.push_back(type.substr(0, 40));
      continue;
    }
    const bool named = tool.is_object() && tool.contains("name") && tool["name"].is_string();
    if (!named || !tool.contains("input_schema") || !tool["input_schema"].is_object()) {
      in.fail(fmt::format("tools[{}]", i), "must have `name` and `input_schema`");
      break;
    }
    Json function = {{"name", tool["name"]}};
    if (tool.contains("description")) function["description"] = tool["description"];
    function["parameters"] = tool["input_schema"];
    if (tool.contains("strict")) function["strict"] = tool["strict"];
    out.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return out;
}

void read_choice(Fields& in, Json& chat) {
  const Json* choice = in.object("tool_choice");
  if (choice == nullptr) return;
  Fields fields(*choice, "tool_choice.");
  std::string type, name;
  bool single = false;
  fields.text("type", type);
  fields.text("name", name);
  fields.boolean("disable_parallel_tool_use", single);
  if (single) chat["parallel_tool_calls"] = false;
  if (type == "tool" && !name.empty()) {
    chat["tool_choice"] = {{"type", "function"}, {"function", {{"name", name}}}};
  } else if (type == "any") {
    chat["tool_choice"] = "required";
  } else if (type == "auto" || type == "none") {
    chat["tool_choice"] = type;
  } else if (!fields.failed()) {
    fields.fail("type", "must be auto, any, none, or tool with a `name`");
  }
  if (fields.failed()) in.fail(*fields.error());
}

void read_thinking(Fields& in, Json& chat) {
  const Json* thinking = in.object("thinking");
  if (thinking == nullptr) return;
  Fields fields(*thinking, "thinking.");
  std::string type;
  fields.text("type", type);
  int64_t budget = -1;
  fields.integer("budget_tokens", 1, INT32_MAX, budget);
  if (!fields.failed() && type != "enabled" && type != "disabled" && type != "adaptive")
    fields.fail("type", "must be enabled, disabled or adaptive");
  if (!fields.failed() && type == "enabled" && budget < 0) fields.fail("budget_tokens", "is missing");
  if (fields.failed()) return in.fail(*fields.error());
  if (type == "adaptive") return;
  const bool on = type == "enabled";
  chat["chat_template_kwargs"] = {{"enable_thinking", on}, {"thinking", on}};
  chat["thinking_budget_tokens"] = on ? budget : 0;
}

void read_output(Fields& in, Json& chat) {
  const Json* output = in.object("output_config");
  if (output == nullptr) return;
  Fields fields(*output, "output_config.");
  if (const Json* effort = fields.find("effort")) chat["reasoning_effort"] = *effort;
  if (const Json* format = fields.object("format")) {
    if (type_of(*format) != "json_schema" || !format->contains("schema")) {
      fields.fail("format", "must be of type json_schema with a `schema`");
    } else {
      chat["json_schema"] = (*format)["schema"];
    }
  }
  if (fields.failed()) in.fail(*fields.error());
}

// What both requests have, as a chat request has it.
Json read_conversation_fields(Fields& in, const RequestLimits& limits, std::vector<std::string>& skipped) {
  Json chat = {{"messages", read_messages(in)}};
  if (const Json* model = in.find("model")) chat["model"] = *model;
  Json tools = read_tool_list(in, limits, skipped);
  read_choice(in, chat);
  if (!tools.empty()) {
    chat["tools"] = std::move(tools);
  } else if (chat.value("tool_choice", Json()) == "auto") {
    chat.erase("tool_choice");
  }
  read_thinking(in, chat);
  read_output(in, chat);
  return chat;
}

}  // namespace

std::optional<ApiError> parse_message_request(const Json& body, const RequestLimits& limits, bool count_only,
                                              MessageRequest& request) {
  Fields in(body);
  Json chat = read_conversation_fields(in, limits, request.skipped_tools);
  if (!count_only) {
    if (in.find("max_tokens") == nullptr) in.fail("max_tokens", "is missing");
    for (const char* name : {"max_tokens", "temperature", "top_p", "top_k", "stream"}) {
      if (const Json* value = in.find(name)) chat[name] = *value;
    }
    if (const Json* stops = in.array("stop_sequences")) chat["stop"] = *stops;
    for (const char* name : {"container", "mcp_servers", "context_management"})
      in.unsupported(name, "this server runs no tools itself and keeps no state");
  }
  if (in.failed()) return in.error();
  return parse_chat_request(chat, limits, request);
}

}  // namespace moebius
