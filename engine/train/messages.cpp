#include "engine/train/messages.h"

#include <algorithm>

#include <fmt/format.h>

#include "models/json_fields.h"

namespace moebius {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxMessages = 4096;  // each turn is rendered with all before it
constexpr int64_t kMaxFields = 4096;   // of one object

// Counts the fields of each open object; stops at the first with too many.
class FieldCounter : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool too_many() const { return too_many_; }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool start_array(size_t) override { return open(); }
  bool end_array() override { return close(); }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception&) override { return false; }
  bool key(string_t&) override {
    too_many_ = ++fields_.back() > kMaxFields;
    return !too_many_;
  }

 private:
  bool open() {
    fields_.push_back(0);
    return fields_.size() <= 64;  // the parser refuses deeper ones
  }
  bool close() {
    fields_.pop_back();
    return true;
  }
  std::vector<int64_t> fields_;
  bool too_many_ = false;
};

Status wrong(size_t message, std::string_view what) {
  return invalid(fmt::format("messages[{}] {}", message, what));
}

Result<Json> read_content(const Json& content, size_t index) {
  if (content.is_string()) return content;
  if (!content.is_array()) return wrong(index, "has a content that is neither text nor a list of text parts");
  std::string joined;
  for (size_t i = 0; i < content.size(); ++i) {
    const Json& part = content[i];
    const Json* text = part.is_object() ? given(part, "text") : nullptr;
    if (text == nullptr || !text->is_string() || part.value("type", Json()) != "text") {
      return wrong(index, fmt::format("has a content part {} that is not text; write {{\"type\": \"text\", "
                                      "\"text\": TEXT}}",
                                      i));
    }
    if (i > 0) joined += '\n';
    joined += text->get_ref<const std::string&>();
  }
  return Json(std::move(joined));
}

Result<Json> read_calls(const Json& calls, size_t index) {
  if (!calls.is_array()) return wrong(index, "has tool_calls that are not a list");
  Json out = calls;
  for (Json& call : out) {
    const Json* function = call.is_object() ? given(call, "function") : nullptr;
    const Json* name = function != nullptr && function->is_object() ? given(*function, "name") : nullptr;
    if (name == nullptr || !name->is_string()) {
      return wrong(index, "has a tool call without \"function\": {\"name\": NAME, \"arguments\": OBJECT}");
    }
    const auto arguments = call["function"].find("arguments");
    if (arguments == call["function"].end() || !arguments->is_string()) continue;
    const std::string& text = arguments->get_ref<const std::string&>();
    if (has_too_many_fields(text)) return wrong(index, "has a tool call with too many arguments");
    Json parsed = parse_ordered_json(text);
    if (parsed.is_object()) *arguments = std::move(parsed);
  }
  return out;
}

// *counts: whether the turn is to be learnt.
Status read_weight(const Json& message, size_t index, bool assistant, bool* counts) {
  *counts = assistant;
  const Json* weight = given(message, "weight");
  if (weight == nullptr) return {};
  if (!weight->is_number() || (*weight != 0 && *weight != 1)) {
    return wrong(index, "has a weight that is neither 0 nor 1; write 0 to leave the turn out, 1 to learn it");
  }
  if (!assistant && *weight == 1) {
    return wrong(index, "has weight 1 but is not the assistant's; only the assistant's turns are learnt");
  }
  *counts = assistant && *weight == 1;
  return {};
}

Status read_message(const Json& message, size_t index, TrainingConversation& out) {
  if (!message.is_object())
    return wrong(index, "is not an object; write {\"role\": ROLE, \"content\": TEXT}");
  const Json* role = given(message, "role");
  if (role == nullptr || !role->is_string()) {
    return wrong(index, "has no role; write \"system\", \"user\", \"assistant\" or \"tool\"");
  }
  const bool assistant = *role == "assistant";
  Json copy = message;
  copy.erase("weight");
  if (*role == "developer") copy["role"] = "system";
  if (const Json* content = given(message, "content")) {
    MOEBIUS_ASSIGN(copy["content"], read_content(*content, index));
  } else if (assistant) {
    copy["content"] = "";
  } else {
    return wrong(index, "has no content; write \"content\": TEXT");
  }
  if (const Json* calls = given(message, "tool_calls")) {
    MOEBIUS_ASSIGN(copy["tool_calls"], read_calls(*calls, index));
  }
  bool counts = false;
  MOEBIUS_TRY(read_weight(message, index, assistant, &counts));
  out.messages.push_back(std::move(copy));
  out.counts.push_back(counts);
  return {};
}

}  // namespace

bool has_too_many_fields(std::string_view text) {
  if (std::count(text.begin(), text.end(), ':') <= kMaxFields) return false;
  FieldCounter counter;
  nlohmann::json::sax_parse(text.begin(), text.end(), &counter);
  return counter.too_many();
}

const Json* given(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

Result<TrainingConversation> read_training_conversation(const Json& line) {
  TrainingConversation out;
  const Json& messages = line["messages"];
  if (!messages.is_array()) return invalid("messages is not a list; write a list of {\"role\", \"content\"}");
  if (messages.empty() || messages.size() > kMaxMessages) {
    return invalid(fmt::format("messages holds {} messages; 1 to {} are allowed, split the conversation",
                               messages.size(), kMaxMessages));
  }
  for (size_t i = 0; i < messages.size(); ++i) MOEBIUS_TRY(read_message(messages[i], i, out));
  if (std::find(out.counts.begin(), out.counts.end(), true) == out.counts.end()) {
    return invalid(
        "no assistant message with weight 1: nothing to learn; add the answer, or remove the line");
  }
  if (const Json* tools = given(line, "tools")) {
    if (!tools->is_array()) return invalid("tools is not a list; write a list of {\"type\", \"function\"}");
    if (!tools->empty()) out.tools = *tools;
  }
  return out;
}

}  // namespace moebius
