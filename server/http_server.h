// HttpServer: the HTTP library's server on Connections of our own, with the defaults of the library that
// would surprise a user put right.
#pragma once

#include "server/tls.h"
#include "server/waiting_room.h"

namespace moebius {

class HttpServer : public httplib::Server {
 public:
  // tls: for its connections, or nullptr; outlives this.
  HttpServer(const ConnectionLimits& limits, size_t threads, const Tls* tls);

  // After a bind: lets a thousand connections wait to be accepted, where the library lets five.
  void widen_backlog();
  // Ends the reading of all open connections, so that a slow client cannot hold up the end of the program.
  void stop_reading();

 private:
  class Threads;
  bool process_and_close_socket(socket_t socket) override;
  void serve(std::unique_ptr<Connection> connection);

  const ConnectionLimits limits_;
  const Tls* const tls_;
  std::mutex mutex_;
  std::set<socket_t> open_;
  Threads* threads_ = nullptr;  // the library's, while it listens
  WaitingRoom room_;
};

// Where the Content-Type of a request stands once it is in a handler.
inline constexpr const char* kFormHeader = "x-content-type";

// Whether the client of a request that came through an HttpServer is still connected.
bool client_is_there(const httplib::Request& request);

void send_json(httplib::Response& response, int status, const Json& json);
void send_error(httplib::Response& response, const ApiError& error, ErrorStyle style = ErrorStyle::kOpenAi);

}  // namespace moebius
