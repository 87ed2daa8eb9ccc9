#include "server/admission.h"

#include "server/json_input.h"

namespace moebius {

using httplib::Request;
using httplib::Response;

namespace {

int64_t places_of_one(const Service& service) {
  if (service.options.per_key > 0) return service.options.per_key;
  const int64_t all = service.options.queue + service.engine.options().sessions;
  return service.options.api_keys.size() > 1 ? (all + 1) / 2 : all;
}

}  // namespace

Admission::Admission(Service& service, const Router& router)
    : service_(service),
      router_(router),
      keys_(service.options.api_keys, service.options.admin_keys, places_of_one(service)),
      cors_(service.options.cors_origins),
      loopback_(is_loopback(service.options.host)) {}

void Admission::install(HttpServer& http) {
  http.set_pre_routing_handler([this](const Request& request, Response& response) {
    return admit(request, response) ? httplib::Server::HandlerResponse::Unhandled
                                    : httplib::Server::HandlerResponse::Handled;
  });
  const auto without_body = [this](const Request& request, Response& response) {
    dispatch(request, response, nullptr);
  };
  const auto with_body = [this](const Request& request, Response& response,
                                const httplib::ContentReader& reader) {
    dispatch(request, response, &reader);
  };
  http.set_logger([this](const Request& request, const Response& response) {
    const Router::Match match = router_.find(request.method, request.path);
    const bool known = match.route != nullptr;
    service_.metrics.count_request(known ? request.method : "other", known ? match.route->pattern : "other",
                                   response.status);
  });
  http.Get(".*", without_body);
  http.Post(".*", with_body);
  http.Delete(".*", with_body);  // a handler without a reader would have the library wait for a body
}

bool Admission::admit(const Request& request, Response& response) const {
  const Router::Match match = router_.find(request.method, request.path);
  const std::string id = random_id("req_");
  response.set_header("x-request-id", id);  // as OpenAI's and Anthropic's clients look for it
  response.set_header("request-id", id);
  if (const bool asks_only = cors_.answer(request, response); asks_only && host_is_ours(request))
    return false;
  std::optional<ApiError> error = check_access(request, match.route);
  if (!error && match.allowed.empty()) error = unknown_route();
  if (!error && match.route == nullptr) {
    error = wrong_method(match.allowed);
    response.set_header("Allow", match.allowed);
  }
  if (!error && service_.draining && request.method == "POST") error = shutting_down();
  if (!error) return true;
  if (error->status == 401) response.set_header("WWW-Authenticate", "Bearer");
  service_.refuse(request, response, match.route ? match.route->pattern : "unknown route", *error);
  return false;
}

bool Admission::host_is_ours(const Request& request) const {
  return !loopback_ || host_allowed(request.get_header_value("Host"), service_.options.allowed_hosts);
}

bool Admission::origin_is_ours(const Request& request) const {
  return !loopback_ || !request.has_header("Origin") || cors_.allows(request) ||
         origin_allowed(request.get_header_value("Origin"), service_.options.allowed_hosts);
}

std::optional<ApiError> Admission::check_access(const Request& request, const Route* route) const {
  if (!host_is_ours(request))
    return forbidden("this server answers to localhost only; start it with --allow-host for another name",
                     "host_not_allowed");
  if (!origin_is_ours(request))
    return forbidden("pages of other sites may not use this server; start it with --cors-origin for one",
                     "origin_not_allowed");
  if (route != nullptr && route->open) return {};
  const KeyHolder holder = holder_of(request);
  if (!holder.known) return unauthorized();
  // Without any key whoever reaches the server may do everything: that is this machine's user, unless
  // --allow-no-key let others in.
  if (route == nullptr || !route->admin || holder.admin) return {};
  if (!keys_.required() && loopback_) return {};
  return forbidden(keys_.has_admin() ? "this route needs an admin key"
                                     : "this route needs an admin key; start the server with --admin-key",
                   "admin_key_needed");
}

KeyHolder Admission::holder_of(const Request& request) const {
  const KeyHolder holder = keys_.find(bearer_token(request.get_header_value("Authorization")));
  if (holder.known || !request.has_header("x-api-key")) return holder;
  return keys_.find(request.get_header_value("x-api-key"));
}

void Admission::dispatch(const Request& request, Response& response, const httplib::ContentReader* reader) {
  Router::Match match = router_.find(request.method, request.path);
  Exchange exchange = {request, response, *match.route, std::move(match.arguments), {}, reader};
  if (request.method == "POST") {
    const KeyHolder holder = holder_of(request);
    exchange.client = {holder.space, keys_.enter(holder)};
    if (!exchange.client.place) return service_.refuse(exchange, key_busy(service_.pace.seconds_to_next()));
  }
  if (exchange.route.body) {
    std::optional<ApiError> error = read_body(*reader, exchange.body);
    if (!error && !exchange.body.is_object()) error = bad_request("the body must be a JSON object");
    if (error) return service_.refuse(exchange, *error);
  }
  exchange.route.handler(exchange);
}

std::optional<ApiError> Admission::read_body(const httplib::ContentReader& reader, Json& body) const {
  const int64_t limit = service_.options.body_bytes;
  std::string text;
  bool too_long = false;
  const bool read = reader([&](const char* data, size_t size) {
    too_long = static_cast<int64_t>(text.size() + size) > limit;
    if (!too_long) text.append(data, size);
    return !too_long;
  });
  if (too_long) return too_large(limit);
  if (!read) return bad_request("the body ended early or is not encoded as its header says");
  Result<Json> parsed = parse_json(text);
  if (!parsed.ok()) return bad_request(parsed.status().message());
  body = std::move(*parsed);
  return {};
}

}  // namespace moebius
