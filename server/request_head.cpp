#include "server/request_head.h"

#include <algorithm>
#include <cctype>

namespace moebius {

namespace {

bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

bool has_control(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](unsigned char c) { return (c < 0x20 && c != '\t') || c == 0x7f; });
}

// What the request line says.
struct RequestLine {
  bool post = false, http11 = false, upload = false;
};

std::optional<ApiError> check_request_line(std::string_view line, const ConnectionLimits& limits,
                                           RequestLine& request) {
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || last == first || !is_token(line.substr(0, first))) {
    return malformed("the request line");
  }
  const std::string_view method = line.substr(0, first);
  const std::string_view target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (target.size() > limits.target_bytes) return with_status(414, "the address is too long");
  if (!target.starts_with('/') || target.find_first_of(" \t") != std::string_view::npos ||
      has_control(target)) {
    return malformed("the request's target");
  }
  request.http11 = version == "HTTP/1.1";
  if (!request.http11 && version != "HTTP/1.0") return malformed("the version; HTTP/1.1 is spoken here");
  request.upload = method == "POST" && target == limits.upload_target;
  request.post = method == "POST" || method == "PUT" || method == "PATCH";
  return {};
}

// What the fields say of the message's length, and how often.
struct Framing {
  int lengths = 0, encodings = 0, hosts = 0;
  int64_t length = 0;
};

std::optional<ApiError> check_field(std::string_view line, const ConnectionLimits& limits, bool upload,
                                    Framing& framing) {
  if (line.size() > limits.line_bytes) return with_status(431, "a header field is too long");
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) return malformed("a field's name");
  const std::string_view name = line.substr(0, colon);
  const std::string_view value = trim(line.substr(colon + 1));
  if (has_control(value)) return malformed("a control character in a field");
  if (same_name(name, "host")) {
    framing.hosts++;
    if (value.find_first_of(" \t,/\\@?#\"<>") != std::string_view::npos) return malformed("the Host field");
  }
  if (same_name(name, "transfer-encoding")) {
    framing.encodings++;
    if (!same_name(value, "chunked")) return malformed("Transfer-Encoding other than chunked");
  }
  if (same_name(name, "content-length")) {
    framing.lengths++;
    if (value.empty() || value.size() > 18 ||
        value.find_first_not_of("0123456789") != std::string_view::npos) {
      return malformed("Content-Length");
    }
    framing.length = std::stoll(std::string(value));
  }
  if (!upload && same_name(name, "content-type") && value.size() >= 10 &&
      same_name(value.substr(0, 10), "multipart/")) {
    return with_status(415, "send the body as application/json");
  }
  return {};
}

}  // namespace

bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

std::string_view trim(std::string_view value) {
  while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
  while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.remove_suffix(1);
  return value;
}

ApiError malformed(std::string what) { return bad_request("malformed HTTP: " + std::move(what)); }

ApiError with_status(int status, std::string message) {
  return {status, "invalid_request_error", std::move(message), {}, {}};
}

std::optional<ApiError> check_head(std::string_view head, const ConnectionLimits& limits) {
  if (head.size() > limits.head_bytes) return with_status(431, "the header is too large");
  RequestLine request;
  Framing framing;
  int line_number = 0;
  while (!head.empty()) {
    const size_t end = head.find('\n');
    if (end == std::string_view::npos || end == 0 || head[end - 1] != '\r') {
      return malformed("lines must end in CR LF");
    }
    const std::string_view line = head.substr(0, end - 1);
    head.remove_prefix(end + 1);
    if (line_number++ == 0) {
      if (auto error = check_request_line(line, limits, request)) return error;
    } else if (line.empty()) {
      break;
    } else {
      if (line_number - 1 > limits.fields) return with_status(431, "too many header fields");
      if (auto error = check_field(line, limits, request.upload, framing)) return error;
    }
  }
  if (framing.hosts > 1 || (request.http11 && framing.hosts == 0))
    return malformed("one Host field is needed");
  if (framing.lengths > 1 || framing.encodings > 1) return malformed("the body's length is given twice");
  if (framing.lengths + framing.encodings > 1) {
    return malformed("Content-Length and Transfer-Encoding exclude each other");
  }
  if (framing.encodings > 0 && !request.http11) return malformed("Transfer-Encoding, which HTTP/1.0 has not");
  const int64_t most = request.upload ? limits.upload_bytes : limits.body_bytes;
  if (framing.length > most) return too_large(most);
  if (request.post && framing.lengths + framing.encodings == 0)
    return with_status(411, "Content-Length is missing");
  return {};
}

bool is_chunked(std::string_view head) {
  constexpr std::string_view kName = "transfer-encoding:";
  for (size_t at = head.find('\n'); at != std::string_view::npos; at = head.find('\n', at + 1))
    if (same_name(head.substr(at + 1, kName.size()), kName)) return true;
  return false;
}

}  // namespace moebius
