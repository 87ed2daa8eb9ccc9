// Pages: a part of a list, as clients of OpenAI's API ask for it: `limit`, `after` an id, `order`.
#pragma once

#include <functional>

#include "server/errors.h"
#include "server/http_library.h"

namespace moebius {

struct PageRules {
  int64_t limit = 20, most = 100;  // items of a page, where the request says nothing, and at most
};

// Sets page to {"object": "list", "data", "first_id", "last_id", "has_more"}. The list has count items, the
// oldest is number 0; the newest comes first unless the request says `order=asc`. id and item give one of
// them.
std::optional<ApiError> take_page(const httplib::Request& request, const PageRules& rules, int64_t count,
                                  const std::function<std::string(int64_t)>& id,
                                  const std::function<Json(int64_t)>& item, Json& page);

}  // namespace moebius
