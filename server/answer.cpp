#include "server/answer.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace moebius {

namespace {

int64_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

const char* finish_name(FinishReason reason) { return reason == FinishReason::kLength ? "length" : "stop"; }

}  // namespace

Answer::Answer(AnswerOptions options, TokenBytes token_bytes)
    : options_(std::move(options)), token_bytes_(std::move(token_bytes)), choices_(options_.choices) {
  if (!options_.logprobs) return;
  for (Choice& choice : choices_) choice.logprobs = empty_logprobs();
}

Json Answer::empty_logprobs() const {
  if (options_.api == Api::kChat) return {{"content", Json::array()}, {"refusal", nullptr}};
  return {{"tokens", Json::array()},
          {"token_logprobs", Json::array()},
          {"top_logprobs", Json::array()},
          {"text_offset", Json::array()}};
}

void Answer::append_logprobs(const GenerationEvent& event, int64_t offset, Json& out) const {
  if (options_.api == Api::kChat) return out["content"].push_back(token_logprobs(event, token_bytes_));
  const std::string bytes = token_bytes_(event.id);
  Json top = Json::object();
  for (const TokenProbability& other : event.alternatives) top[token_bytes_(other.id)] = other.logprob;
  top[bytes] = event.chosen.logprob;
  out["tokens"].push_back(bytes);
  out["token_logprobs"].push_back(event.chosen.logprob);
  out["top_logprobs"].push_back(std::move(top));
  out["text_offset"].push_back(offset);
}

std::string Answer::add(const GenerationEvent& event) {
  switch (event.kind) {
    case GenerationEvent::Kind::kPiece:
      return add_piece(event);
    case GenerationEvent::Kind::kChoiceDone:
      return add_end(event);
    case GenerationEvent::Kind::kDone: {
      if (!options_.stream) return {};
      std::string out;
      if (options_.include_usage) {
        Json last = head(options_.api == Api::kChat ? "chat.completion.chunk" : "text_completion");
        last["choices"] = Json::array();
        last["usage"] = usage_json();
        out = sse_event(last);
      }
      return out + kSseDone;
    }
    case GenerationEvent::Kind::kFailed:
      break;
  }
  return {};
}

// In llama.cpp's form.
std::string Answer::progress(const PromptProgress& progress) {
  const Json delta = options_.api == Api::kChat ? Json::object() : Json();
  Json json = chunk(0, delta, "", nullptr, nullptr);
  json["prompt_progress"] = {{"total", progress.total},
                             {"cache", progress.cached},
                             {"processed", progress.processed},
                             {"time_ms", static_cast<int64_t>(progress.ms)}};
  return sse_event(json);
}

std::string Answer::add_piece(const GenerationEvent& event) {
  Choice& choice = choices_[event.choice];
  std::string out;
  if (options_.stream && !choice.begun && options_.api == Api::kChat) {
    const Json delta = {{"role", "assistant"}, {"content", ""}};
    out = sse_event(chunk(event.choice, delta, "", nullptr, nullptr));
  }
  choice.begun = true;
  Json logprobs;
  if (options_.logprobs && event.id >= 0) {
    logprobs = empty_logprobs();
    append_logprobs(event, choice.token_offset, options_.stream ? logprobs : choice.logprobs);
    choice.token_offset += characters(token_bytes_(event.id));
  }
  keep(event, choice);
  if (!options_.stream) return out;
  if (options_.api == Api::kCompletion) {
    if (event.text.empty() && logprobs.is_null()) return out;
    return out + sse_event(chunk(event.choice, nullptr, event.text, std::move(logprobs), nullptr));
  }
  for (Json& delta : deltas(event, !logprobs.is_null()))
    out += sse_event(chunk(event.choice, std::move(delta), "", std::exchange(logprobs, nullptr), nullptr));
  return out;
}

// Of a stream no more than the calls, for how it finished.
void Answer::keep(const GenerationEvent& event, Choice& choice) {
  choice.called |= !event.calls.empty();
  if (options_.stream) return;
  choice.text += event.text;
  choice.reasoning += event.reasoning;
  for (const CallPiece& piece : event.calls) {
    if (static_cast<size_t>(piece.index) >= choice.calls.size()) {
      choice.calls.push_back(piece);
    } else {
      choice.calls[static_cast<size_t>(piece.index)].arguments += piece.arguments;
    }
  }
}

