// The conversation of a training line, checked, in the form in which the server gives one to a template.
#pragma once

#include <vector>

#include <nlohmann/json.hpp>

#include "kernels/status.h"

namespace moebius {

struct TrainingConversation {
  nlohmann::ordered_json tools;                  // a list, or null
  std::vector<nlohmann::ordered_json> messages;  // each an object with "role" and "content"
  std::vector<bool> counts;                      // of each message: an assistant's, without weight 0
};

// line: an object with "messages". As the server does, it makes "developer" the system role, joins text parts
// by newlines, gives an assistant without content an empty one and turns the JSON text of a call's arguments
// into an object. kInvalid says what is wrong, where in the line, and the remedy.
Result<TrainingConversation> read_training_conversation(const nlohmann::ordered_json& line);

// The value of a field of an object; null where there is none, or null.
const nlohmann::ordered_json* given(const nlohmann::ordered_json& object, const char* name);

// Whether some object of the document has more than 4096 fields: parsing one in order takes quadratic time.
bool has_too_many_fields(std::string_view text);

}  // namespace moebius
