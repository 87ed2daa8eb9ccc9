#include "server/responses/response_answer.h"

#include <fmt/format.h>

namespace moebius {

std::string ResponseAnswer::event(const char* type, Json fields) {
  Json json = {{"type", type}, {"sequence_number", sequence_++}};
  json.update(fields);
  return sse_event(type, json);
}

std::string ResponseAnswer::state_event(const char* type) { return event(type, {{"response", json()}}); }

std::string ResponseAnswer::begin() {
  const std::string created = state_event("response.created");
  return created + state_event("response.in_progress");
}

std::string ResponseAnswer::silence() { return state_event("response.in_progress"); }

std::string ResponseAnswer::failed(const ApiError& error) {
  status_ = error.code == kCancelledCode ? "cancelled" : "failed";
  if (status_ == "failed") error_ = {{"code", "server_error"}, {"message", error.message}};
  std::string out;
  close("incomplete", out);
  return out + state_event("response.failed");
}

std::string ResponseAnswer::add(const GenerationEvent& generated) {
  std::string out;
  if (generated.kind == GenerationEvent::Kind::kPiece) {
    const bool content = generated.reasoning.empty() && generated.calls.empty();
    if (options_.logprobs && generated.id >= 0 && content)
      logprobs_.push_back(token_logprobs(generated, token_bytes_));
    if (!generated.reasoning.empty()) add_delta(Kind::kReasoning, generated.reasoning, nullptr, out);
    if (!generated.text.empty()) add_delta(Kind::kText, generated.text, nullptr, out);
    for (const CallPiece& call : generated.calls) add_delta(Kind::kCall, call.arguments, &call, out);
  } else if (generated.kind == GenerationEvent::Kind::kChoiceDone) {
    out = end(generated.stats);
  } else if (generated.kind == GenerationEvent::Kind::kDone) {
    out = state_event(status_ == "completed" ? "response.completed" : "response.incomplete");
  }
  return options_.stream ? out : "";
}

Json ResponseAnswer::place(const Item& item) const {
  Json out = {{"item_id", item.id}, {"output_index", items_.size() - 1}};
  if (item.kind != Kind::kCall) out["content_index"] = 0;
  return out;
}

void ResponseAnswer::add_delta(Kind kind, const std::string& text, const CallPiece* call, std::string& out) {
  const bool goes_on =
      open_ && items_.back().kind == kind && (call == nullptr || items_.back().call == call->index);
  if (!goes_on) {
    close("completed", out);
    open(kind, call, out);
  }
  Item& item = items_.back();
  item.text += text;
  if (text.empty()) return;
  Json fields = place(item);
  fields["delta"] = text;
  if (kind == Kind::kText) {
    fields["logprobs"] = logprobs_;
    item.logprobs.insert(item.logprobs.end(), logprobs_.begin(), logprobs_.end());
    logprobs_ = Json::array();
  }
  out += event(kind == Kind::kText        ? "response.output_text.delta"
               : kind == Kind::kReasoning ? "response.reasoning_text.delta"
                                          : "response.function_call_arguments.delta",
               std::move(fields));
}

void ResponseAnswer::open(Kind kind, const CallPiece* call, std::string& out) {
  Item item;
  item.kind = kind;
  const char* prefix = kind == Kind::kText ? "msg" : kind == Kind::kReasoning ? "rs" : "fc";
  const std::string own = options_.id.substr(options_.id.find('_') + 1);
  item.id = fmt::format("{}_{}_{}", prefix, own, items_.size());
  if (call != nullptr) {
    item.call = call->index;
    item.name = call->name;
    item.call_id = call->id.empty() ? fmt::format("call_{}_{}", own, call->index) : call->id;
  }
  items_.push_back(std::move(item));
  open_ = true;
  const Item& last = items_.back();
  Json added = item_json(last);
  if (kind != Kind::kCall) added["content"] = Json::array();
  out +=
      event("response.output_item.added", {{"output_index", items_.size() - 1}, {"item", std::move(added)}});
  if (kind == Kind::kCall) return;
  Json fields = place(last);
  fields["part"] = part_json(last);
  out += event("response.content_part.added", std::move(fields));
}

void ResponseAnswer::close(const char* status, std::string& out) {
  if (!std::exchange(open_, false)) return;
  Item& item = items_.back();
  item.status = status;
  Json done = place(item);
  done[item.kind == Kind::kCall ? "arguments" : "text"] = item.text;
  if (item.kind == Kind::kText) done["logprobs"] = item.logprobs;
  if (item.kind == Kind::kCall) done["name"] = item.name;
  out += event(item.kind == Kind::kText        ? "response.output_text.done"
               : item.kind == Kind::kReasoning ? "response.reasoning_text.done"
                                               : "response.function_call_arguments.done",
               std::move(done));
  if (item.kind != Kind::kCall) {
    Json part = place(item);
    part["part"] = part_json(item);
    out += event("response.content_part.done", std::move(part));
  }
  out += event("response.output_item.done", {{"output_index", items_.size() - 1}, {"item", item_json(item)}});
}

std::string ResponseAnswer::end(const GenerateStats& stats) {
  count(stats, true);
  const bool cut = stats.finish == FinishReason::kLength;
  status_ = cut ? "incomplete" : "completed";
  finish_ = cut ? "length" : "stop";
  std::string out;
  close(status_.c_str(), out);
  return out;
}

Json ResponseAnswer::part_json(const Item& item) const {
  if (item.kind == Kind::kReasoning) return {{"type", "reasoning_text"}, {"text", item.text}};
  return {{"type", "output_text"},
          {"text", item.text},
          {"annotations", Json::array()},
          {"logprobs", item.logprobs}};
}

Json ResponseAnswer::item_json(const Item& item) const {
  Json out = {{"id", item.id}};
  switch (item.kind) {
    case Kind::kReasoning:
      out["type"] = "reasoning";
      out["summary"] = Json::array();
      break;
    case Kind::kText:
      out["type"] = "message";
      out["role"] = "assistant";
      break;
    case Kind::kCall:
      out["type"] = "function_call";
      out["call_id"] = item.call_id;
      out["name"] = item.name;
      out["arguments"] = item.text;
      break;
  }
  if (item.kind != Kind::kCall) out["content"] = Json::array({part_json(item)});
  out["status"] = item.status;
  return out;
}

Json ResponseAnswer::usage_json() const {
  return {{"input_tokens", usage_.prompt},
          {"input_tokens_details", {{"cached_tokens", usage_.cached}, {"cache_write_tokens", 0}}},
          {"output_tokens", usage_.completion},
          {"output_tokens_details", {{"reasoning_tokens", usage_.reasoning}}},
          {"total_tokens", usage_.prompt + usage_.completion}};
}

Json ResponseAnswer::json() const {
  Json output = Json::array();
  for (const Item& item : items_) output.push_back(item_json(item));
  const bool ended = status_ == "completed" || status_ == "incomplete";
  Json out = {{"id", options_.id},
              {"object", "response"},
              {"created_at", options_.created},
              {"status", status_},
              {"error", error_},
              {"incomplete_details", nullptr},
              {"model", options_.model},
              {"output", std::move(output)},
              {"usage", ended ? usage_json() : Json()}};
  if (status_ == "incomplete") out["incomplete_details"] = {{"reason", "max_output_tokens"}};
  out.update(options_.echo);
  return out;
}

}  // namespace moebius
