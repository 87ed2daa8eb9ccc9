// The requests of /v1/chat/completions and /v1/completions: from JSON to values that are known to be in
// range.
//
// Unknown fields are ignored, known fields of a wrong type or out of range are refused by name, and so are
// fields that are known but not done here. Pure: nothing but the JSON and the limits decides.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/engine.h"
#include "server/constraint_request.h"
#include "server/errors.h"
#include "server/fields.h"

namespace moebius {

struct RequestLimits {
  int64_t vocab = 0;
  SamplingParams sampling;  // where the request says nothing
  int64_t inputs = 2048;    // of embeddings
  int64_t n = 8, prompts = 64, messages = 4096, stops = 16, stop_bytes = 256, biases = 1024, salt_bytes = 256;
  int64_t breakers = 16, breaker_bytes = 64;
  int64_t tools = 128, tool_bytes = 256 << 10, grammar_bytes = 1 << 20;
};

// Which model is to answer, by any of the spellings that clients have.
struct AdapterChoice {
  std::string model;    // `model`: the server's, an adapter, or both as "model:adapter"; "": the server's
  std::string name;     // `adapter`, or `lora` with a name as its id
  int64_t number = -1;  // `lora` with a number of GET /lora-adapters
};

struct ServedModel {
  std::string name;                       // that answers bear
  std::shared_ptr<BatchAdapter> adapter;  // null: the model as it is
};

// What both kinds of request share.
struct SamplingRequest {
  AdapterChoice choice;
  ServedModel served;  // which that is; for whoever knows the adapters
  SamplingParams sampling;
  bool has_seed = false;    // else one is to be drawn
  int64_t max_tokens = -1;  // -1: until the context is full
  std::vector<std::string> stop;
  std::vector<std::string> dry_breakers;  // texts; the ids are for whoever has the vocabulary
  int n = 1;
  int top_logprobs = -1;     // as GenerateOptions has it
  int64_t think_limit = -1;  // tokens after which thinking must end; -1: whenever
  bool ignore_eos = false;
  std::string cache_salt;  // requests of another one share nothing that was computed
  int priority = 0;        // the higher goes first
  bool stream = false, include_usage = false;
  bool progress = false;  // of the prompt, on a stream
  ConstraintRequest constraint;
};

struct ChatRequest : SamplingRequest {
  Json variables;  // for Engine::render_chat: messages with text content, tools, chat_template_kwargs
  ToolRequest tools;
};

using Prompt = std::variant<std::string, std::vector<int32_t>>;

struct CompletionRequest : SamplingRequest {
  std::vector<Prompt> prompts;  // at least one
};

// Parts of the requests below, for further kinds: a field of one or several prompts, and which model is to
// answer.
void read_prompts(Fields& in, const char* field, const RequestLimits& limits, std::vector<Prompt>& prompts);
void read_choice(Fields& in, AdapterChoice& choice);

// Fill `request`, or say what is wrong.
std::optional<ApiError> parse_chat_request(const Json& body, const RequestLimits& limits,
                                           ChatRequest& request);
std::optional<ApiError> parse_completion_request(const Json& body, const RequestLimits& limits,
                                                 CompletionRequest& request);

}  // namespace moebius
