#include "server/pages.h"

#include <fmt/format.h>

namespace moebius {

std::optional<ApiError> take_page(const httplib::Request& request, const PageRules& rules, int64_t count,
                                  const std::function<std::string(int64_t)>& id,
                                  const std::function<Json(int64_t)>& item, Json& page) {
  const auto param = [&](const char* name) { return request.get_param_value(name); };
  const std::string order = param("order"), after = param("after"), limit_text = param("limit");
  if (!order.empty() && order != "asc" && order != "desc")
    return bad_request("`order` must be asc or desc", "order");
  int64_t limit = rules.limit;
  if (!limit_text.empty()) {
    const bool digits =
        limit_text.size() <= 9 && limit_text.find_first_not_of("0123456789") == std::string::npos;
    limit = digits ? std::stoll(limit_text) : 0;
    if (limit < 1 || limit > rules.most)
      return bad_request(fmt::format("`limit` must be from 1 to {}", rules.most), "limit");
  }
  const auto number = [&](int64_t place) { return order == "asc" ? place : count - 1 - place; };
  int64_t begin = 0;
  if (!after.empty()) {
    while (begin < count && id(number(begin)) != after) ++begin;
    if (begin++ == count) return bad_request("`after` names no item", "after");
  }
  const int64_t end = std::min(count, begin + limit);
  Json data = Json::array();
  for (int64_t place = begin; place < end; ++place) data.push_back(item(number(place)));
  const auto id_at = [&](int64_t place) { return data.empty() ? Json("") : Json(id(number(place))); };
  page = {{"object", "list"},
          {"first_id", id_at(begin)},
          {"last_id", id_at(end - 1)},
          {"has_more", end < count},
          {"data", std::move(data)}};
  return {};
}

}  // namespace moebius
