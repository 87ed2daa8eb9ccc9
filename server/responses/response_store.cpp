#include "server/responses/response_store.h"

#include <algorithm>

#include <fmt/format.h>

namespace moebius {

void ResponseStore::put(StoredResponse stored) {
  const size_t size = ApiError::to_text(stored.response).size() + ApiError::to_text(stored.input).size();
  const std::string id = stored.response["id"];
  const std::lock_guard lock(mutex_);
  if (const auto old = index_.find(id); old != index_.end()) drop(old->second);
  if (size > bytes_) return;
  entries_.push_front({id, size, std::make_shared<const StoredResponse>(std::move(stored))});
  index_[id] = entries_.begin();
  used_ += size;
  while (used_ > bytes_ || entries_.size() > responses_) drop(std::prev(entries_.end()));
}

void ResponseStore::drop(std::list<Entry>::iterator entry) {
  used_ -= entry->size;
  index_.erase(entry->id);
  entries_.erase(entry);
}

std::shared_ptr<const StoredResponse> ResponseStore::find(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto found = index_.find(id);
  if (found == index_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->stored;
}

bool ResponseStore::erase(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto found = index_.find(id);
  if (found == index_.end()) return false;
  drop(found->second);
  return true;
}

std::optional<ApiError> ResponseStore::history(const std::string& id, Json& items) {
  std::vector<std::shared_ptr<const StoredResponse>> chain;
  for (std::string next = id; !next.empty();) {
    const auto stored = find(next);
    if (!stored) return response_not_found(next, "previous_response_id");
    if (stored->response["status"] == "in_progress" || stored->response["status"] == "queued")
      return bad_request("the response that this one goes on from is not finished", "previous_response_id");
    if (chain.size() >= responses_) break;
    chain.push_back(stored);
    const Json& before = stored->response["previous_response_id"];
    next = before.is_string() ? before.get<std::string>() : "";
  }
  items = Json::array();
  for (auto stored = chain.rbegin(); stored != chain.rend(); ++stored) {
    for (const Json* list : {&(*stored)->input, &(*stored)->response["output"]})
      items.insert(items.end(), list->begin(), list->end());
  }
  return {};
}

ApiError response_not_found(const std::string& id, const char* param) {
  return {param == nullptr ? 404 : 400, "invalid_request_error",
          fmt::format("there is no response `{}`; the newest {} are kept, unless `store` is false",
                      id.substr(0, 64), ResponseStore::kResponses),
          param == nullptr ? std::nullopt : std::optional<std::string>(param),
          param == nullptr ? "response_not_found" : "previous_response_not_found"};
}

}  // namespace moebius
