#include "server/files/file_store.h"

#include <algorithm>
#include <chrono>
#include <filesystem>

#include <fmt/format.h>

#include "models/file_io.h"
#include "server/fields.h"
#include "server/json_input.h"
#include "server/random_id.h"

namespace moebius {

namespace {

namespace fs = std::filesystem;

constexpr size_t kAboutBytes = 64 << 10;
constexpr int64_t kClaimBytes = 1 << 20;

int64_t number_of(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it != json.end() && it->is_number_integer() ? it->get<int64_t>() : -1;
}

std::optional<StoredFile> read_about(const std::string& path) {
  const Result<std::string> text = read_text_file(path, kAboutBytes);
  if (!text.ok()) return {};
  const Result<Json> json = parse_json(*text);
  if (!json.ok() || !json->is_object()) return {};
  StoredFile file;
  file.id = fs::path(path).stem();
  file.filename = text_of(*json, "filename"), file.purpose = text_of(*json, "purpose");
  file.created_us = number_of(*json, "created_us"), file.expires_at = number_of(*json, "expires_at");
  std::error_code error;
  const auto bytes = fs::file_size(fs::path(path).replace_extension(".data"), error);
  if (error || file.purpose.empty() || file.created_us < 0 || file.expires_at < 0) return {};
  file.bytes = static_cast<int64_t>(bytes);
  return file;
}

std::string about_text(const StoredFile& file) {
  return ApiError::to_text({{"filename", file.filename},
                            {"purpose", file.purpose},
                            {"created_us", file.created_us},
                            {"expires_at", file.expires_at}});
}

}  // namespace

int64_t now_us() {
  using namespace std::chrono;
  return duration_cast<microseconds>(system_clock::now().time_since_epoch()).count();
}

Json StoredFile::json() const {
  return {{"id", id},
          {"object", "file"},
          {"bytes", bytes},
          {"created_at", created_us / 1'000'000},
          {"expires_at", expires_at > 0 ? Json(expires_at) : Json(nullptr)},
          {"filename", filename},
          {"purpose", purpose},
          {"status", "processed"},
          {"status_details", nullptr}};
}

ApiError file_not_found(std::optional<std::string> param) {
  return {404, "invalid_request_error", "no such file; it may have been deleted or have expired",
          std::move(param), "file_not_found"};
}

Result<std::unique_ptr<FileStore>> FileStore::open(std::string folder, FileLimits limits,
                                                   std::function<int64_t()> others) {
  std::unique_ptr<FileStore> store(new FileStore(std::move(folder), limits, std::move(others)));
  MOEBIUS_TRY(store->load());
  return store;
}

Status FileStore::load() {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) return system_error("make folder", folder_, error.value());
  fs::permissions(folder_, fs::perms::owner_all, error);
  std::vector<fs::path> found;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error))
    found.push_back(it->path());
  if (error) return system_error("read folder", folder_, error.value());
  for (const fs::path& path : found)
    if (path.extension() == ".json")
      if (std::optional<StoredFile> file = read_about(path)) files_.push_back(std::move(*file));
  const auto known = [&](const fs::path& path) {
    return std::any_of(files_.begin(), files_.end(),
                       [&](const StoredFile& f) { return f.id == path.stem(); });
  };
  for (const fs::path& path : found)
    if (path.filename().string().starts_with("file-") && !known(path)) fs::remove(path, error);
  std::sort(files_.begin(), files_.end(),
            [](const StoredFile& a, const StoredFile& b) { return a.created_us < b.created_us; });
  for (const StoredFile& file : files_) used_bytes_ += file.bytes;
  return Status();
}

bool FileStore::reserve(int64_t bytes) {
  const int64_t others = others_ ? others_() : 0;
  const std::lock_guard lock(mutex_);
  if (used_bytes_ + bytes > limits_.folder_bytes - others) return false;
  used_bytes_ += bytes;
  return true;
}

bool FileStore::is_full() { return !reserve(0); }

void FileStore::release(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  used_bytes_ -= bytes;
}

std::optional<ApiError> FileStore::begin(std::unique_ptr<Upload>& out) {
  {
    const std::lock_guard lock(mutex_);
    drop_expired();
    if (static_cast<int64_t>(files_.size()) >= limits_.files)
      return ApiError{507,
                      "server_error",
                      fmt::format("there are {} files; delete some", limits_.files),
                      {},
                      "too_many_files"};
  }
  std::unique_ptr<Upload> upload(new Upload(*this));
  upload->id_ = random_id("file-");
  upload->path_ = path_of(upload->id_, ".data");
  Result<std::unique_ptr<AtomicFile>> file = AtomicFile::create(upload->path_);
  if (!file.ok()) return disk_error("file");
  upload->file_ = std::move(*file);
  out = std::move(upload);
  return {};
}

