#include "server/channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include <openssl/err.h>

namespace moebius {

namespace {

Channel::Moved moved(ssize_t bytes, short wait) {
  if (bytes >= 0) return {bytes};
  return {-1, errno == EAGAIN || errno == EWOULDBLOCK ? wait : short{0}};
}

int as_int(size_t size) { return static_cast<int>(std::min<size_t>(size, INT_MAX)); }

}  // namespace

Channel::Channel(int socket, std::shared_ptr<SSL_CTX> tls)
    : socket_(socket), ssl_(tls ? SSL_new(tls.get()) : nullptr, SSL_free) {
  ::fcntl(socket, F_SETFL, ::fcntl(socket, F_GETFL) | O_NONBLOCK);
  if (ssl_ && SSL_set_fd(ssl_.get(), socket) == 1) SSL_set_accept_state(ssl_.get());
  // Without memory for TLS nothing may go out in the clear.
  if (tls && !ssl_) ::shutdown(socket, SHUT_RDWR);
}

Channel::~Channel() {
  ssl_.reset();
  ::close(socket_);
}

Channel::Moved Channel::outcome(int result) {
  if (result > 0) return {result};
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return {-1, POLLIN};
    case SSL_ERROR_WANT_WRITE:
      return {-1, POLLOUT};
    case SSL_ERROR_ZERO_RETURN:
      return {0};
    default:
      return {-1};
  }
}

Channel::Moved Channel::receive(char* data, size_t size) {
  if (ssl_) {
    ERR_clear_error();
    return outcome(SSL_read(ssl_.get(), data, as_int(size)));
  }
  ssize_t got;
  do {
    got = ::recv(socket_, data, size, 0);
  } while (got < 0 && errno == EINTR);
  return moved(got, POLLIN);
}

Channel::Moved Channel::send(const char* data, size_t size) {
  if (ssl_) {
    ERR_clear_error();
    return outcome(SSL_write(ssl_.get(), data, as_int(size)));
  }
  ssize_t sent;
  do {
    sent = ::send(socket_, data, size, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return moved(sent, POLLOUT);
}

bool Channel::pending() const { return ssl_ && SSL_pending(ssl_.get()) > 0; }

void Channel::end() {
  if (ssl_ && SSL_is_init_finished(ssl_.get())) {
    ERR_clear_error();
    SSL_shutdown(ssl_.get());  // whether the peer hears it is its own affair
  }
  ssl_.reset();
  ::shutdown(socket_, SHUT_WR);
}

}  // namespace moebius
