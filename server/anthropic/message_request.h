// The requests of Anthropic's /v1/messages and /v1/messages/count_tokens, read into a ChatRequest: content
// blocks become messages, tool calls and thinking, tool_result blocks become messages of a tool.
//
// As everywhere, unknown fields are ignored and known ones that are not done here are refused by name. Tools
// that Anthropic runs itself are left out and listed, since agents offer them beside their own.
#pragma once

#include "server/request.h"

namespace moebius {

struct MessageRequest : ChatRequest {
  std::vector<std::string> skipped_tools;  // their types
};

// Fills `request`, or says what is wrong. count_only: the fields that choose tokens are not looked at.
std::optional<ApiError> parse_message_request(const Json& body, const RequestLimits& limits, bool count_only,
                                              MessageRequest& request);

}  // namespace moebius
