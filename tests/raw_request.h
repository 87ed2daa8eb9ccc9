// A request on a socket of its own, byte by byte as a test wants it.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include <gtest/gtest.h>

#include "server/errors.h"

namespace moebius {

// A request on a socket of its own, to hang up on.
class RawRequest {
 public:
  RawRequest(int port, const std::string& text) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(send(socket_, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  ~RawRequest() { hang_up(); }
  void hang_up() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }
  // Something came, or the end.
  bool has_answer() const {
    char byte;
    return recv(socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0;
  }
  void send_more(const std::string& text) const {
    static_cast<void>(::send(socket_, text.data(), text.size(), MSG_NOSIGNAL));
  }
  // Reads until `text` has come, or the end.
  std::string read_until(const std::string& text) const {
    std::string out;
    char chunk[4096];
    ssize_t got = 0;
    while (out.find(text) == std::string::npos && (got = recv(socket_, chunk, sizeof(chunk), 0)) > 0) {
      out.append(chunk, static_cast<size_t>(got));
    }
    return out;
  }

 private:
  int socket_;
};

inline std::string raw_post(const std::string& path, const Json& body, const std::string& fields = {}) {
  const std::string text = ApiError::to_text(body);
  return "POST " + path +
         " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(text.size()) + "\r\n" + fields + "\r\n" + text;
}

}  // namespace moebius
