// Adapters: LoRA adapters that a server offers as models beside its own, each under a name.
#pragma once

#include <ctime>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/request.h"

namespace moebius {

struct OfferedAdapter {
  std::string name;
  std::string folder;       // as it was given; for whoever runs the server, not for clients
  std::string description;  // one line
  int64_t bytes = 0;        // of factors and merged copies
  std::time_t loaded = 0;
  std::shared_ptr<BatchAdapter> adapter;
};

// An adapter that is not read before somebody asks for it.
struct ShelvedAdapter {
  std::string name, folder;
  std::time_t created = 0;
};

// All members may be called from any thread.
class Adapters {
 public:
  static constexpr size_t kMost = 64;    // adapters at a time
  static constexpr size_t kFetched = 8;  // from the shelf, those asked for last

  // models: the server's own names, at least one; engine outlives this.
  Adapters(const Engine& engine, std::vector<std::string> models)
      : engine_(engine), models_(std::move(models)) {}

  // Reads the adapter in a folder and offers it. The folder is trusted: see inside_folder() for those that
  // clients name. replace: one of that name gives way, once this one is read. kInvalid: a name that is taken
  // or that none can have, and what read_adapter() says; then all is as before.
  Status load(const std::string& name, const std::string& folder, bool replace = false);
  // Requests that use it already go on. False: there is none of that name.
  bool unload(const std::string& name);
  std::vector<OfferedAdapter> list() const;  // in the order they were loaded
  std::optional<OfferedAdapter> find(const std::string& name) const;

  // More adapters, chosen by their names like the others; which these are may change from call to call.
  // Before the first request.
  void look_on(std::function<std::vector<ShelvedAdapter>()> shelf) { shelf_ = std::move(shelf); }
  std::vector<ShelvedAdapter> shelved() const { return shelf_ ? shelf_() : std::vector<ShelvedAdapter>(); }

  // Fills asked.served by asked.choice; reads the adapter where it lies on the shelf.
  std::optional<ApiError> choose(SamplingRequest& asked);

 private:
  bool is_own(const std::string& name) const;
  Result<OfferedAdapter> read(const std::string& name, const std::string& folder) const;
  Status fetch(const std::string& name, std::optional<OfferedAdapter>& out);

  const Engine& engine_;
  const std::vector<std::string> models_;
  std::function<std::vector<ShelvedAdapter>()> shelf_;
  mutable std::mutex mutex_;
  std::vector<OfferedAdapter> offered_;
  std::mutex fetching_;  // held while one is read, so that none is read twice; guards the next
  std::vector<OfferedAdapter> fetched_;  // the one asked for last is the last
};

// The folder that a client's path names under `root`, links followed. kInvalid: it lies elsewhere; kNotFound:
// it does not exist. The message holds no path but the client's.
Result<std::string> inside_folder(const std::string& root, const std::string& path);

}  // namespace moebius
