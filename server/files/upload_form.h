// UploadForm: what the form of POST /v1/files says, read as it comes; its file goes straight to the store.
#pragma once

#include "server/files/file_store.h"
#include "server/files/multipart.h"

namespace moebius {

class UploadForm {
 public:
  static constexpr int64_t kFieldBytes = 1024;

  explicit UploadForm(FileStore& store) : store_(store) {}  // which outlives this

  // For a MultipartReader.
  MultipartCalls calls();

  // After the last byte: checks what was said, and has the file on disk.
  std::optional<ApiError> finish();
  FileStore::Upload& file() { return *file_; }
  const std::string& filename() const { return filename_; }
  const std::string& purpose() const { return purpose_; }
  int64_t expires_after_s() const { return expires_after_s_; }  // 0: never

 private:
  std::optional<ApiError> begin(const FormPart& part);
  std::optional<ApiError> data(std::string_view bytes);
  std::optional<ApiError> read_expiry();

  FileStore& store_;
  std::unique_ptr<FileStore::Upload> file_;
  std::string filename_, purpose_, anchor_, seconds_, ignored_;
  std::string* field_ = nullptr;  // that the data go to; null: the file
  int64_t expires_after_s_ = 0;
};

// A name as a client may read it again: its last part, without control characters, at most 255 bytes.
std::string plain_filename(std::string_view name);

}  // namespace moebius
