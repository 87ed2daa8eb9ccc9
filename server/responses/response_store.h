// ResponseStore: the responses that may be asked for again or gone on from. In memory alone, and bounded: the
// one that was used least lately goes first. May be used from several threads.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "server/errors.h"

namespace moebius {

struct StoredResponse {
  Json response;  // as the API gives it
  Json input;     // its own items
};

class ResponseStore {
 public:
  static constexpr size_t kResponses = 1000;
  static constexpr size_t kBytes = 64 << 20;  // of the JSON texts, in all

  explicit ResponseStore(size_t responses = kResponses, size_t bytes = kBytes)
      : responses_(responses), bytes_(bytes) {}

  // Under its `id`, in place of one that has it already. One that is larger than the store is not kept.
  void put(StoredResponse stored);
  std::shared_ptr<const StoredResponse> find(const std::string& id);  // nullptr: not or no longer there
  bool erase(const std::string& id);

  // Items of a response and of all before it, in order: what a request goes on from that names it as
  // previous_response_id. An error where one of them is not there.
  std::optional<ApiError> history(const std::string& id, Json& items);

 private:
  struct Entry {
    std::string id;
    size_t size;
    std::shared_ptr<const StoredResponse> stored;
  };
  void drop(std::list<Entry>::iterator entry);

  const size_t responses_, bytes_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // the one used last comes first
  std::unordered_map<std::string, std::list<Entry>::iterator> index_;
  size_t used_ = 0;
};

ApiError response_not_found(const std::string& id, const char* param);

}  // namespace moebius
