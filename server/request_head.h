// The head of a request, from the request line to the empty line, checked before anything else looks at it.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "server/errors.h"

namespace moebius {

struct ConnectionLimits {
  size_t head_bytes = 32 << 10, target_bytes = 2048, line_bytes = 8000;  // the library reads lines to 8192
  int fields = 100;
  int64_t body_bytes = 32 << 20;
  std::string upload_target;  // the path of which POST takes a form with a file: multipart, and of this size
  int64_t upload_bytes = 0;
  int64_t connections = 8192;  // open at once; beyond, who has waited longest without asking is closed
  std::chrono::milliseconds head_time{10'000}, body_time{300'000};  // for all of it
  std::chrono::milliseconds idle_time{15'000};                      // without a byte read or written
  std::chrono::milliseconds linger_time{1000};                      // for the peer to take the answer
};

// Checks a request's head. Refused are: bare LF, folded lines, spaces before a colon, control characters,
// forms where none is taken,
// several or odd Content-Length, Content-Length together with Transfer-Encoding, encodings other than chunked
// or in HTTP/1.0, POST without either, several Host fields, odd ones or none in HTTP/1.1, and whatever
// exceeds the limits (RFC 9112, sections 2, 3, 5 and 6).
std::optional<ApiError> check_head(std::string_view head, const ConnectionLimits& limits);

// Whether a head that passed the check says that its body is chunked.
bool is_chunked(std::string_view head);

// Of the fields of a head, as of those of a form's parts: whether two names are equal but for case, and a
// value without the spaces and tabs around it.
bool same_name(std::string_view a, std::string_view b);
std::string_view trim(std::string_view value);

// "malformed HTTP: ...", status 400.
ApiError malformed(std::string what);
// The same for a status that needs no more than a line.
ApiError with_status(int status, std::string message);

}  // namespace moebius
