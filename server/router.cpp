#include "server/router.h"

#include "server/http_server.h"

namespace moebius {

void Exchange::answer(const Json& json, int status) const { send_json(response, status, json); }

Router::Match Router::find(std::string_view method, std::string_view path) const {
  const std::string_view wanted = method == "HEAD" ? "GET" : method;
  Match match;
  std::vector<std::string> arguments;
  for (const Route& route : routes_) {
    if (!match_pattern(route.pattern, path, arguments)) continue;
    match.allowed += (match.allowed.empty() ? "" : ", ") + route.method;
    if (route.method != wanted || match.route != nullptr) continue;
    match.route = &route;
    match.arguments = arguments;
  }
  return match;
}

ErrorStyle error_style(const httplib::Request& request) {
  const bool messages = request.path == "/v1/messages" || request.path.starts_with("/v1/messages/");
  return messages || request.has_header("anthropic-version") ? ErrorStyle::kAnthropic : ErrorStyle::kOpenAi;
}

}  // namespace moebius
