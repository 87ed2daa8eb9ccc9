#include "engine/train/lines.h"

#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "models/file_io.h"

namespace moebius {
namespace {

constexpr size_t kBlockBytes = size_t{4} << 20;
constexpr size_t kReadBytes = size_t{1} << 20;
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

}  // namespace

Result<LineReader> LineReader::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return system_error("open", path, errno);
  LineReader reader(fd, path, 0);
  struct stat info {};
  if (::fstat(fd, &info) != 0) return system_error("look at", path, errno);
  if (S_ISDIR(info.st_mode)) return system_error("read", path, EISDIR);
  if (S_ISREG(info.st_mode)) reader.total_bytes_ = info.st_size;
  return reader;
}

LineReader::LineReader(LineReader&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      rest_(std::move(other.rest_)),
      next_line_(other.next_line_),
      bytes_read_(other.bytes_read_),
      total_bytes_(other.total_bytes_),
      at_end_(other.at_end_) {}

LineReader::~LineReader() {
  if (fd_ >= 0) ::close(fd_);
}

Status LineReader::too_long(int64_t line) const {
  return invalid(fmt::format("line {} of '{}': longer than {} bytes; write one example a line, and split it",
                             line, printable(path_), kMaxLineBytes));
}

// Appends what one read gives.
Status LineReader::fill(std::string& text) {
  const size_t size = text.size();
  text.resize(size + kReadBytes);
  ssize_t count = 0;
  do {
    count = ::read(fd_, text.data() + size, kReadBytes);
  } while (count < 0 && errno == EINTR);
  if (count < 0) return system_error("read", path_, errno);
  text.resize(size + static_cast<size_t>(count));
  bytes_read_ += count;
  at_end_ = count == 0;
  return {};
}

Status LineReader::split(LineBlock& block) {
  std::string_view text = block.text;
  if (next_line_ == 1 && text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  block.lines.clear();
  block.first_line = next_line_;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    if (line.size() > kMaxLineBytes) return too_long(next_line_);
    if (line.ends_with('\r')) line.remove_suffix(1);
    block.lines.push_back(line);
    ++next_line_;
  }
  return {};
}

Result<bool> LineReader::next(LineBlock& block) {
  block.lines.clear();
  block.text = std::move(rest_);
  rest_.clear();
  size_t end = std::string::npos;  // one past the last newline
  size_t searched = 0;
  while (!at_end_ && (end == std::string::npos || block.text.size() < kBlockBytes)) {
    MOEBIUS_TRY(fill(block.text));
    const size_t newline = std::string_view(block.text).substr(searched).rfind('\n');
    if (newline != std::string_view::npos) end = searched + newline + 1;
    searched = block.text.size();
    if (end == std::string::npos && searched > kMaxLineBytes + 2) return too_long(next_line_);
  }
  if (!at_end_) {
    rest_ = block.text.substr(end);
    block.text.resize(end);
  }
  MOEBIUS_TRY(split(block));
  return !block.lines.empty();
}

}  // namespace moebius
