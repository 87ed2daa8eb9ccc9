// Admission: what is looked at before a handler runs, and before a body is read.
#pragma once

#include "server/cors.h"
#include "server/http_server.h"
#include "server/key_ring.h"
#include "server/service.h"

namespace moebius {

class Admission {
 public:
  Admission(Service& service, const Router& router);  // which outlive this

  // Sends every request to its handler, or answers why not.
  void install(HttpServer& http);
  // In place of those in force.
  void exchange_keys(const std::vector<std::string>& keys, const std::vector<std::string>& admin_keys) {
    keys_.exchange(keys, admin_keys);
  }

 private:
  std::optional<ApiError> check_access(const httplib::Request& request, const Route* route) const;
  bool host_is_ours(const httplib::Request& request) const;
  bool origin_is_ours(const httplib::Request& request) const;
  KeyHolder holder_of(const httplib::Request& request) const;
  bool admit(const httplib::Request& request, httplib::Response& response) const;
  void dispatch(const httplib::Request& request, httplib::Response& response,
                const httplib::ContentReader* reader);
  std::optional<ApiError> read_body(const httplib::ContentReader& reader, Json& body) const;

  Service& service_;
  const Router& router_;
  KeyRing keys_;
  const Cors cors_;
  const bool loopback_;
};

}  // namespace moebius
