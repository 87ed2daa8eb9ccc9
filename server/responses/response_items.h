// The items of /v1/responses: what is said, thought, called and returned, as a flat list.
#pragma once

#include "server/fields.h"

namespace moebius {

// The request's input, a text or a list, as items with an id each, in the forms in which the API gives them
// back. Items of tools that OpenAI runs itself are refused, and so are references and parts that are no text.
Json read_items(const Json& input, Fields& in);

// Appends what the items say to a chat's messages. What an assistant thinks, says and calls in a row becomes
// one message.
void append_messages(const Json& items, Json& messages);

}  // namespace moebius
