#include "tools/chat_conversation.h"

#include <fmt/format.h>

#include "models/file_io.h"
#include "models/json_fields.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMaxMessages = 100'000;

ordered_json message(const char* role, const std::string& content) {
  return {{"role", role}, {"content", content}};
}

// What a model has said so far: as it is shown, thinking and calls of tools included, and as the conversation
// keeps it.
class Spoken {
 public:
  // The text to show of a piece.
  std::string add(const Piece& piece) {
    std::string shown(piece.reasoning);
    if (content_.empty() && !piece.text.empty() && !reasoning_.empty()) shown += "\n\n";
    shown += piece.text;
    reasoning_ += piece.reasoning;
    content_ += piece.text;
    for (const CallPiece& call : piece.calls) {
      if (!call.name.empty()) {
        if (!empty()) shown += "\n";
        shown += call.name + " ";
        calls_.push_back({call.name, ""});
      }
      shown += call.arguments;
      calls_.back().second += call.arguments;
    }
    return shown;
  }

  bool empty() const { return reasoning_.empty() && content_.empty() && calls_.empty(); }

  ordered_json message() const {
    ordered_json out = moebius::message("assistant", valid_utf8(content_));
    if (!reasoning_.empty()) out["reasoning_content"] = valid_utf8(reasoning_);
    for (const auto& [name, text] : calls_) {
      const ordered_json parsed = parse_ordered_json(text);
      const ordered_json arguments = parsed.is_discarded() ? ordered_json(valid_utf8(text)) : parsed;
      out["tool_calls"].push_back(
          {{"type", "function"}, {"function", {{"name", name}, {"arguments", arguments}}}});
    }
    return out;
  }

 private:
  std::string reasoning_, content_;
  std::vector<std::pair<std::string, std::string>> calls_;  // name, arguments
};

bool is_message(const ordered_json& value) {
  return value.is_object() && value.contains("role") && value["role"].is_string() &&
         value.contains("content") && value["content"].is_string();
}

}  // namespace

Result<std::unique_ptr<Conversation>> Conversation::open(Engine& engine, ChatSettings settings) {
  if (!engine.has_tokenizer()) {
    return not_found("this model has no tokenizer, which a chat needs; add tokenizer.json to its folder");
  }
  std::unique_ptr<Conversation> out(new Conversation(engine, std::move(settings)));
  MOEBIUS_ASSIGN(out->session_, engine.new_session());
  const ordered_json probe = {{"messages", ordered_json::array({message("user", "?")})}};
  out->raw_ = engine.render_chat(probe).status().code() == Code::kNotFound;
  return out;
}

std::string Conversation::system() const {
  const bool present = !messages_.empty() && messages_[0]["role"] == "system";
  return present ? messages_[0]["content"].get<std::string>() : "";
}

void Conversation::set_system(const std::string& text) {
  if (!messages_.empty() && messages_[0]["role"] == "system") messages_.erase(0);
  if (!text.empty()) messages_.insert(messages_.begin(), message("system", text));
}

void Conversation::clear() {
  const std::string kept = system();
  messages_ = ordered_json::array();
  set_system(kept);
}

Result<Answer> Conversation::say(const std::string& text, const AnswerHooks& hooks) {
  const ordered_json before = messages_;
  messages_.push_back(message("user", text));
  Result<Answer> result = answer(hooks);
  if (!result.ok() || messages_.size() == before.size() + 1) messages_ = before;
  return result;
}

Result<Answer> Conversation::regenerate(const AnswerHooks& hooks) {
  const ordered_json before = messages_;
  if (!messages_.empty() && messages_.back()["role"] == "assistant") messages_.erase(messages_.size() - 1);
  if (messages_.empty() || messages_.back()["role"] == "system") {
    messages_ = before;
    return invalid("there is no answer to give again; ask something first");
  }
  const size_t asked = messages_.size();
  Result<Answer> result = answer(hooks);
  if (!result.ok() || messages_.size() == asked) messages_ = before;
  return result;
}

Result<std::vector<int32_t>> Conversation::prompt() const {
  EncodeOptions encode;
  std::string text;
  if (raw_) {
    for (const ordered_json& each : messages_) text += each["content"].get<std::string>();
    encode.add_special = true;
  } else {
    ordered_json request = {{"messages", messages_}};
    if (settings_.kwargs.is_object()) {
      for (const auto& [name, value] : settings_.kwargs.items()) request[name] = value;
    }
    MOEBIUS_ASSIGN(text, engine_.render_chat(request));
  }
  return engine_.tokenizer().encode(text, encode);
}

// Appends the answer to messages_ unless it is stopped before its first character.
Result<Answer> Conversation::answer(const AnswerHooks& hooks) {
  MOEBIUS_ASSIGN(const std::vector<int32_t> ids, prompt());
  GenerateOptions options = settings_.generate;
  options.sampling.seed += answers_++;
  if (!raw_) options.form = std::make_shared<AnswerForm>(AnswerForm{engine_.markup(), nullptr});
  Answer out;
  Spoken spoken;
  const SlotSum before = slots_of(engine_.expert_map());
  Result<GenerateStats> stats = engine_.generate(
      *session_, ids, options, [&](const Piece& piece) { return hooks.on_text(spoken.add(piece)); },
      hooks.on_progress);
  if (!stats.ok()) return stats.status();
  out.stats = *stats;
  out.skipped = (slots_of(engine_.expert_map()) - before).skip_rate();
  out.stopped = stats->finish == FinishReason::kCancelled;
  if (!out.stopped || !spoken.empty()) messages_.push_back(spoken.message());
  return out;
}

Status Conversation::save(const std::string& path) const {
  return write_text_file(path, to_text({{"messages", messages_}}, 2) + "\n");
}

Status Conversation::load(const std::string& path) {
  MOEBIUS_ASSIGN(ordered_json document, read_json(path));
  if (document.is_object() && document.contains("messages")) {
    ordered_json list = std::move(document["messages"]);
    document = std::move(list);
  }
  if (!document.is_array() || document.size() > kMaxMessages) {
    return invalid(
        fmt::format("'{}' is not a conversation; it must be {{\"messages\": [...]}}", printable(path)));
  }
  for (size_t i = 0; i < document.size(); ++i) {
    if (is_message(document[i])) continue;
    return invalid(
        fmt::format("message {} of '{}' is not {{\"role\": text, \"content\": text}}", i, printable(path)));
  }
  messages_ = std::move(document);
  return {};
}

}  // namespace moebius
