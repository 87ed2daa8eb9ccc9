// GET /: the page. It holds nothing that is secret and asks for the key itself, so it is open to all.
#include "server/page.h"

#include "server/api/api.h"

namespace moebius {

void add_page_route(Router& router, Service&) {
  const auto page = [policy = content_security_policy(kPageHtml)](Exchange& e) {
    e.response.set_header("Content-Security-Policy", policy);
    e.response.set_header("X-Content-Type-Options", "nosniff");
    e.response.set_header("Referrer-Policy", "no-referrer");
    e.response.set_header("Cache-Control", "no-cache");
    e.response.set_content(kPageHtml.data(), kPageHtml.size(), "text/html; charset=utf-8");
  };
  Route route = {"GET", "/", page};
  route.open = true;
  router.add(std::move(route));
}

}  // namespace moebius
