#include "models/file_io.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

namespace moebius {
namespace {

constexpr size_t kMaxPathInMessage = 4096;

const char* remedy(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return "; free some disk space or write elsewhere";
    case EFBIG:
      return "; the file system or 'ulimit -f' allows no file this large, write elsewhere or raise the limit";
    case EACCES:
    case EPERM:
      return "; check its permissions or choose another folder";
    case EROFS:
      return "; choose a folder that can be written";
    case ENOENT:
    case ENOTDIR:
      return "; check the path";
    case EMFILE:
    case ENFILE:
      return "; raise the limit with 'ulimit -n'";
    case EIO:
      return "; check the disk";
    default:
      return "";
  }
}

// Closes on leaving the scope.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

// A folder that cannot be synced (some network file systems) is no reason to lose the file.
void sync_folder_of(const std::string& path) {
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  Descriptor folder_fd{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (folder_fd.fd >= 0) ::fsync(folder_fd.fd);
}

}  // namespace

Status system_error(const std::string& action, const std::string& path, int error) {
  const std::string message = fmt::format("cannot {} '{}': {}{}", action, printable(path, kMaxPathInMessage),
                                          std::generic_category().message(error), remedy(error));
  return error == ENOENT || error == ENOTDIR ? not_found(message) : io_error(message);
}

std::string printable(std::string_view text, size_t limit) {
  size_t end = std::min(text.size(), limit);
  // A cut inside a UTF-8 sequence would leave broken text.
  if (end < text.size()) {
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  }
  std::string out;
  for (char c : text.substr(0, end)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return end < text.size() ? out + "..." : out;
}

Result<std::string> read_text_file(const std::string& path, size_t max_bytes) {
  // O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
  Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) return system_error("read", path, errno);
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) return system_error("read", path, errno);
  if (!S_ISREG(info.st_mode)) {
    return io_error(
        fmt::format("cannot read '{}': it is not a regular file", printable(path, kMaxPathInMessage)));
  }
  std::string text;
  char piece[1 << 16];
  while (text.size() <= max_bytes) {
    const ssize_t got = ::read(file.fd, piece, std::min(sizeof(piece), max_bytes - text.size() + 1));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error("read", path, errno);
    if (got == 0) return text;
    text.append(piece, static_cast<size_t>(got));
  }
  return invalid(fmt::format("'{}' is larger than {} bytes; is it the right file?",
                             printable(path, kMaxPathInMessage), max_bytes));
}

bool path_exists(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0;
}

Status write_text_file(const std::string& path, std::string_view text) {
  MOEBIUS_ASSIGN(auto file, AtomicFile::create(path));
  MOEBIUS_TRY(file->write_at(text.data(), text.size(), 0));
  return file->commit();
}

Result<std::unique_ptr<AtomicFile>> AtomicFile::create(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode) && !S_ISLNK(info.st_mode)) {
    return invalid(fmt::format("cannot write '{}': it exists and is not a regular file; choose another name",
                               printable(path, kMaxPathInMessage)));
  }
  auto file = std::unique_ptr<AtomicFile>(new AtomicFile());
  file->path_ = path;
  // O_EXCL with a counter rather than mkstemp: the file then has the permissions of any other new file.
  for (int attempt = 0; attempt < 1000; ++attempt) {
    std::string temporary = fmt::format("{}.partial-{}-{}", path, ::getpid(), attempt);
    file->fd_ = ::open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file->fd_ >= 0) {
      file->temporary_ = std::move(temporary);
      return file;
    }
    if (errno != EEXIST) return system_error("write", path, errno);
  }
  return system_error("write", path, EEXIST);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Status AtomicFile::reserve(uint64_t bytes) {
  if (bytes == 0) return {};
  if (bytes > static_cast<uint64_t>(INT64_MAX)) return system_error("write", path_, EFBIG);
  int answer = 0;
  do {
    answer = ::fallocate(fd_, 0, 0, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
  } while (answer == EINTR);
  const bool refused = answer == ENOSPC || answer == EDQUOT || answer == EFBIG;
  return refused ? system_error("write", path_, answer) : Status();
}

Status AtomicFile::write_at(const void* data, size_t bytes, uint64_t offset) {
  MOEBIUS_CHECK(fd_ >= 0, "the file was committed already");
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t put = ::pwrite(fd_, from, bytes, static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return system_error("write", path_, put < 0 ? errno : EIO);
    from += put;
    bytes -= static_cast<size_t>(put);
    offset += static_cast<uint64_t>(put);
  }
  return {};
}

Status AtomicFile::commit() {
  MOEBIUS_CHECK(fd_ >= 0, "the file was committed already");
  if (::fsync(fd_) != 0) return system_error("write", path_, errno);
  const int fd = std::exchange(fd_, -1);
  // Network file systems report a late write error here.
  if (::close(fd) != 0 && errno != EINTR) return system_error("write", path_, errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return system_error("write", path_, errno);
  temporary_.clear();
  sync_folder_of(path_);
  return {};
}

}  // namespace moebius
