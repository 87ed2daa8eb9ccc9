// FileStore: the files that clients gave, in one folder, with what is known of each.
//
// A file is two of the disk, ID.data and ID.json; it is there once ID.json is, which is written last. Names
// that clients give are kept, but never become a path: ids are drawn here. May be used from several threads.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "models/file_io.h"
#include "server/errors.h"

namespace moebius {

struct StoredFile {
  std::string id, filename, purpose;
  int64_t bytes = 0;
  int64_t created_us = 0;  // since 1970
  int64_t expires_at = 0;  // seconds since 1970; 0: never

  Json json() const;  // OpenAI's object
};

int64_t now_us();  // as created_us counts

struct FileLimits {
  int64_t file_bytes = int64_t{512} << 20;
  int64_t folder_bytes = int64_t{16} << 30;  // of all files, and of what others() counts
  int64_t files = 10'000;
};

class FileStore {
 public:
  // Makes the folder where it is not there, and removes what a killed server had not finished. others: bytes
  // that something else keeps and that count against folder_bytes too.
  static Result<std::unique_ptr<FileStore>> open(std::string folder, FileLimits limits,
                                                 std::function<int64_t()> others = {});

  // A file on its way in. Nothing stays of it unless keep() succeeded.
  class Upload {
   public:
    ~Upload();
    std::optional<ApiError> append(std::string_view bytes);
    // To disk, under the path that it will keep; then it can be looked at.
    std::optional<ApiError> finish();
    const std::string& path() const { return path_; }
    std::optional<ApiError> keep(std::string filename, std::string purpose, int64_t expires_after_s,
                                 StoredFile& out);

   private:
    friend class FileStore;
    explicit Upload(FileStore& store) : store_(store) {}
    bool claim(int64_t bytes);
    FileStore& store_;
    std::string id_, path_;
    std::unique_ptr<AtomicFile> file_;
    int64_t bytes_ = 0, claimed_ = 0;  // of folder_bytes
    bool finished_ = false, kept_ = false;
  };
  std::optional<ApiError> begin(std::unique_ptr<Upload>& out);  // which the store outlives
  // A file made here.
  std::optional<ApiError> add(std::string_view bytes, std::string filename, std::string purpose,
                              StoredFile& out);

  bool is_full();  // nothing more fits
  std::optional<StoredFile> find(const std::string& id);
  std::string path_of(const StoredFile& file) const { return path_of(file.id, ".data"); }
  bool erase(const std::string& id);                              // false: there is none
  std::vector<StoredFile> list(const std::string& purpose = "");  // "": all; the oldest first
  const FileLimits& limits() const { return limits_; }

 private:
  FileStore(std::string folder, FileLimits limits, std::function<int64_t()> others)
      : folder_(std::move(folder)), limits_(limits), others_(std::move(others)) {}
  Status load();
  std::string path_of(const std::string& id, const char* ending) const { return folder_ + "/" + id + ending; }
  bool reserve(int64_t bytes);
  void release(int64_t bytes);
  void drop_expired();  // with mutex_ held, as the next
  void remove(std::vector<StoredFile>::iterator file);

  const std::string folder_;
  const FileLimits limits_;
  const std::function<int64_t()> others_;
  std::mutex mutex_;
  std::vector<StoredFile> files_;  // the oldest first
  int64_t used_bytes_ = 0;         // of them, and of those on their way
};

ApiError file_not_found(std::optional<std::string> param = {});

}  // namespace moebius