// The family's own id, else one that no other call of any answer has.
std::string Answer::call_id(int choice, const CallPiece& call) const {
  if (!call.id.empty()) return call.id;
  return fmt::format("call_{}_{}_{}", options_.id.substr(options_.id.find('-') + 1), choice, call.index);
}

Json Answer::call_delta(int choice, const CallPiece& piece) const {
  Json out = {{"index", piece.index}};
  Json function = Json::object();
  if (!piece.name.empty()) {
    out["id"] = call_id(choice, piece);
    out["type"] = "function";
    function["name"] = piece.name;
  }
  function["arguments"] = piece.arguments;
  out["function"] = std::move(function);
  return out;
}

std::vector<Json> Answer::deltas(const GenerationEvent& event, bool logprobs) const {
  std::vector<Json> out;
  if (!event.reasoning.empty()) out.push_back({{"reasoning_content", event.reasoning}});
  if (!event.text.empty()) out.push_back({{"content", event.text}});
  for (const CallPiece& piece : event.calls)
    out.push_back({{"tool_calls", Json::array({call_delta(event.choice, piece)})}});
  if (out.empty() && logprobs) out.push_back({{"content", ""}});
  return out;
}

Json Answer::message(int index) const {
  const Choice& choice = choices_[static_cast<size_t>(index)];
  Json out = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
  if (!choice.reasoning.empty()) out["reasoning_content"] = choice.reasoning;
  if (choice.calls.empty()) return out;
  if (choice.text.empty()) out["content"] = nullptr;
  Json calls = Json::array();
  for (const CallPiece& call : choice.calls) {
    calls.push_back({{"id", call_id(index, call)},
                     {"type", "function"},
                     {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
  }
  out["tool_calls"] = std::move(calls);
  return out;
}

std::string Answer::add_end(const GenerationEvent& event) {
  Choice& choice = choices_[event.choice];
  const bool calls = choice.called && event.stats.finish == FinishReason::kStop;
  choice.finish = finish_ = calls ? "tool_calls" : finish_name(event.stats.finish);
  count(event.stats, event.choice % options_.n == 0);
  if (!options_.stream) return {};
  std::string out;
  if (!choice.begun) {
    GenerationEvent nothing;
    nothing.choice = event.choice;
    out = add_piece(nothing);
  }
  return out + sse_event(chunk(event.choice, Json::object(), "", nullptr, choice.finish));
}

Json Answer::head(const char* object) const {
  return {{"id", options_.id},
          {"object", object},
          {"created", options_.created},
          {"model", options_.model},
          {"system_fingerprint", options_.fingerprint}};
}

Json Answer::chunk(int index, Json delta, const std::string& text, Json logprobs, Json finish) const {
  Json choice = {{"index", index}};
  if (options_.api == Api::kChat) {
    choice["delta"] = std::move(delta);
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = std::move(logprobs);
  choice["finish_reason"] = std::move(finish);
  Json out = head(options_.api == Api::kChat ? "chat.completion.chunk" : "text_completion");
  out["choices"] = Json::array({std::move(choice)});
  if (options_.include_usage) out["usage"] = nullptr;
  return out;
}

Json Answer::usage_json() const {
  return {{"prompt_tokens", usage_.prompt},
          {"completion_tokens", usage_.completion},
          {"total_tokens", usage_.prompt + usage_.completion},
          {"prompt_tokens_details", {{"cached_tokens", usage_.cached}}},
          {"completion_tokens_details", {{"reasoning_tokens", usage_.reasoning}}}};
}

Json Answer::json() const {
  Json list = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i) {
    Json choice = {{"index", i}};
    if (options_.api == Api::kChat) {
      choice["message"] = message(static_cast<int>(i));
    } else {
      choice["text"] = choices_[i].text;
    }
    choice["logprobs"] = choices_[i].logprobs;
    choice["finish_reason"] = choices_[i].finish;
    list.push_back(std::move(choice));
  }
  Json out = head(options_.api == Api::kChat ? "chat.completion" : "text_completion");
  out["choices"] = std::move(list);
  out["usage"] = usage_json();
  return out;
}

}  // namespace moebius
