// LineReader: the lines of a text file of any size, a block at a time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/status.h"

namespace moebius {

struct LineBlock {
  std::string text;
  std::vector<std::string_view> lines;  // of text, without their ends (LF or CRLF)
  int64_t first_line = 1;               // the number of lines[0] in the file
};

class LineReader {
 public:
  static constexpr size_t kMaxLineBytes = size_t{16} << 20;

  // A regular file or a pipe. kNotFound, kIo.
  static Result<LineReader> open(const std::string& path);
  LineReader(LineReader&& other) noexcept;
  LineReader& operator=(LineReader&&) = delete;
  ~LineReader();

  // The next whole lines, some MiB of them; false at the end of the file. A byte order mark at the beginning
  // is dropped; a last line need not end in a newline. kInvalid names a line longer than kMaxLineBytes.
  Result<bool> next(LineBlock& block);

  int64_t bytes_read() const { return bytes_read_; }
  int64_t total_bytes() const { return total_bytes_; }  // 0 for a pipe

 private:
  LineReader(int fd, std::string path, int64_t total)
      : fd_(fd), path_(std::move(path)), total_bytes_(total) {}
  Status fill(std::string& text);
  Status split(LineBlock& block);
  Status too_long(int64_t line) const;

  int fd_;
  std::string path_;
  std::string rest_;  // the beginning of a line
  int64_t next_line_ = 1, bytes_read_ = 0, total_bytes_ = 0;
  bool at_end_ = false;
};

}  // namespace moebius
