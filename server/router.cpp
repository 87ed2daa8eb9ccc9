#include "server/router.h"

#include "server/http_server.h"

namespace moebius {

namespace {

// Takes the first segment off, with the slash before it.
std::string_view take_segment(std::string_view& path) {
  path.remove_prefix(1);
  const std::string_view segment = path.substr(0, path.find('/'));
  path.remove_prefix(segment.size());
  return segment;
}

}  // namespace

void Exchange::answer(const Json& json, int status) const { send_json(response, status, json); }

bool match_pattern(std::string_view pattern, std::string_view path, std::vector<std::string>& arguments) {
  arguments.clear();
  while (!pattern.empty() && !path.empty() && path.front() == '/') {
    const std::string_view whole = path, wanted = take_segment(pattern), given = take_segment(path);
    if (!wanted.starts_with('{')) {
      if (wanted != given) return false;
      continue;
    }
    const bool rest = wanted.ends_with("*}");
    const std::string_view argument = rest ? whole.substr(1) : given;
    if (argument.empty()) return false;
    arguments.emplace_back(argument);
    if (rest) return true;
  }
  return pattern.empty() && path.empty();
}

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