std::optional<ApiError> FileStore::Upload::append(std::string_view bytes) {
  const auto count = static_cast<int64_t>(bytes.size());
  if (bytes_ + count > store_.limits_.file_bytes) {
    ApiError error = too_large(store_.limits_.file_bytes);
    error.message = fmt::format("the file exceeds the limit of {} bytes", store_.limits_.file_bytes);
    return error;
  }
  if (!claim(count))
    return ApiError{
        507, "server_error", "the server's folder for files is full; delete some", {}, "quota_exceeded"};
  const Status written = file_->write_at(bytes.data(), bytes.size(), static_cast<uint64_t>(bytes_));
  bytes_ += count;
  if (!written.ok()) return disk_error("file");
  return {};
}

// In large steps, since what others keep is counted anew for each.
bool FileStore::Upload::claim(int64_t bytes) {
  const int64_t missing = bytes_ + bytes - claimed_;
  for (const int64_t more : {std::max(missing, kClaimBytes), missing}) {
    if (missing > 0 && !store_.reserve(more)) continue;
    if (missing > 0) claimed_ += more;
    return true;
  }
  return false;
}

std::optional<ApiError> FileStore::Upload::finish() {
  const Status committed = file_->commit();
  finished_ = committed.ok();
  if (!finished_) return disk_error("file");
  return {};
}

std::optional<ApiError> FileStore::Upload::keep(std::string filename, std::string purpose,
                                                int64_t expires_after_s, StoredFile& out) {
  MOEBIUS_CHECK(finished_ && !kept_);
  StoredFile file = {id_, std::move(filename), std::move(purpose), bytes_, now_us(), 0};
  if (expires_after_s > 0) file.expires_at = file.created_us / 1'000'000 + expires_after_s;
  if (!write_text_file(store_.path_of(id_, ".json"), about_text(file)).ok()) return disk_error("file");
  kept_ = true;
  out = file;
  store_.release(claimed_ - bytes_);
  const std::lock_guard lock(store_.mutex_);
  store_.files_.push_back(std::move(file));
  return {};
}

FileStore::Upload::~Upload() {
  if (kept_) return;
  file_.reset();
  std::error_code ignored;
  if (finished_) fs::remove(path_, ignored);
  store_.release(claimed_);
}

std::optional<ApiError> FileStore::add(std::string_view bytes, std::string filename, std::string purpose,
                                       StoredFile& out) {
  std::unique_ptr<Upload> upload;
  std::optional<ApiError> error = begin(upload);
  if (!error) error = upload->append(bytes);
  if (!error) error = upload->finish();
  if (!error) error = upload->keep(std::move(filename), std::move(purpose), 0, out);
  return error;
}

void FileStore::remove(std::vector<StoredFile>::iterator file) {
  std::error_code ignored;
  fs::remove(path_of(file->id, ".json"), ignored);  // first: from here on it is not there
  fs::remove(path_of(file->id, ".data"), ignored);
  used_bytes_ -= file->bytes;
  files_.erase(file);
}

void FileStore::drop_expired() {
  const int64_t now = now_us() / 1'000'000;
  const auto expired = [&](const StoredFile& f) { return f.expires_at > 0 && f.expires_at <= now; };
  for (auto it = files_.begin(); (it = std::find_if(it, files_.end(), expired)) != files_.end();) remove(it);
}

std::optional<StoredFile> FileStore::find(const std::string& id) {
  const std::lock_guard lock(mutex_);
  drop_expired();
  const auto it = std::find_if(files_.begin(), files_.end(), [&](const StoredFile& f) { return f.id == id; });
  if (it == files_.end()) return {};
  return *it;
}

bool FileStore::erase(const std::string& id) {
  const std::lock_guard lock(mutex_);
  drop_expired();
  const auto it = std::find_if(files_.begin(), files_.end(), [&](const StoredFile& f) { return f.id == id; });
  if (it == files_.end()) return false;
  remove(it);
  return true;
}

std::vector<StoredFile> FileStore::list(const std::string& purpose) {
  const std::lock_guard lock(mutex_);
  drop_expired();
  std::vector<StoredFile> out;
  std::copy_if(files_.begin(), files_.end(), std::back_inserter(out),
               [&](const StoredFile& f) { return purpose.empty() || f.purpose == purpose; });
  return out;
}

}  // namespace moebius
