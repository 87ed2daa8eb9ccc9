// Connection: one accepted socket, which carries one request. The head is read whole, bounded in size and
// time, and checked before the HTTP library sees a byte of it; so is the framing of a chunked body.
//
// One request per connection: a stream of several is where request smuggling lives, and beside the computing
// of an answer a new connection costs nothing.
#pragma once

#include <optional>
#include <string>

#include "server/channel.h"
#include "server/chunk_guard.h"
#include "server/http_library.h"
#include "server/request_head.h"

namespace moebius {

class Connection : public httplib::Stream {
 public:
  // Takes the socket and closes it at the end. tls: nullptr for plain bytes.
  Connection(socket_t socket, const ConnectionLimits& limits, std::shared_ptr<SSL_CTX> tls = nullptr);

  using Clock = std::chrono::steady_clock;
  enum class Progress : uint8_t {
    kMore,  // wait for wants() on the socket, until deadline(), and call again
    kHead,  // the head is there: the library can go on
    kOver,  // nothing will come any more
  };
  // Goes on as far as is possible without waiting: takes the head; of one that hung up, reads away what still
  // comes. A head that is refused is answered, and the connection hangs up.
  Progress advance();
  short wants() const { return wants_; }  // events of poll()
  Clock::time_point deadline() const { return deadline_; }
  // The answer is out. A socket closed over unread bytes is reset, and the peer may lose what was sent: so
  // they are read away, for a moment.
  void hang_up();
  bool hung_up() const { return hung_up_; }
  // When the deadline has passed: tells the peer, if it has begun to ask.
  void give_up();
  // Whether the peer is still there; one that closed its sending side counts as gone.
  bool alive() const;

  bool is_readable() const override;
  bool is_writable() const override;
  ssize_t read(char* data, size_t size) override;
  ssize_t write(const char* data, size_t size) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  socket_t socket() const override { return channel_.socket(); }

 private:
  Progress take_head();
  Progress look_at_head(size_t from);
  Progress read_away();
  Progress refuse(const ApiError& error);
  bool wait(short events, Clock::time_point deadline) const;
  ssize_t receive(char* data, size_t size);

  Channel channel_;
  const ConnectionLimits limits_;
  Clock::time_point deadline_;
  short wants_;
  bool hung_up_ = false;
  std::string buffer_;  // received and not handed out yet
  size_t used_ = 0;
  std::optional<ChunkGuard> chunks_;  // of a chunked body
};

}  // namespace moebius
