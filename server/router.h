// Router: which handler answers a path and a method. For patterns see server/route_pattern.h.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/errors.h"
#include "server/http_library.h"
#include "server/route_pattern.h"

namespace moebius {

struct Route;

// Who asks.
struct Client {
  std::string space;            // its own part of the cache, "": everyone's
  std::shared_ptr<void> place;  // held until the answer has ended: there are so many for each

  // What keeps a request's cache apart, from what it asked for.
  std::string salted(const std::string& salt) const { return space.empty() ? salt : space + ':' + salt; }
};

// One request on its way through its handler.
struct Exchange {
  const httplib::Request& request;
  httplib::Response& response;
  const Route& route;
  std::vector<std::string> arguments;              // what stood for the names of the pattern
  Json body;                                       // of a route that takes one
  const httplib::ContentReader* reader = nullptr;  // of a POST or DELETE, for a route that reads by itself
  Client client = {};

  void answer(const Json& json, int status = 200) const;
};

struct Route {
  std::string method, pattern;
  std::function<void(Exchange&)> handler;
  bool body = false;   // takes a JSON object
  bool open = false;   // to everyone, without a key
  bool admin = false;  // only to those who may change the server
};

class Router {
 public:
  void get(std::string pattern, std::function<void(Exchange&)> handler) {
    add({"GET", std::move(pattern), std::move(handler)});
  }
  void post(std::string pattern, std::function<void(Exchange&)> handler) {
    add({"POST", std::move(pattern), std::move(handler), true});
  }
  // Of a route that takes a JSON object, too.
  void post_admin(std::string pattern, std::function<void(Exchange&)> handler) {
    add({"POST", std::move(pattern), std::move(handler), true, false, true});
  }
  void add(Route route) { routes_.push_back(std::move(route)); }

  struct Match {
    const Route* route = nullptr;  // null: no handler for this method
    std::vector<std::string> arguments;
    std::string allowed;  // the methods that the path takes: "GET, DELETE"; "": there is no such path
  };
  // HEAD goes where GET goes.
  Match find(std::string_view method, std::string_view path) const;

 private:
  std::vector<Route> routes_;
};

// How the client expects errors: by the path, also where that does not exist, and by a header that
// Anthropic's clients send.
ErrorStyle error_style(const httplib::Request& request);

}  // namespace moebius
