#include "tools/synth_folder.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include <fmt/format.h>

#include "models/config.h"
#include "models/file_io.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;

std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

bool written_by_synth(const std::string& dir) {
  const Result<ModelConfig> config = ModelConfig::load(dir);
  return config.ok() && config->random_weights;
}

Status check_target(const std::string& path, std::optional<bool> replace) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0)
    return errno == ENOENT ? Status() : system_error("look at", path, errno);
  if (!S_ISDIR(info.st_mode)) {
    return invalid(fmt::format("'{}' is there and is not a folder; choose another --out", printable(path)));
  }
  std::error_code error;
  const bool empty = fs::is_empty(path, error);
  if (error) return system_error("look into", path, error.value());
  if (empty) return Status();
  if (!replace.value_or(false)) {
    return invalid(fmt::format("'{}' is not empty; choose another --out{}", printable(path),
                               replace ? ", or replace it with --force" : ""));
  }
  if (written_by_synth(path)) return Status();
  return invalid(
      fmt::format("'{}' was not written by synth, so --force does not replace it; remove it "
                  "yourself or choose another --out",
                  printable(path)));
}

Status check_space(const std::string& parent, int64_t bytes, const std::string& smaller) {
  struct statvfs disk {};
  if (statvfs(parent.c_str(), &disk) != 0) return system_error("look at the disk of", parent, errno);
  const double free = static_cast<double>(disk.f_bavail) * static_cast<double>(disk.f_frsize);
  if (free >= static_cast<double>(bytes)) return Status();
  return no_memory(
      fmt::format("{:.2f} GB are needed on the disk of '{}' and {:.2f} GB are free; choose another --out{}",
                  static_cast<double>(bytes) / 1e9, printable(parent), free / 1e9, smaller));
}

}  // namespace

Result<FolderInMaking> FolderInMaking::create(const std::string& asked, int64_t bytes,
                                              std::optional<bool> replace, const std::string& smaller) {
  const std::string path = without_slashes(asked);
  if (path.empty()) return invalid("no folder to write to; name one with --out");
  MOEBIUS_TRY(check_target(path, replace));
  fs::path parent = fs::path(path).parent_path();
  if (parent.empty()) parent = ".";
  std::error_code error;
  fs::create_directories(parent, error);
  if (error) return system_error("make the folder", parent.string(), error.value());
  MOEBIUS_TRY(check_space(parent.string(), bytes, smaller));
  std::string work = path + ".partial-XXXXXX";
  if (!mkdtemp(work.data())) return system_error("make a folder beside", path, errno);
  if (chmod(work.c_str(), 0755) != 0) return system_error("open up", work, errno);
  return FolderInMaking(path, work);
}

FolderInMaking::~FolderInMaking() {
  std::error_code ignored;
  if (!work_.empty()) fs::remove_all(work_, ignored);
}

Status FolderInMaking::commit() {
  std::string old;
  if (std::rename(work_.c_str(), path_.c_str()) != 0) {  // succeeds over an empty folder
    if (errno != ENOTEMPTY && errno != EEXIST) return system_error("write", path_, errno);
    old = work_ + ".old";
    if (std::rename(path_.c_str(), old.c_str()) != 0) return system_error("replace", path_, errno);
    if (std::rename(work_.c_str(), path_.c_str()) != 0) return system_error("write", path_, errno);
  }
  work_.clear();
  std::error_code error;
  if (!old.empty()) fs::remove_all(old, error);
  return error ? system_error("remove", old, error.value()) : Status();
}

}  // namespace moebius
