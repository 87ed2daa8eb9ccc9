// Connection: one accepted socket, which carries one request. The head is read whole, bounded in size and
// time, and checked before the HTTP library sees a byte of it.
//
// One request per connection: a stream of several is where request smuggling lives, an idle one holds a
// thread, and beside the computing of an answer a new connection costs nothing.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "server/errors.h"
#include "server/http_library.h"

namespace moebius {

struct ConnectionLimits {
  size_t head_bytes = 32 << 10, target_bytes = 2048, line_bytes = 8000;  // the library reads lines to 8192
  int fields = 100;
  int64_t body_bytes = 32 << 20;
  std::string upload_target;  // the path of which POST takes a form with a file: multipart, and of this size
  int64_t upload_bytes = 0;
  std::chrono::milliseconds head_time{10'000}, body_time{300'000};  // for all of it
  std::chrono::milliseconds idle_time{15'000};                      // without a byte read or written
};

// Checks a request's head, from the request line to the empty line. Refused are: bare LF, folded lines,
// spaces before a colon, control characters, forms where none is taken, several or odd Content-Length,
// Content-Length together with Transfer-Encoding, encodings other than chunked, POST without either, several
// Host fields or none in HTTP/1.1, and whatever exceeds the limits.
std::optional<ApiError> check_head(std::string_view head, const ConnectionLimits& limits);

class Connection : public httplib::Stream {
 public:
  // Takes the socket and closes it at the end.
  Connection(socket_t socket, const ConnectionLimits& limits);
  ~Connection() override;

  using Clock = std::chrono::steady_clock;
  enum class Head : uint8_t {
    kMore,  // wait for the socket, until deadline(), and call again
    kDone,  // the library can go on
    kOver,  // nothing will come, or it was refused and answered
  };
  // Takes what is there of the head, without waiting.
  Head take_head();
  Clock::time_point deadline() const { return deadline_; }
  // When it has passed before the head was there: tells the peer, if it sent anything.
  void give_up();
  // Whether the peer is still there; one that closed its sending side counts as gone.
  bool alive() const;

  bool is_readable() const override;
  bool is_writable() const override;
  ssize_t read(char* data, size_t size) override;
  ssize_t write(const char* data, size_t size) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  socket_t socket() const override { return socket_; }

 private:
  Head look_at_head(size_t from);
  bool wait(short events, Clock::time_point deadline) const;
  ssize_t receive(char* data, size_t size, Clock::time_point deadline);
  Head refuse(const ApiError& error);
  void linger();

  const socket_t socket_;
  const ConnectionLimits limits_;
  Clock::time_point deadline_;
  std::string buffer_;  // received and not handed out yet
  size_t used_ = 0;
  bool lingers_ = false;  // an answer is on its way
};

}  // namespace moebius
