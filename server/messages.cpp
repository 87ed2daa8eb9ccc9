#include "server/messages.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "server/json_input.h"

namespace moebius {

namespace {

// One part of a content list; "" and a problem where it is not text.
std::string part_text(const Json& part, const std::string& name, Fields& in) {
  const auto type = part.is_object() ? part.find("type") : part.end();
  if (!part.is_object() || type == part.end() || !type->is_string()) {
    in.fail(name, "must be a string or a list of parts with a `type`");
    return {};
  }
  const std::string& kind = type->get_ref<const std::string&>();
  if (kind != "text") {
    in.fail(bad_request(
        fmt::format("`{}` has a part of type `{}`; this model reads text only", name, kind.substr(0, 40)),
        name, "unsupported_content"));
    return {};
  }
  const auto text = part.find("text");
  if (text == part.end() || !text->is_string()) {
    in.fail(name, "has a text part without `text`");
    return {};
  }
  return text->get<std::string>();
}

Json read_content(const Json& content, const std::string& name, Fields& in) {
  if (content.is_string()) return content;
  if (!content.is_array()) {
    in.fail(name, "must be a string or a list of text parts");
    return nullptr;
  }
  std::string joined;
  for (size_t i = 0; i < content.size() && !in.failed(); ++i) {
    if (i > 0) joined += '\n';
    joined += part_text(content[i], name, in);
  }
  return joined;
}

Json read_tool_calls(const Json& calls, const std::string& name, const RequestLimits& limits, Fields& in) {
  Json out = Json::array();
  if (!calls.is_array() || static_cast<int64_t>(calls.size()) > limits.tools) {
    in.fail(name, fmt::format("must be a list of at most {} calls", limits.tools));
    return out;
  }
  for (const Json& call : calls) {
    const auto function = call.is_object() ? call.find("function") : call.end();
    if (!call.is_object() || function == call.end() || !function->is_object() ||
        !function->contains("name") || !(*function)["name"].is_string()) {
      in.fail(name, "must hold calls with `function.name`");
      return out;
    }
    Json copy = call;
    const auto arguments = copy["function"].find("arguments");
    if (arguments != copy["function"].end() && arguments->is_string()) {
      Result<Json> parsed = parse_json(arguments->get_ref<const std::string&>());
      if (parsed.ok() && parsed->is_object()) *arguments = std::move(*parsed);
    }
    out.push_back(std::move(copy));
  }
  return out;
}

Json read_message(const Json& message, size_t index, const RequestLimits& limits, Fields& in) {
  constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant", "tool"};
  Json out = Json::object();
  const std::string name = fmt::format("messages[{}]", index);
  if (!message.is_object()) {
    in.fail(name, "must be an object");
    return out;
  }
  Fields fields(message, name + ".");
  std::string role;
  fields.text("role", role);
  if (!fields.failed() && std::find(kRoles.begin(), kRoles.end(), role) == kRoles.end()) {
    fields.fail("role", "must be system, developer, user, assistant or tool");
  }
  fields.unsupported("function_call", "use `tool_calls`");
  fields.unsupported("audio", "this model reads text only");
  out["role"] = role == "developer" ? "system" : role;
  const Json* calls = role == "assistant" ? fields.find("tool_calls") : nullptr;
  if (const Json* content = fields.find("content")) {
    out["content"] = read_content(*content, fields.path("content"), in);
  } else if (calls != nullptr || role == "assistant") {
    out["content"] = "";
  } else {
    fields.fail("content", "is missing");
  }
  for (const char* extra : {"name", "tool_call_id", "reasoning_content"}) {
    std::string text;
    fields.text(extra, text);
    if (fields.find(extra) != nullptr) out[extra] = text;
  }
  if (calls != nullptr) out["tool_calls"] = read_tool_calls(*calls, fields.path("tool_calls"), limits, in);
  if (fields.failed()) in.fail(*fields.error());
  return out;
}

void read_reasoning_effort(Fields& in, Json& variables) {
  constexpr std::array<std::string_view, 7> kEfforts = {"none", "minimal", "low", "medium",
                                                        "high", "xhigh",   "max"};
  std::string effort;
  in.text("reasoning_effort", effort);
  if (effort.empty()) return;
  if (std::find(kEfforts.begin(), kEfforts.end(), effort) == kEfforts.end()) {
    return in.fail("reasoning_effort", "must be none, minimal, low, medium, high, xhigh or max");
  }
  variables["reasoning_effort"] = effort;
  if (effort == "none") variables["enable_thinking"] = variables["thinking"] = false;
}

}  // namespace

Json read_conversation(Fields& in, const RequestLimits& limits, ToolRequest& calls) {
  Json variables = Json::object();
  const Json* messages = in.array("messages");
  if (messages == nullptr) {
    in.fail("messages", "is missing");
    return variables;
  }
  if (messages->empty() || static_cast<int64_t>(messages->size()) > limits.messages) {
    in.fail("messages", fmt::format("must hold 1 to {} messages", limits.messages));
    return variables;
  }
  Json list = Json::array();
  for (size_t i = 0; i < messages->size() && !in.failed(); ++i) {
    list.push_back(read_message((*messages)[i], i, limits, in));
  }
  read_reasoning_effort(in, variables);
  if (const Json* kwargs = in.object("chat_template_kwargs")) {
    for (const auto& [key, value] : kwargs->items()) {
      for (const char* reserved : {"messages", "tools", "chat_template", "tokenize"}) {
        if (key == reserved) in.fail("chat_template_kwargs", fmt::format("may not set `{}`", reserved));
      }
      variables[key] = value;
    }
  }
  if (read_tools(in, limits, calls)) variables["tools"] = *in.find("tools");
  variables["messages"] = std::move(list);
  return variables;
}

}  // namespace moebius
