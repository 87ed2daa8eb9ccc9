#include "server/cors.h"

#include <algorithm>
#include <cctype>

namespace moebius {

bool is_origin(std::string_view text) {
  const size_t begin = text.find("://");
  if (begin == std::string_view::npos) return false;
  const std::string_view scheme = text.substr(0, begin), host = text.substr(begin + 3);
  return (scheme == "http" || scheme == "https") && !host.empty() &&
         std::all_of(host.begin(), host.end(), [](unsigned char c) {
           return std::islower(c) || std::isdigit(c) ||
                  std::string_view("-._:[]").find(c) != std::string_view::npos;
         });
}

const std::string* Cors::find(const httplib::Request& request) const {
  if (origins_.empty() || !request.has_header("Origin")) return nullptr;
  const auto found = std::find(origins_.begin(), origins_.end(), request.get_header_value("Origin"));
  return found == origins_.end() ? nullptr : &*found;
}

bool Cors::allows(const httplib::Request& request) const { return find(request) != nullptr; }

bool Cors::answer(const httplib::Request& request, httplib::Response& response) const {
  if (origins_.empty()) return false;
  response.set_header("Vary", "Origin");
  const std::string* origin = find(request);
  if (origin == nullptr) return false;
  response.set_header("Access-Control-Allow-Origin", *origin);
  response.set_header("Access-Control-Expose-Headers", "x-request-id, request-id, Retry-After");
  if (request.method != "OPTIONS" || !request.has_header("Access-Control-Request-Method")) return false;
  response.set_header("Access-Control-Allow-Methods", "GET, POST, DELETE");
  response.set_header("Access-Control-Allow-Headers", "Authorization, *");  // * leaves that one out
  response.set_header("Access-Control-Max-Age", "600");
  response.status = 204;
  return true;
}

}  // namespace moebius
