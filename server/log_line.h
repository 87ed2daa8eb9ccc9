// What the server logs of a request: fields by name, never a prompt, an answer or a key.
#pragma once

#include <string>

#include "server/errors.h"

namespace moebius {

// `name=value name="a value"`, or a JSON object on one line.
std::string log_line(const Json& fields, bool json);

}  // namespace moebius
