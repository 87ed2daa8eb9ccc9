// Fuzzes what is read of a request's body: JSON and the requests of every API. Input: a byte that chooses the
// API, then the body. Whatever is accepted must be within the limits it was accepted by.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "server/anthropic/message_request.h"
#include "server/jobs/job_request.h"
#include "server/json_input.h"
#include "server/responses/response_request.h"
#include "server/route_pattern.h"

namespace {

using namespace moebius;

RequestLimits limits() {
  RequestLimits out;
  out.vocab = 100;
  return out;
}

void check(const SamplingRequest& request, const RequestLimits& limits) {
  MOEBIUS_CHECK(request.n >= 1 && request.n <= limits.n);
  MOEBIUS_CHECK(static_cast<int64_t>(request.stop.size()) <= limits.stops);
  MOEBIUS_CHECK(request.max_tokens == -1 || request.max_tokens > 0);
  MOEBIUS_CHECK(request.sampling.temperature >= 0 && request.sampling.temperature <= 100);
  for (const auto& [id, bias] : request.sampling.logit_bias) MOEBIUS_CHECK(id >= 0 && id < limits.vocab);
}

void check(const ChatRequest& request, const RequestLimits& limits) {
  check(static_cast<const SamplingRequest&>(request), limits);
  const Json& messages = request.variables["messages"];
  MOEBIUS_CHECK(!messages.empty() && static_cast<int64_t>(messages.size()) <= limits.messages);
  for (const Json& message : messages) MOEBIUS_CHECK(message["role"].is_string());
  MOEBIUS_CHECK(static_cast<int64_t>(request.tools.rules.functions.size()) <= limits.tools);
}

// Arguments that a program takes for nothing else.
void check(const JobRequest& request) {
  MOEBIUS_CHECK(request.epochs >= 1 && request.epochs <= 50 && request.batch >= 0 && request.batch <= 256);
  MOEBIUS_CHECK(request.learning_rate() > 0 && request.suffix.size() <= 64);
  for (const std::string& argument : finetune_arguments(request)) {
    MOEBIUS_CHECK(argument.starts_with("--") &&
                      argument.find_first_of(std::string_view(" \n\"\0", 4)) == std::string::npos,
                  argument);
  }
  ApiError::to_text(effective_lora(request));
}

std::optional<ApiError> history(const std::string& id, Json& items) {
  if (id != "r") return bad_request("unknown");
  items = Json::parse(R"([{"id": "a", "type": "message", "role": "user", "content": []}])");
  return {};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  const RequestLimits limit = limits();
  if (data[0] % 6 == 5) {
    std::vector<std::string> arguments;
    for (const char* pattern : {"/", "/v1/models/{id*}", "/v1/responses/{id}/cancel"})
      match_pattern(pattern, text, arguments);
    return 0;
  }
  const Result<Json> body = parse_json(text);
  if (!body.ok() || !body->is_object()) return 0;
  ApiError::to_text(*body);
  if (data[0] % 6 == 0) {
    ChatRequest request;
    if (!parse_chat_request(*body, limit, request)) check(request, limit);
  } else if (data[0] % 6 == 1) {
    CompletionRequest request;
    if (!parse_completion_request(*body, limit, request)) check(request, limit);
  } else if (data[0] % 6 == 4) {
    JobRequest request;
    if (!parse_job_request(*body, {"m"}, request)) check(request);
  } else if (data[0] % 6 == 2) {
    MessageRequest request;
    if (!parse_message_request(*body, limit, false, request)) check(request, limit);
  } else {
    ResponseRequest request;
    if (!parse_response_request(*body, limit, history, false, request)) {
      check(request, limit);
      MOEBIUS_CHECK(request.echo.is_object() && request.input.is_array());
    }
  }
  return 0;
}
