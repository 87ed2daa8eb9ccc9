// Channel: the bytes of one socket. Never waits: what cannot be done now says what to wait for.
#pragma once

#include <sys/types.h>

#include <cstddef>

namespace moebius {

class Channel {
 public:
  explicit Channel(int socket);  // takes the socket and closes it at the end
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  struct Moved {
    ssize_t bytes;  // 0: the peer ended; -1: none
    short wait =
        0;  // with -1: the events to poll for before the same call again; 0: the connection is broken
  };
  Moved receive(char* data, size_t size);
  Moved send(const char* data, size_t size);
  void end();  // tells the peer that nothing more will come
  int socket() const { return socket_; }

 private:
  const int socket_;
};

}  // namespace moebius
