#include "server/http_server.h"

#include <fmt/format.h>

namespace moebius {

namespace {

// The library would set SO_REUSEPORT, with which two servers share a port without noticing.
void reuse_address(socket_t socket) {
  const int yes = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
}

}  // namespace

HttpServer::HttpServer(const ConnectionLimits& limits, size_t threads) : limits_(limits) {
  new_task_queue = [threads] { return new httplib::ThreadPool(threads); };  // the library deletes it
  set_socket_options(reuse_address);
  set_tcp_nodelay(true);
  // Without a handler the library would put the exception's text into a header.
  set_exception_handler([](const httplib::Request&, httplib::Response& response, std::exception_ptr) {
    send_error(response, internal_error());
  });
  set_error_handler([](const httplib::Request&, httplib::Response& response) {
    if (response.body.empty()) send_error(response, error_for_status(response.status));
  });
}

bool HttpServer::process_and_close_socket(socket_t socket) {
  Connection connection(socket, limits_);
  {
    std::lock_guard lock(mutex_);
    open_.insert(socket);
  }
  bool closed = false;
  const bool served =
      connection.receive_head() &&
      process_request(connection, /*close_connection=*/true, closed, [&](httplib::Request& request) {
        request.ranges.clear();  // answers are whole
        // A field that servers leave unused, and the only one that can carry the connection to a handler.
        request.progress = [&connection](uint64_t, uint64_t) { return connection.alive(); };
      });
  std::lock_guard lock(mutex_);  // before the connection closes the socket and its number is used again
  open_.erase(socket);
  return served;
}

void HttpServer::stop_reading() {
  std::lock_guard lock(mutex_);
  for (const socket_t socket : open_) ::shutdown(socket, SHUT_RD);
}

bool client_is_there(const httplib::Request& request) { return !request.progress || request.progress(0, 0); }

void send_json(httplib::Response& response, int status, const Json& json) {
  response.status = status;
  response.set_content(ApiError::to_text(json), "application/json");
}

void send_error(httplib::Response& response, const ApiError& error, ErrorStyle style) {
  if (error.status == 429 || error.status == 503) response.set_header("Retry-After", "1");
  send_json(response, error.status, error.json(style));
}

}  // namespace moebius
