#include "engine/train/training_log.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <string_view>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "models/file_io.h"

namespace moebius {
namespace {

constexpr size_t kMaxLogBytes = size_t{1} << 30;
constexpr std::string_view kHeader =
    "step,tokens,seconds,loss,lr,grad_norm,tokens_per_s,eval_loss,expert_load,max_logit,accuracy,eval_"
    "accuracy,zero_rate";
constexpr size_t kCounts = 2;         // columns that are whole numbers, the first ones
constexpr size_t kFirstColumns = 10;  // that every log has

using Measures = std::array<double TrainingRow::*, 11>;
constexpr Measures kMeasures = {
    &TrainingRow::seconds,       &TrainingRow::loss,         &TrainingRow::lr,
    &TrainingRow::grad_norm,     &TrainingRow::tokens_per_s, &TrainingRow::eval_loss,
    &TrainingRow::expert_load,   &TrainingRow::max_logit,    &TrainingRow::accuracy,
    &TrainingRow::eval_accuracy, &TrainingRow::zero_rate};

std::string row_text(const TrainingRow& row) {
  std::string text = fmt::format("{},{}", row.step, row.tokens);
  for (const auto measure : kMeasures) {
    const double value = row.*measure;
    text += std::isnan(value) ? "," : fmt::format(",{:.7g}", value);
  }
  return text + '\n';
}

template <class Number>
bool parse(std::string_view cell, Number& out) {
  const auto [end, error] = std::from_chars(cell.data(), cell.data() + cell.size(), out);
  return error == std::errc() && end == cell.data() + cell.size();
}

size_t columns_of(std::string_view header) {
  return 1 + static_cast<size_t>(std::count(header.begin(), header.end(), ','));
}

bool is_header(std::string_view line) {
  return kHeader.starts_with(line) && columns_of(line) >= kFirstColumns &&
         (line.size() == kHeader.size() || kHeader[line.size()] == ',');
}

bool parse_row(std::string_view line, size_t columns, TrainingRow& row) {
  size_t column = 0;
  for (bool more = true; more; ++column) {
    const size_t comma = line.find(',');
    const std::string_view cell = line.substr(0, comma);
    more = comma != std::string_view::npos;
    if (more) line.remove_prefix(comma + 1);
    if (column < kCounts) {
      if (!parse(cell, column == 0 ? row.step : row.tokens)) return false;
    } else if (column >= columns) {
      return false;
    } else if (!cell.empty() && !parse(cell, row.*kMeasures[column - kCounts])) {
      return false;
    }
  }
  return column == columns;
}

Result<std::vector<TrainingRow>> parse_log(const std::string& path, std::string_view text) {
  std::vector<TrainingRow> rows;
  size_t columns = 0;
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    if (end == std::string_view::npos) break;
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (number == 1) {
      columns = columns_of(line);
      if (is_header(line)) continue;
      return invalid(fmt::format("'{}' is not a training log: its first line is not '{}'; move it away",
                                 printable(path), kHeader));
    }
    TrainingRow row;
    if (!parse_row(line, columns, row)) {
      return invalid(fmt::format("line {} of '{}' is not a row of a training log: '{}'; correct or remove it",
                                 number, printable(path), printable(line, 80)));
    }
    rows.push_back(row);
  }
  return rows;
}

}  // namespace

Result<std::vector<TrainingRow>> read_training_log(const std::string& path) {
  MOEBIUS_ASSIGN(const std::string text, read_text_file(path, kMaxLogBytes));
  return parse_log(path, text);
}

Result<std::vector<TrainingRow>> read_new_rows(const std::string& path, int64_t& offset) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return system_error("read the training log", path, errno);
  std::string text;
  std::array<char, 1 << 14> block;
  ssize_t got;
  while ((got = ::pread(fd, block.data(), block.size(), offset + std::ssize(text))) > 0)
    text.append(block.data(), static_cast<size_t>(got));
  const int error = errno;
  ::close(fd);
  if (got < 0) return system_error("read the training log", path, error);
  text.resize(text.rfind('\n') + 1);  // to 0 where there is none
  const bool first = offset == 0;
  MOEBIUS_ASSIGN(std::vector<TrainingRow> rows,
                 parse_log(path, first || text.empty() ? text : fmt::format("{}\n{}", kHeader, text)));
  offset += std::ssize(text);
  return rows;
}

Result<std::unique_ptr<TrainingLog>> TrainingLog::open(const std::string& path, int64_t after) {
  std::unique_ptr<TrainingLog> log(new TrainingLog);
  log->path_ = path;
  const Result<std::string> old = read_text_file(path, kMaxLogBytes);
  if (!old.ok() && old.status().code() != Code::kNotFound) return old.status();
  if (old.ok() && !old->empty() && old->find('\n') == std::string::npos && !kHeader.starts_with(*old)) {
    return invalid(fmt::format("'{}' is not a training log; move it away", printable(path)));
  }
  if (old.ok()) {
    MOEBIUS_ASSIGN(log->rows_, parse_log(path, *old));
  }
  std::erase_if(log->rows_, [&](const TrainingRow& row) { return row.step > after; });
  std::string text = fmt::format("{}\n", kHeader);
  for (const TrainingRow& row : log->rows_) text += row_text(row);
  if (!old.ok() || *old != text) MOEBIUS_TRY(write_text_file(path, text));
  log->fd_ = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (log->fd_ < 0) return system_error("write the training log", path, errno);
  return log;
}

TrainingLog::~TrainingLog() {
  if (fd_ >= 0) close(fd_);
}

Status TrainingLog::append(const TrainingRow& row) {
  MOEBIUS_CHECK(rows_.empty() || row.step > rows_.back().step, "steps of a training log ascend");
  const std::string text = row_text(row);
  for (size_t written = 0; written < text.size();) {
    const ssize_t count = write(fd_, text.data() + written, text.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_error("write the training log", path_, errno);
    written += static_cast<size_t>(count);
  }
  rows_.push_back(row);
  return {};
}

}  // namespace moebius
