#include "server/anthropic/message_answer.h"

#include <fmt/format.h>

#include "server/json_input.h"

namespace moebius {

namespace {

// One event; its name is its type, too.
std::string event(const char* type, Json fields = Json::object()) {
  Json json = {{"type", type}};
  json.update(fields);
  return sse_event(type, json);
}

}  // namespace

std::string MessageAnswer::silence() { return event("ping"); }

std::string MessageAnswer::failed(const ApiError& error) {
  return sse_event("error", error.json(ErrorStyle::kAnthropic));
}

std::string MessageAnswer::begin() {
  Json message = json();
  message["stop_reason"] = nullptr;
  message["usage"]["input_tokens"] = options_.prompt_tokens;
  return event("message_start", {{"message", std::move(message)}}) + event("ping");
}

std::string MessageAnswer::add(const GenerationEvent& generated) {
  std::string out;
  switch (generated.kind) {
    case GenerationEvent::Kind::kPiece:
      if (!generated.reasoning.empty()) add_delta(Kind::kThinking, generated.reasoning, nullptr, out);
      if (!generated.text.empty()) add_delta(Kind::kText, generated.text, nullptr, out);
      for (const CallPiece& call : generated.calls) add_delta(Kind::kTool, call.arguments, &call, out);
      break;
    case GenerationEvent::Kind::kChoiceDone:
      out = end(generated.stats);
      break;
    case GenerationEvent::Kind::kDone:
      if (options_.stream) out = event("message_stop");
      break;
    case GenerationEvent::Kind::kFailed:
      break;
  }
  return out;
}

void MessageAnswer::add_delta(Kind kind, const std::string& text, const CallPiece* call, std::string& out) {
  const bool goes_on =
      open_ && blocks_.back().kind == kind && (call == nullptr || blocks_.back().call == call->index);
  if (!goes_on) {
    close(out);
    open(kind, call, out);
  }
  if (!options_.stream) {
    blocks_.back().text += text;
    return;
  }
  if (text.empty()) return;
  Json delta;
  if (kind == Kind::kThinking) delta = {{"type", "thinking_delta"}, {"thinking", text}};
  if (kind == Kind::kText) delta = {{"type", "text_delta"}, {"text", text}};
  if (kind == Kind::kTool) delta = {{"type", "input_json_delta"}, {"partial_json", text}};
  out += event("content_block_delta", {{"index", blocks_.size() - 1}, {"delta", std::move(delta)}});
}

void MessageAnswer::open(Kind kind, const CallPiece* call, std::string& out) {
  Block block = {kind, 0, "", "", ""};
  if (call != nullptr) {
    block.call = call->index;
    block.id = call->id;
    block.name = call->name;
    if (block.id.empty()) block.id = fmt::format("toolu_{}_{}", options_.id.substr(4), call->index);
  }
  blocks_.push_back(std::move(block));
  open_ = true;
  if (!options_.stream) return;
  out += event("content_block_start",
               {{"index", blocks_.size() - 1}, {"content_block", block_json(blocks_.back())}});
}

void MessageAnswer::close(std::string& out) {
  if (!std::exchange(open_, false) || !options_.stream) return;
  const size_t index = blocks_.size() - 1;
  // Clients keep a signature with thinking; there is nobody here to check one.
  if (blocks_.back().kind == Kind::kThinking) {
    out += event("content_block_delta",
                 {{"index", index}, {"delta", {{"type", "signature_delta"}, {"signature", ""}}}});
  }
  out += event("content_block_stop", {{"index", index}});
}

std::string MessageAnswer::end(const GenerateStats& stats) {
  count(stats, true);
  const bool called = !blocks_.empty() && blocks_.back().kind == Kind::kTool;
  matched_ = stats.matched_stop;
  stop_ = stats.finish == FinishReason::kLength ? "max_tokens"
          : !matched_.empty()                   ? "stop_sequence"
          : called                              ? "tool_use"
                                                : "end_turn";
  finish_ = stop_;
  std::string out;
  close(out);
  if (!options_.stream) return out;
  Json delta = {{"stop_reason", stop_}, {"stop_sequence", nullptr}};
  if (!matched_.empty()) delta["stop_sequence"] = matched_;
  return out + event("message_delta", {{"delta", std::move(delta)}, {"usage", usage_json()}});
}

Json MessageAnswer::block_json(const Block& block) const {
  switch (block.kind) {
    case Kind::kThinking:
      return {{"type", "thinking"}, {"thinking", block.text}, {"signature", ""}};
    case Kind::kText:
      return {{"type", "text"}, {"text", block.text}, {"citations", nullptr}};
    case Kind::kTool:
      break;
  }
  // Arguments that were cut off are no object, and the type has room for nothing else.
  Result<Json> input = parse_json(block.text);
  const bool whole = input.ok() && input->is_object();
  return {{"type", "tool_use"},
          {"id", block.id},
          {"name", block.name},
          {"input", whole ? std::move(*input) : Json::object()}};
}

// Tokens that were in the cache are counted apart.
Json MessageAnswer::usage_json() const {
  return {{"input_tokens", usage_.prompt - usage_.cached},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", usage_.cached},
          {"output_tokens", usage_.completion},
          {"output_tokens_details", {{"thinking_tokens", usage_.reasoning}}}};
}

Json MessageAnswer::json() const {
  Json content = Json::array();
  for (const Block& block : blocks_) content.push_back(block_json(block));
  Json out = {{"id", options_.id},
              {"type", "message"},
              {"role", "assistant"},
              {"model", options_.model},
              {"content", std::move(content)},
              {"stop_reason", stop_},
              {"stop_sequence", nullptr},
              {"usage", usage_json()}};
  if (!matched_.empty()) out["stop_sequence"] = matched_;
  return out;
}

}  // namespace moebius
