// Cors: lets pages of named origins use the server from a browser (the Fetch standard's CORS protocol).
// Without any, no page of another site may. Origins are compared whole and answered from the list, and
// credentials such as cookies are never allowed: a page sends its key itself.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/http_library.h"

namespace moebius {

// "http://HOST" or "https://HOST", with or without a port, as browsers write it.
bool is_origin(std::string_view text);

class Cors {
 public:
  explicit Cors(std::vector<std::string> origins) : origins_(std::move(origins)) {}

  bool allows(const httplib::Request& request) const;  // its Origin, if it has one, is on the list
  // Adds what a browser wants to see in the answer. True: the browser asked whether it may ask, and that is
  // the whole answer.
  bool answer(const httplib::Request& request, httplib::Response& response) const;

 private:
  const std::string* find(const httplib::Request& request) const;
  const std::vector<std::string> origins_;
};

}  // namespace moebius
