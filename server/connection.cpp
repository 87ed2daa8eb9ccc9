#include "server/connection.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>

#include <fmt/format.h>

namespace moebius {

namespace {

using std::chrono::milliseconds;

ApiError malformed(std::string what) { return bad_request("malformed HTTP: " + std::move(what)); }

ApiError with_status(int status, std::string message) {
  return {status, "invalid_request_error", std::move(message), {}, {}};
}

bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

bool has_control(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](unsigned char c) { return (c < 0x20 && c != '\t') || c == 0x7f; });
}

bool same(std::string_view name, std::string_view lower) {
  return std::equal(name.begin(), name.end(), lower.begin(), lower.end(),
                    [](unsigned char a, char b) { return std::tolower(a) == b; });
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
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
  request.post = method == "POST" || method == "PUT" || method == "PATCH";
  request.upload = method == "POST" && target == limits.upload_target;
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
  if (same(name, "host")) framing.hosts++;
  if (same(name, "transfer-encoding")) {
    framing.encodings++;
    if (!same(value, "chunked")) return malformed("Transfer-Encoding other than chunked");
  }
  if (same(name, "content-length")) {
    framing.lengths++;
    if (value.empty() || value.size() > 18 ||
        value.find_first_not_of("0123456789") != std::string_view::npos) {
      return malformed("Content-Length");
    }
    framing.length = std::stoll(std::string(value));
  }
  if (!upload && same(name, "content-type") && value.size() >= 10 &&
      same(value.substr(0, 10), "multipart/")) {
    return with_status(415, "send the body as application/json");
  }
  return {};
}

}  // namespace

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
  const int64_t most = request.upload ? limits.upload_bytes : limits.body_bytes;
  if (framing.length > most) return too_large(most);
  if (request.post && framing.lengths + framing.encodings == 0)
    return with_status(411, "Content-Length is missing");
  return {};
}

Connection::Connection(socket_t socket, const ConnectionLimits& limits)
    : socket_(socket), limits_(limits), deadline_(Clock::now() + limits.head_time) {}

Connection::~Connection() {
  if (lingers_) linger();
  ::close(socket_);
}

Connection::Head Connection::take_head() {
  std::array<char, 4096> chunk;
  while (true) {
    const ssize_t got = ::recv(socket_, chunk.data(), chunk.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return Head::kMore;
    if (got <= 0) return Head::kOver;
    const size_t from = buffer_.size();
    buffer_.append(chunk.data(), static_cast<size_t>(got));
    if (const Head head = look_at_head(from); head != Head::kMore) return head;
  }
}

// New is what stands from `from` on.
Connection::Head Connection::look_at_head(size_t from) {
  const size_t end = buffer_.find("\r\n\r\n", from < 3 ? 0 : from - 3);
  // A head with bare line feeds may never come to the end looked for here: say so now.
  for (size_t i = from; i < std::min(end, buffer_.size()); ++i)
    if (buffer_[i] == '\n' && (i == 0 || buffer_[i - 1] != '\r'))
      return refuse(malformed("lines must end in CR LF"));
  if (end == std::string::npos)
    return buffer_.size() > limits_.head_bytes ? refuse(with_status(431, "the header is too large"))
                                               : Head::kMore;
  if (auto error = check_head(std::string_view(buffer_).substr(0, end + 4), limits_)) return refuse(*error);
  deadline_ = Clock::now() + limits_.body_time;
  lingers_ = true;
  return Head::kDone;
}

// A few hundred bytes: they fit the buffer of a socket that was never written to.
Connection::Head Connection::refuse(const ApiError& error) {
  const std::string body = error.body();
  const std::string answer = fmt::format(
      "HTTP/1.1 {} Refused\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: "
      "close\r\n\r\n{}",
      error.status, body.size(), body);
  lingers_ = ::send(socket_, answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
  return Head::kOver;
}

void Connection::give_up() {
  if (!buffer_.empty()) refuse(with_status(408, "the header took too long"));
  lingers_ = false;  // who was so slow may lose it
}

bool Connection::alive() const {
  pollfd poll_socket = {socket_, POLLRDHUP, 0};
  return ::poll(&poll_socket, 1, 0) == 0;
}

bool Connection::wait(short events, Clock::time_point deadline) const {
  const auto now = Clock::now();
  const auto until = std::min(deadline, now + limits_.idle_time);
  const auto left = std::chrono::duration_cast<milliseconds>(until - now).count();
  if (left <= 0) return false;
  pollfd poll_socket = {socket_, events, 0};
  int ready;
  do {
    ready = ::poll(&poll_socket, 1, static_cast<int>(left));
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

// Bytes read, 0 at the end, -1 on an error or when time is up.
ssize_t Connection::receive(char* data, size_t size, Clock::time_point deadline) {
  if (!wait(POLLIN, deadline)) return -1;
  ssize_t got;
  do {
    got = ::recv(socket_, data, size, 0);
  } while (got < 0 && errno == EINTR);
  return got;
}

bool Connection::is_readable() const { return used_ < buffer_.size() || wait(POLLIN, deadline_); }

bool Connection::is_writable() const { return wait(POLLOUT, Clock::time_point::max()) && alive(); }

ssize_t Connection::read(char* data, size_t size) {
  if (used_ == buffer_.size()) {
    buffer_.resize(16 << 10);
    used_ = 0;
    const ssize_t got = receive(buffer_.data(), buffer_.size(), deadline_);
    buffer_.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got <= 0) return got;
  }
  const size_t n = std::min(size, buffer_.size() - used_);
  std::copy_n(buffer_.data() + used_, n, data);
  used_ += n;
  return static_cast<ssize_t>(n);
}

ssize_t Connection::write(const char* data, size_t size) {
  size_t sent = 0;
  while (sent < size) {
    if (!wait(POLLOUT, Clock::time_point::max())) return -1;
    const ssize_t n = ::send(socket_, data + sent, size - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK)) continue;
    if (n <= 0) return -1;
    sent += static_cast<size_t>(n);
  }
  return static_cast<ssize_t>(sent);
}

// A socket closed over unread bytes is reset, and the peer may lose the answer: so read them away, for a
// moment, once the answer is out.
void Connection::linger() {
  ::shutdown(socket_, SHUT_WR);
  std::array<char, 16 << 10> sink;
  const auto until = Clock::now() + milliseconds(1000);
  while (receive(sink.data(), sink.size(), until) > 0) {
  }
}

namespace {

void describe_address(const sockaddr_storage& address, socklen_t length, std::string& ip, int& port) {
  std::array<char, NI_MAXHOST> host;
  std::array<char, NI_MAXSERV> service;
  if (getnameinfo(reinterpret_cast<const sockaddr*>(&address), length, host.data(), host.size(),
                  service.data(), service.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return;
  }
  ip = host.data();
  port = std::atoi(service.data());
}

}  // namespace

void Connection::get_remote_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage address;
  socklen_t length = sizeof(address);
  if (getpeername(socket_, reinterpret_cast<sockaddr*>(&address), &length) == 0) {
    describe_address(address, length, ip, port);
  }
}

void Connection::get_local_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage address;
  socklen_t length = sizeof(address);
  if (getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &length) == 0) {
    describe_address(address, length, ip, port);
  }
}

}  // namespace moebius
