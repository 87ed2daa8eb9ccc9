#include "server/http_server.h"

#include <fmt/format.h>

namespace moebius {

namespace {

// The library would set SO_REUSEPORT, with which two servers share a port without noticing.
void reuse_address(socket_t socket) {
  const int yes = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
}

// The library would read a form by itself, in memory; so it does not see that a body is one.
void take_form(httplib::Request& request) {
  request.headers.erase(kFormHeader);
  const auto type = request.headers.find("Content-Type");
  if (type == request.headers.end()) return;
  request.set_header(kFormHeader, type->second);
  request.headers.erase("Content-Type");
}

}  // namespace

// Accepted sockets go straight to the room, in the thread that accepts them; requests whose head is there
// come from the room to the pool. The room is closed before the pool ends.
class HttpServer::Threads : public httplib::TaskQueue {
 public:
  Threads(size_t count, WaitingRoom& room) : pool_(count), room_(room) {}
  void enqueue(std::function<void()> accepted) override { accepted(); }
  void serve(std::function<void()> request) { pool_.enqueue(std::move(request)); }
  void shutdown() override {
    room_.stop();
    pool_.shutdown();
  }

 private:
  httplib::ThreadPool pool_;
  WaitingRoom& room_;
};

HttpServer::HttpServer(const ConnectionLimits& limits, size_t threads, const Tls* tls)
    : limits_(limits), tls_(tls), room_(limits.connections, [this](std::unique_ptr<Connection> connection) {
        // std::function wants what can be copied.
        auto shared = std::make_shared<std::unique_ptr<Connection>>(std::move(connection));
        threads_->serve([this, shared] { serve(std::move(*shared)); });
      }) {
  new_task_queue = [this, threads] {
    return threads_ = new Threads(threads, room_);
  };  // the library deletes it
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
  room_.add(std::make_unique<Connection>(socket, limits_, tls_ ? tls_->current() : nullptr));
  return true;
}

void HttpServer::serve(std::unique_ptr<Connection> connection) {
  {
    std::lock_guard lock(mutex_);
    open_.insert(connection->socket());
  }
  bool closed = false;
  process_request(*connection, /*close_connection=*/true, closed, [&](httplib::Request& request) {
    request.ranges.clear();  // answers are whole
    take_form(request);
    // A field that servers leave unused, and the only one that can carry the connection to a handler.
    request.progress = [&client = *connection](uint64_t, uint64_t) { return client.alive(); };
  });
  {
    std::lock_guard lock(mutex_);  // before the connection closes the socket and its number is used again
    open_.erase(connection->socket());
  }
  connection->hang_up();
  room_.add(std::move(connection));
}

// Where it fails the library's own backlog stays.
void HttpServer::widen_backlog() { static_cast<void>(::listen(svr_sock_, 1024)); }

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
  if (error.retry_s > 0) response.set_header("Retry-After", std::to_string(error.retry_s));
  send_json(response, error.status, error.json(style));
}

}  // namespace moebius
