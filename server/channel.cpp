#include "server/channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

namespace moebius {

namespace {

Channel::Moved moved(ssize_t bytes, short wait) {
  if (bytes >= 0) return {bytes};
  return {-1, errno == EAGAIN || errno == EWOULDBLOCK ? wait : short{0}};
}

}  // namespace

Channel::Channel(int socket) : socket_(socket) {
  ::fcntl(socket, F_SETFL, ::fcntl(socket, F_GETFL) | O_NONBLOCK);
}

Channel::~Channel() { ::close(socket_); }

Channel::Moved Channel::receive(char* data, size_t size) {
  ssize_t got;
  do {
    got = ::recv(socket_, data, size, 0);
  } while (got < 0 && errno == EINTR);
  return moved(got, POLLIN);
}

Channel::Moved Channel::send(const char* data, size_t size) {
  ssize_t sent;
  do {
    sent = ::send(socket_, data, size, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return moved(sent, POLLOUT);
}

void Channel::end() { ::shutdown(socket_, SHUT_WR); }

}  // namespace moebius
