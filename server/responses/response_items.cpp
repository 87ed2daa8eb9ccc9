#include "server/responses/response_items.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "server/random_id.h"

namespace moebius {

namespace {

// A string or text parts as parts of one type.
Json read_parts(const Json& content, const char* type, const std::string& name, Fields& in) {
  constexpr std::array<std::string_view, 4> kTexts = {"input_text", "output_text", "text", "reasoning_text"};
  Json parts = Json::array();
  const auto add = [&](const Json& text) {
    Json part = {{"type", type}, {"text", text}};
    if (std::string_view(type) == "output_text") part["annotations"] = Json::array();
    parts.push_back(std::move(part));
  };
  if (content.is_string()) return add(content), parts;
  if (!content.is_array()) return in.fail(name, "must be a string or a list of parts"), parts;
  for (const Json& part : content) {
    const std::string kind = part.is_object() ? text_of(part, "type") : "";
    const bool refusal = kind == "refusal";
    if (!refusal && std::find(kTexts.begin(), kTexts.end(), kind) == kTexts.end()) {
      in.fail(bad_request(
          fmt::format("`{}` has a part of type `{}`; this model reads text only", name, kind.substr(0, 40)),
          name, "unsupported_content"));
      break;
    }
    const auto text = part.find(refusal ? "refusal" : "text");
    if (text == part.end() || !text->is_string()) {
      in.fail(name, "has a part without its text");
      break;
    }
    add(*text);
  }
  return parts;
}

Json read_message(const Json& item, const std::string& name, Fields& in) {
  const std::string role = text_of(item, "role");
  if (role != "user" && role != "assistant" && role != "system" && role != "developer")
    in.fail(name + ".role", "must be user, assistant, system or developer");
  const bool assistant = role == "assistant";
  const auto content = item.find("content");
  Json parts = content == item.end() ? Json() : *content;
  parts = read_parts(parts, assistant ? "output_text" : "input_text", name + ".content", in);
  return {{"id", random_id("msg_")},
          {"type", "message"},
          {"role", role},
          {"status", "completed"},
          {"content", std::move(parts)}};
}

Json read_call(const Json& item, const std::string& name, Fields& in) {
  for (const char* key : {"call_id", "name", "arguments"}) {
    if (!item.contains(key) || !item[key].is_string()) in.fail(fmt::format("{}.{}", name, key), "is missing");
  }
  return {{"id", random_id("fc_")},
          {"type", "function_call"},
          {"call_id", text_of(item, "call_id")},
          {"name", text_of(item, "name")},
          {"arguments", text_of(item, "arguments")},
          {"status", "completed"}};
}

Json read_output(const Json& item, const std::string& name, Fields& in) {
  const std::string call = text_of(item, "call_id");
  if (call.empty()) in.fail(name + ".call_id", "is missing");
  const auto output = item.find("output");
  Json value = output == item.end() ? Json() : *output;
  if (!value.is_string()) value = read_parts(value, "input_text", name + ".output", in);
  return {{"id", random_id("fco_")},
          {"type", "function_call_output"},
          {"call_id", call},
          {"output", std::move(value)},
          {"status", "completed"}};
}

// Its content; a summary where there is no content.
Json read_reasoning(const Json& item, const std::string& name, Fields& in) {
  Json parts = Json::array();
  if (const auto content = item.find("content"); content != item.end() && !content->is_null()) {
    parts = read_parts(*content, "reasoning_text", name + ".content", in);
  } else if (const auto summary = item.find("summary"); summary != item.end() && summary->is_array()) {
    for (const Json& part : *summary)
      if (part.is_object()) parts.push_back({{"type", "reasoning_text"}, {"text", text_of(part, "text")}});
  }
  return {{"id", random_id("rs_")},
          {"type", "reasoning"},
          {"summary", Json::array()},
          {"content", std::move(parts)}};
}

Json read_item(const Json& item, const std::string& name, Fields& in) {
  if (!item.is_object()) return in.fail(name, "must be an object"), Json();
  const std::string type = item.contains("type") ? text_of(item, "type") : "message";
  if (type == "message") return read_message(item, name, in);
  if (type == "function_call") return read_call(item, name, in);
  if (type == "function_call_output") return read_output(item, name, in);
  if (type == "reasoning") return read_reasoning(item, name, in);
  in.fail(bad_request(fmt::format("`{}` is of type `{}`; known here are message, function_call, "
                                  "function_call_output and reasoning",
                                  name, type.substr(0, 40)),
                      name, "unsupported_content"));
  return {};
}

std::string joined(const Json& parts) {
  if (parts.is_string()) return parts.get<std::string>();
  std::string out;
  for (const Json& part : parts) out += (out.empty() ? "" : "\n") + text_of(part, "text");
  return out;
}

// The assistant's message at the end, a new one where another role has it.
Json& open_assistant(Json& messages, bool& open) {
  if (!open) messages.push_back({{"role", "assistant"}, {"content", ""}});
  open = true;
  return messages.back();
}

}  // namespace

Json read_items(const Json& input, Fields& in) {
  Json items = Json::array();
  if (input.is_string()) {
    items.push_back(read_message({{"role", "user"}, {"content", input}}, "input", in));
    return items;
  }
  if (!input.is_array()) return in.fail("input", "must be a string or a list of items"), items;
  for (size_t i = 0; i < input.size() && !in.failed(); ++i)
    items.push_back(read_item(input[i], fmt::format("input[{}]", i), in));
  return items;
}

void append_messages(const Json& items, Json& messages) {
  bool open = false;  // an assistant's message that goes on
  for (const Json& item : items) {
    const std::string type = item["type"], role = item.value("role", "");
    if (type == "reasoning") {
      Json& message = open_assistant(messages, open);
      message["reasoning_content"] = message.value("reasoning_content", "") + joined(item["content"]);
    } else if (type == "function_call") {
      open_assistant(messages, open)["tool_calls"].push_back(
          {{"id", item["call_id"]},
           {"type", "function"},
           {"function", {{"name", item["name"]}, {"arguments", item["arguments"]}}}});
    } else if (type == "function_call_output") {
      open = false;
      messages.push_back(
          {{"role", "tool"}, {"tool_call_id", item["call_id"]}, {"content", joined(item["output"])}});
    } else if (role == "assistant") {
      // Two texts in a row are two turns.
      if (open && (messages.back()["content"] != "" || messages.back().contains("tool_calls"))) open = false;
      open_assistant(messages, open)["content"] = joined(item["content"]);
    } else {
      open = false;
      messages.push_back({{"role", role}, {"content", joined(item["content"])}});
    }
  }
}

}  // namespace moebius
