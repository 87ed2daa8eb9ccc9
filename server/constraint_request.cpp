#include "server/constraint_request.h"

#include <algorithm>

#include <fmt/format.h>

#include "server/fields.h"
#include "server/json_input.h"
#include "server/request.h"

namespace moebius {

namespace {

using Kind = ConstraintRequest::Kind;

// Sets what is asked for, once.
class Asked {
 public:
  Asked(Fields& in, const RequestLimits& limits, ConstraintRequest& request)
      : in_(in), limits_(limits), request_(request) {}

  void set(const std::string& field, Kind kind) {
    if (request_.kind != Kind::kNone)
      in_.fail(bad_request(
          fmt::format("`{}` and `{}` cannot both hold; leave one out", request_.field, field), field));
    request_.kind = kind;
    request_.field = field;
  }

  // A schema, or a text of one.
  void schema(const std::string& field, const Json& value) {
    set(field, Kind::kJsonSchema);
    request_.schema = value;
    if (value.is_string()) {
      Result<Json> parsed = parse_json(value.get_ref<const std::string&>());
      if (!parsed.ok()) return in_.fail(field, "must be a JSON Schema or a text of one");
      request_.schema = std::move(*parsed);
    }
    check_size(field, ApiError::to_text(request_.schema).size());
  }

  void text(const std::string& field, Kind kind, const Json& value) {
    set(field, kind);
    if (!value.is_string()) return in_.fail(field, "must be a string");
    request_.text = value.get<std::string>();
    check_size(field, request_.text.size());
  }

  void choices(const std::string& field, const Json& value) {
    set(field, Kind::kChoice);
    const bool texts = value.is_array() && !value.empty() &&
                       std::all_of(value.begin(), value.end(), [](const Json& v) { return v.is_string(); });
    if (!texts) return in_.fail(field, "must be a list of at least one string");
    for (const Json& choice : value) request_.choices.push_back(choice.get<std::string>());
    check_size(field, ApiError::to_text(value).size());
  }

 private:
  void check_size(const std::string& field, size_t bytes) {
    if (static_cast<int64_t>(bytes) > limits_.grammar_bytes)
      in_.fail(field, fmt::format("may take at most {} bytes", limits_.grammar_bytes));
  }

