// Admission: what is looked at before a handler runs, and before a body is read.
#pragma once

#include "server/http_server.h"
#include "server/service.h"

namespace moebius {

class Admission {
 public:
  Admission(Service& service, const Router& router);  // which outlive this

  // Sends every request to its handler, or answers why not.
  void install(HttpServer& http);

 private:
  std::optional<ApiError> check_access(const httplib::Request& request, const Route* route) const;
  bool admit(const httplib::Request& request, httplib::Response& response) const;
  void dispatch(const httplib::Request& request, httplib::Response& response,
                const httplib::ContentReader* reader) const;
  std::optional<ApiError> read_body(const httplib::ContentReader& reader, Json& body) const;

  Service& service_;
  const Router& router_;
  const ApiKeys keys_;
  const bool loopback_;
};

}  // namespace moebius
