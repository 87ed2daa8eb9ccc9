// Who may talk to the server: files of keys, and the names under which a loopback server answers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernels/status.h"

namespace moebius {

// One key per line; blank lines and lines that begin with # are skipped. kInvalid: a key that no header can
// carry, or no key at all; kIo: the file cannot be read.
Result<std::vector<std::string>> read_key_file(const std::string& path);

// The token of "Bearer TOKEN"; "" for anything else.
std::string_view bearer_token(std::string_view authorization);

// localhost, 127.0.0.0/8 and ::1, with or without brackets.
bool is_loopback(std::string_view host);

// Against DNS rebinding: whether a Host header names this machine itself (is_loopback, with any port) or one
// of the names in `more` (compared without case, with or without their port).
bool host_allowed(std::string_view host, const std::vector<std::string>& more);

// Against pages of other sites that a browser lets post here: the host of an Origin header ("http://host:1")
// must be allowed too. "null" is refused.
bool origin_allowed(std::string_view origin, const std::vector<std::string>& more);

}  // namespace moebius
