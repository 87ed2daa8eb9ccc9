// Channel: the bytes of one socket, plain or under TLS. Never waits: what cannot be done now says what to
// wait for. Under TLS the handshake is part of the first receive().
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <memory>

#include <openssl/ssl.h>

namespace moebius {

class Channel {
 public:
  // Takes the socket and closes it at the end. tls: nullptr for plain bytes.
  Channel(int socket, std::shared_ptr<SSL_CTX> tls);
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  struct Moved {
    ssize_t bytes;  // 0: the peer ended; -1: none
    short wait =
        0;  // with -1: the events to poll for before the same call again; 0: the connection is broken
  };
  Moved receive(char* data, size_t size);  // after end(): the socket's own bytes, to be thrown away
  Moved send(const char* data, size_t size);
  bool pending() const;  // bytes came that the socket does not show any more
  void end();            // tells the peer that nothing more will come
  int socket() const { return socket_; }

 private:
  Moved outcome(int result);

  const int socket_;
  std::unique_ptr<SSL, void (*)(SSL*)> ssl_;
};

}  // namespace moebius
