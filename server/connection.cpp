#include "server/connection.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include <fmt/format.h>

namespace moebius {

Connection::Connection(socket_t socket, const ConnectionLimits& limits, std::shared_ptr<SSL_CTX> tls)
    : channel_(socket, std::move(tls)),
      limits_(limits),
      deadline_(Clock::now() + limits.head_time),
      wants_(POLLIN) {}

Connection::Progress Connection::advance() { return hung_up_ ? read_away() : take_head(); }

Connection::Progress Connection::take_head() {
  std::array<char, 4096> chunk;
  while (true) {
    const Channel::Moved got = channel_.receive(chunk.data(), chunk.size());
    if (got.wait != 0) wants_ = got.wait;
    if (got.bytes <= 0) return got.wait != 0 ? Progress::kMore : Progress::kOver;
    const size_t from = buffer_.size();
    buffer_.append(chunk.data(), static_cast<size_t>(got.bytes));
    if (const Progress progress = look_at_head(from); progress != Progress::kMore || hung_up_)
      return progress;
  }
}

// New is what stands from `from` on.
Connection::Progress Connection::look_at_head(size_t from) {
  const size_t end = buffer_.find("\r\n\r\n", from < 3 ? 0 : from - 3);
  // A head with bare line feeds may never come to the end looked for here: say so now.
  for (size_t i = from; i < std::min(end, buffer_.size()); ++i)
    if (buffer_[i] == '\n' && (i == 0 || buffer_[i - 1] != '\r'))
      return refuse(malformed("lines must end in CR LF"));
  if (end == std::string::npos)
    return buffer_.size() > limits_.head_bytes ? refuse(with_status(431, "the header is too large"))
                                               : Progress::kMore;
  const std::string_view head = std::string_view(buffer_).substr(0, end + 4);
  if (auto error = check_head(head, limits_)) return refuse(*error);
  if (is_chunked(head)) {
    chunks_.emplace();
    if (!chunks_->take(std::string_view(buffer_).substr(end + 4))) return refuse(malformed("a chunk's size"));
  }
  deadline_ = Clock::now() + limits_.body_time;
  return Progress::kHead;
}

// A few hundred bytes: they fit the buffer of a socket that was never written to.
Connection::Progress Connection::refuse(const ApiError& error) {
  const std::string body = error.body();
  const std::string answer = fmt::format(
      "HTTP/1.1 {} Refused\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: "
      "close\r\n\r\n{}",
      error.status, body.size(), body);
  if (channel_.send(answer.data(), answer.size()).bytes <= 0) return Progress::kOver;
  hang_up();
  return Progress::kMore;
}

void Connection::hang_up() {
  channel_.end();
  hung_up_ = true;
  wants_ = POLLIN;
  deadline_ = Clock::now() + limits_.linger_time;
}

Connection::Progress Connection::read_away() {
  std::array<char, 16 << 10> sink;
  while (true) {
    const Channel::Moved got = channel_.receive(sink.data(), sink.size());
    if (got.wait != 0) return Progress::kMore;
    if (got.bytes <= 0 || Clock::now() >= deadline_) return Progress::kOver;
  }
}

void Connection::give_up() {
  if (!hung_up_ && !buffer_.empty()) refuse(with_status(408, "the header took too long"));
}

bool Connection::alive() const {
  pollfd poll_socket = {socket(), POLLRDHUP, 0};
  return ::poll(&poll_socket, 1, 0) == 0;
}

bool Connection::wait(short events, Clock::time_point deadline) const {
  const auto now = Clock::now();
  const auto until = std::min(deadline, now + limits_.idle_time);
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - now).count();
  if (left <= 0) return false;
  pollfd poll_socket = {socket(), events, 0};
  int ready;
  do {
    ready = ::poll(&poll_socket, 1, static_cast<int>(left));
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

// Bytes read, 0 at the end, -1 on an error or when time is up.
ssize_t Connection::receive(char* data, size_t size) {
  while (true) {
    const Channel::Moved got = channel_.receive(data, size);
    if (got.wait == 0) return got.bytes;
    if (!wait(got.wait, deadline_)) return -1;
  }
}

bool Connection::is_readable() const {
  return used_ < buffer_.size() || channel_.pending() || wait(POLLIN, deadline_);
}

bool Connection::is_writable() const { return wait(POLLOUT, Clock::time_point::max()) && alive(); }

ssize_t Connection::read(char* data, size_t size) {
  if (used_ == buffer_.size()) {
    buffer_.resize(16 << 10);
    used_ = 0;
    const ssize_t got = receive(buffer_.data(), buffer_.size());
    buffer_.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got <= 0) return got;
    if (chunks_ && !chunks_->take(buffer_)) return -1;
  }
  const size_t n = std::min(size, buffer_.size() - used_);
  std::copy_n(buffer_.data() + used_, n, data);
  used_ += n;
  return static_cast<ssize_t>(n);
}

ssize_t Connection::write(const char* data, size_t size) {
  size_t sent = 0;
  while (sent < size) {
    const Channel::Moved moved = channel_.send(data + sent, size - sent);
    if (moved.bytes > 0) sent += static_cast<size_t>(moved.bytes);
    if (moved.bytes <= 0 && (moved.wait == 0 || !wait(moved.wait, Clock::time_point::max()))) return -1;
  }
  return static_cast<ssize_t>(sent);
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
  if (getpeername(socket(), reinterpret_cast<sockaddr*>(&address), &length) == 0) {
    describe_address(address, length, ip, port);
  }
}

void Connection::get_local_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage address;
  socklen_t length = sizeof(address);
  if (getsockname(socket(), reinterpret_cast<sockaddr*>(&address), &length) == 0) {
    describe_address(address, length, ip, port);
  }
}

}  // namespace moebius