  Fields& in_;
  const RequestLimits& limits_;
  ConstraintRequest& request_;
};

void read_response_format(Fields& in, Asked& asked) {
  const Json* format = in.object("response_format");
  if (format == nullptr) return;
  Fields fields(*format, "response_format.");
  std::string type;
  fields.text("type", type);
  if (type == "json_object") {
    const Json* schema = fields.find("schema");
    schema == nullptr ? asked.set("response_format", Kind::kJsonObject)
                      : asked.schema("response_format.schema", *schema);
  } else if (type == "json_schema") {
    const Json* named = fields.object("json_schema");
    const auto schema = named == nullptr ? Json::const_iterator() : named->find("schema");
    if (named == nullptr || schema == named->end()) {
      fields.fail("json_schema", "must be an object with `schema`");
    } else {
      asked.schema("response_format.json_schema.schema", *schema);
    }
  } else if (!fields.failed() && type != "text") {
    fields.fail("type", "must be text, json_object or json_schema");
  }
  if (fields.failed()) in.fail(*fields.error());
}

void read_named(Fields& in, const std::string& prefix, Asked& asked) {
  const auto each = [&](const char* name, const auto& read) {
    if (const Json* value = in.find(name)) read(prefix + name, *value);
  };
  const bool guided = prefix.empty();
  each(guided ? "guided_json" : "json", [&](const std::string& f, const Json& v) { asked.schema(f, v); });
  each(guided ? "guided_regex" : "regex",
       [&](const std::string& f, const Json& v) { asked.text(f, Kind::kRegex, v); });
  each(guided ? "guided_choice" : "choice",
       [&](const std::string& f, const Json& v) { asked.choices(f, v); });
  each(guided ? "guided_grammar" : "grammar",
       [&](const std::string& f, const Json& v) { asked.text(f, Kind::kGrammar, v); });
}

CallableFunction read_function(const Json& tool, const std::string& name, Fields& in) {
  CallableFunction out;
  const auto function = tool.is_object() ? tool.find("function") : tool.end();
  if (!tool.is_object() || tool.value("type", Json()) != "function" || function == tool.end() ||
      !function->is_object() || !function->contains("name") || !(*function)["name"].is_string()) {
    in.fail("tools", "must hold objects with `type` \"function\" and `function.name`");
    return out;
  }
  Fields fields(*function, name + ".function.");
  fields.text("name", out.name);
  fields.boolean("strict", out.strict);
  if (const Json* parameters = fields.object("parameters")) out.parameters = *parameters;
  if (fields.failed()) in.fail(*fields.error());
  return out;
}

void keep_only(const std::vector<std::string>& names, Fields& in, CallRules& rules) {
  std::vector<CallableFunction> kept;
  for (const std::string& name : names) {
    const auto found = std::find_if(rules.functions.begin(), rules.functions.end(),
                                    [&](const CallableFunction& f) { return f.name == name; });
    if (found == rules.functions.end())
      return in.fail("tool_choice", "names a function that is not in `tools`");
    kept.push_back(*found);
  }
  rules.functions = std::move(kept);
}

// {"type": "function", "function": {"name"}}, or the name beside the type.
std::string named_function(const Json& choice) {
  if (!choice.is_object()) return "";
  const auto function = choice.find("function");
  const Json& holder = function != choice.end() && function->is_object() ? *function : choice;
  const Json name = holder.value("name", Json());
  return name.is_string() ? name.get<std::string>() : "";
}

void read_allowed_tools(const Json& choice, Fields& in, ToolRequest& request) {
  const Json allowed = choice.value("allowed_tools", choice);
  const Json mode = allowed.is_object() ? allowed.value("mode", Json("auto")) : Json();
  const Json tools = allowed.is_object() ? allowed.value("tools", Json()) : Json();
  if ((mode != "auto" && mode != "required") || !tools.is_array())
    return in.fail("tool_choice", "must give allowed_tools a `mode`, auto or required, and `tools`");
  std::vector<std::string> names;
  for (const Json& tool : tools) names.push_back(named_function(tool));
  request.required = mode == "required";
  keep_only(names, in, request.rules);
}

void read_tool_choice(Fields& in, ToolRequest& request) {
  const Json* choice = in.find("tool_choice");
  if (choice == nullptr || *choice == "auto") return;
  if (*choice == "none") {
    request.rules.functions.clear();
    return;
  }
  if (request.rules.functions.empty()) return in.fail("tool_choice", "needs `tools`");
  if (*choice == "required") {
    request.required = true;
  } else if (choice->is_object() && choice->value("type", Json()) == "allowed_tools") {
    read_allowed_tools(*choice, in, request);
  } else if (!named_function(*choice).empty()) {
    request.required = true;
    keep_only({named_function(*choice)}, in, request.rules);
  } else {
    in.fail("tool_choice", "must be none, auto, required, or name a function");
  }
}

}  // namespace

void read_constraint(Fields& in, const RequestLimits& limits, ConstraintRequest& request) {
  Asked asked(in, limits, request);
  read_response_format(in, asked);
  read_named(in, "", asked);
  if (const Json* value = in.find("grammar")) asked.text("grammar", Kind::kGrammar, *value);
  if (const Json* value = in.find("json_schema")) asked.schema("json_schema", *value);
  const Json* structured = in.object("structured_outputs");
  if (structured == nullptr) return;
  Fields fields(*structured, "structured_outputs.");
  read_named(fields, "structured_outputs.", asked);
  if (const Json* object = fields.find("json_object"); object != nullptr && *object == true)
    asked.set("structured_outputs.json_object", Kind::kJsonObject);
  fields.unsupported("structural_tag", "use `tools`");
  if (fields.failed()) in.fail(*fields.error());
}

bool read_tools(Fields& in, const RequestLimits& limits, ToolRequest& request) {
  const Json* tools = in.array("tools");
  if (tools != nullptr && static_cast<int64_t>(tools->size()) > limits.tools) {
    in.fail("tools", fmt::format("may hold at most {} tools", limits.tools));
    return false;
  }
  for (size_t i = 0; tools != nullptr && i < tools->size() && !in.failed(); ++i)
    request.rules.functions.push_back(read_function((*tools)[i], fmt::format("tools[{}]", i), in));
  if (tools != nullptr && static_cast<int64_t>(ApiError::to_text(*tools).size()) > limits.tool_bytes)
    in.fail("tools", fmt::format("may take at most {} bytes", limits.tool_bytes));
  in.boolean("parallel_tool_calls", request.rules.parallel);
  read_tool_choice(in, request);
  return !request.rules.functions.empty();
}

}  // namespace moebius
