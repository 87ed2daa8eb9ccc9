// Files: small ones read whole, and ones written so that a crash leaves the old content or the new, never
// half.
//
// Errors say what was tried on which path, what the system answered, and the remedy.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "kernels/status.h"

namespace moebius {

// Reads a whole small regular file (JSON, template, vocabulary); the bytes are not checked. kNotFound, kIo
// (also for folders, pipes and devices), or kInvalid when larger than max_bytes.
Result<std::string> read_text_file(const std::string& path, size_t max_bytes);

bool path_exists(const std::string& path);

// Writes text through a temporary file beside path, fsync and rename. A symbolic link at path is replaced.
Status write_text_file(const std::string& path, std::string_view text);

// text as it may stand in a one-line message: control characters escaped, cut after limit bytes.
std::string printable(std::string_view text, size_t limit = 256);

// The Status of a failed system call: "cannot <action> '<path>': <why>; <remedy>". error: an errno value.
// kNotFound for a path that does not exist, else kIo.
Status system_error(const std::string& action, const std::string& path, int error);

// A file under construction: invisible under its path until commit(). Not for several threads at once.
class AtomicFile {
 public:
  // Makes an empty temporary file beside path. Refused where path is a folder, a device or a pipe.
  static Result<std::unique_ptr<AtomicFile>> create(const std::string& path);
  ~AtomicFile();  // removes the temporary file unless commit() succeeded
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // Claims disk space for a file of this size, so that a full disk shows before hours of work; where the file
  // system cannot, nothing happens.
  Status reserve(uint64_t bytes);
  Status write_at(const void* data, size_t bytes, uint64_t offset);
  Status commit();  // fsync, rename to path, fsync of the folder

 private:
  AtomicFile() = default;
  std::string path_, temporary_;
  int fd_ = -1;
};

}  // namespace moebius
