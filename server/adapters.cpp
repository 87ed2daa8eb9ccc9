#include "server/adapters.h"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "engine/batch_adapter.h"

namespace moebius {

namespace {

constexpr size_t kLongestName = 128;

bool can_be_name(const std::string& name) {
  const auto fits = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           std::string_view("-_.:/").find(c) != std::string_view::npos;
  };
  return !name.empty() && name.size() <= kLongestName && std::ranges::all_of(name, fits);
}

ApiError adapter_not_found(const char* field) {
  ApiError error =
      bad_request("no such adapter; GET /v1/models lists what this server has", field, "adapter_not_found");
  error.status = 404;
  return error;
}

}  // namespace

bool Adapters::is_own(const std::string& name) const {
  return std::ranges::find(models_, name) != models_.end();
}

Result<OfferedAdapter> Adapters::read(const std::string& name, const std::string& folder) const {
  MOEBIUS_ASSIGN(std::shared_ptr<BatchAdapter> adapter, engine_.open_adapter(folder));
  const std::string description = adapter->description();
  const int64_t bytes = adapter->bytes();
  return OfferedAdapter{name, folder, description, bytes, std::time(nullptr), std::move(adapter)};
}

Status Adapters::load(const std::string& name, const std::string& folder, bool replace) {
  if (!can_be_name(name))
    return invalid(fmt::format("an adapter's name has 1 to {} letters, digits and -_.:/", kLongestName));
  const auto refusal = [&]() -> Status {  // with the mutex locked
    const bool taken = std::ranges::find(offered_, name, &OfferedAdapter::name) != offered_.end();
    if (is_own(name) || (taken && !replace))
      return invalid(fmt::format("the name {} is taken; unload it first", name));
    if (!taken && offered_.size() >= kMost)
      return invalid(fmt::format("{} adapters are loaded; unload one", kMost));
    return Status();
  };
  {
    std::lock_guard lock(mutex_);
    MOEBIUS_TRY(refusal());
  }
  MOEBIUS_ASSIGN(OfferedAdapter offered, read(name, folder));
  std::lock_guard lock(mutex_);
  MOEBIUS_TRY(refusal());  // while it was read, another may have come
  std::erase_if(offered_, [&](const OfferedAdapter& o) { return o.name == name; });
  offered_.push_back(std::move(offered));
  return Status();
}

bool Adapters::unload(const std::string& name) {
  std::lock_guard lock(mutex_);
  return std::erase_if(offered_, [&](const OfferedAdapter& o) { return o.name == name; }) > 0;
}

std::vector<OfferedAdapter> Adapters::list() const {
  std::lock_guard lock(mutex_);
  return offered_;
}

std::optional<OfferedAdapter> Adapters::find(const std::string& name) const {
  std::lock_guard lock(mutex_);
  const auto at = std::ranges::find(offered_, name, &OfferedAdapter::name);
  if (at == offered_.end()) return {};
  return *at;
}

// Leaves out empty where the shelf has none of that name.
Status Adapters::fetch(const std::string& name, std::optional<OfferedAdapter>& out) {
  const std::vector<ShelvedAdapter> shelf = shelved();
  const auto found = std::ranges::find(shelf, name, &ShelvedAdapter::name);
  if (found == shelf.end()) return Status();
  std::lock_guard lock(fetching_);
  std::erase_if(fetched_, [&](const OfferedAdapter& o) {
    return std::ranges::find(shelf, o.name, &ShelvedAdapter::name) == shelf.end();
  });
  const auto same = [&](const OfferedAdapter& o) { return o.name == name && o.folder == found->folder; };
  if (const auto at = std::ranges::find_if(fetched_, same); at != fetched_.end()) {
    std::rotate(at, at + 1, fetched_.end());
  } else {
    MOEBIUS_ASSIGN(OfferedAdapter offered, read(name, found->folder));
    if (fetched_.size() >= kFetched) fetched_.erase(fetched_.begin());
    fetched_.push_back(std::move(offered));
  }
  out = fetched_.back();
  return Status();
}

std::optional<ApiError> Adapters::choose(SamplingRequest& asked) {
  const AdapterChoice& choice = asked.choice;
  asked.served = {models_.front(), nullptr};
  const auto use = [&](const std::optional<OfferedAdapter>& offered) {
    if (offered) asked.served = {offered->name, offered->adapter};
    return offered.has_value();
  };
  if (choice.number >= 0) {
    const std::vector<OfferedAdapter> all = list();
    if (choice.number >= std::ssize(all)) return adapter_not_found("lora");
    use(all[static_cast<size_t>(choice.number)]);
  }
  if (!choice.name.empty() && !use(find(choice.name))) return adapter_not_found("adapter");
  const std::string& model = choice.model;
  if (model.empty() || is_own(model) || use(find(model))) return {};
  for (const std::string& own : models_) {  // "model:adapter"
    if (model.starts_with(own + ":") && use(find(model.substr(own.size() + 1)))) return {};
  }
  std::optional<OfferedAdapter> fetched;
  if (const Status status = fetch(model, fetched); !status.ok())
    return ApiError{500, "server_error", "the adapter cannot be used; it may be damaged, or of another model",
                    "model", "adapter_refused"};
  if (use(fetched)) return {};
  return model_not_found(models_.front());
}

Result<std::string> inside_folder(const std::string& root, const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code problem;
  const fs::path top = fs::canonical(root, problem);
  if (problem) return io_error("the server's adapter folder cannot be read");
  const fs::path wanted = fs::canonical(top / path, problem);  // an absolute path replaces top
  if (problem) return not_found(fmt::format("{}: no such folder under the server's adapter folder", path));
  const fs::path relative = wanted.lexically_relative(top);
  if (relative.empty() || *relative.begin() == "..")
    return invalid(fmt::format("{}: not under the server's adapter folder", path));
  return wanted.string();
}

}  // namespace moebius
