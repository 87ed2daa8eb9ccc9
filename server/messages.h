// The conversation of a chat request, normalised to what chat templates expect.
#pragma once

#include "server/fields.h"
#include "server/request.h"

namespace moebius {

// Reads messages, tools, tool_choice, chat_template_kwargs and reasoning_effort into the template's
// variables, and what may be called into `calls`. Roles: developer becomes system; content of text parts is
// joined by newlines; arguments of tool calls, which clients send as JSON in a string, become the object that
// templates walk through.
Json read_conversation(Fields& in, const RequestLimits& limits, ToolRequest& calls);

}  // namespace moebius
