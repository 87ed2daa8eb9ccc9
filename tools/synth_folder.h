// A folder under construction beside the place where it will stand.
#pragma once

#include <optional>
#include <string>

#include "kernels/status.h"

namespace moebius {

class FolderInMaking {
 public:
  // Makes an empty temporary folder beside path. kInvalid: something other than a folder is at path, a folder
  // there is not empty and replace is not true, or it is not one that synth wrote (nothing else is ever
  // replaced). kNoMemory: less than bytes are free on that disk. replace: absent for commands without
  // --force. smaller: what a user can do about the bytes, for the message: ", a smaller --dtype".
  static Result<FolderInMaking> create(const std::string& path, int64_t bytes, std::optional<bool> replace,
                                       const std::string& smaller);
  ~FolderInMaking();  // removes the temporary folder unless commit() succeeded
  FolderInMaking(FolderInMaking&& other) noexcept
      : path_(std::move(other.path_)), work_(std::move(other.work_)) {
    other.work_.clear();
  }
  FolderInMaking& operator=(FolderInMaking&&) = delete;

  const std::string& dir() const { return work_; }  // the temporary folder
  Status commit();                                  // renames it to path, removing what was there

 private:
  FolderInMaking(std::string path, std::string work) : path_(std::move(path)), work_(std::move(work)) {}
  std::string path_, work_;
};

}  // namespace moebius
