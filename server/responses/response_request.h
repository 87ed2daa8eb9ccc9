// The request of /v1/responses, read into a ChatRequest.
#pragma once

#include <functional>

#include "server/request.h"

namespace moebius {

struct ResponseRequest : ChatRequest {
  Json input;  // its own items, with ids
  Json echo;   // fields of the request that the response repeats
  bool store = true, background = false;
  std::vector<std::string> skipped_tools;  // types of tools that OpenAI runs itself
};

// The items of an earlier response and of all before it.
using ResponseHistory = std::function<std::optional<ApiError>(const std::string& id, Json& items)>;

// Fills `request`, or says what is wrong. count_only: for /v1/responses/input_tokens.
std::optional<ApiError> parse_response_request(const Json& body, const RequestLimits& limits,
                                               const ResponseHistory& history, bool count_only,
                                               ResponseRequest& request);

}  // namespace moebius
