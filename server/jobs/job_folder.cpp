#include "server/jobs/job_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <filesystem>

#include <fmt/format.h>

#include "models/file_io.h"
#include "server/json_input.h"

namespace moebius {

namespace {

namespace fs = std::filesystem;

constexpr size_t kStateBytes = 1 << 20, kEventBytes = size_t{256} << 20;

// A link keeps the data when the file is deleted; where there are none between these folders, a copy.
Status take_data(const std::string& from, const std::string& to) {
  std::error_code error;
  fs::create_hard_link(from, to, error);
  if (error) fs::copy_file(from, to, error);
  return error ? system_error("copy", from, error.value()) : Status();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1)
    lines.push_back(text.substr(at, end - at));
  return lines;
}

// null where the value is no object or has no such member.
Json member(const Json& json, const char* key) {
  return json.is_object() && json.contains(key) ? json[key] : Json(nullptr);
}

}  // namespace

Status JobFolder::create(const std::string& train_file, const std::string& valid_file) const {
  std::error_code error;
  fs::create_directory(path_, error);
  if (error) return system_error("make folder", path_, error.value());
  fs::permissions(path_, fs::perms::owner_all, error);
  MOEBIUS_TRY(take_data(train_file, train()));
  return valid_file.empty() ? Status() : take_data(valid_file, valid());
}

void JobFolder::remove() const {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void JobFolder::drop_data() const {
  std::error_code ignored;
  for (const std::string& path : {train(), valid(), adapter() + "/checkpoints"})
    fs::remove_all(path, ignored);
}

Status JobFolder::save(const Job& job) const {
  return write_text_file(path_ + "/job.json", ApiError::to_text(job.state()));
}

Result<Job> JobFolder::load() const {
  MOEBIUS_ASSIGN(const std::string text, read_text_file(path_ + "/job.json", kStateBytes));
  MOEBIUS_ASSIGN(const Json state, parse_json(text));
  std::optional<Job> job = job_of_state(state);
  if (!job || job->id != fs::path(path_).filename())
    return invalid(
        fmt::format("'{}/job.json' is not the state of a job; remove that folder", printable(path_)));
  const Result<std::string> said = read_text_file(events_path(), kEventBytes);
  if (said.ok() && !said->ends_with('\n'))
    MOEBIUS_TRY(write_text_file(events_path(), said->substr(0, said->rfind('\n') + 1)));
  const std::vector<std::string> lines = events();
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
    const Json step = member(member(Json::parse(*line, nullptr, false), "data"), "step");
    if (!step.is_number_integer()) continue;
    job->steps = std::max(job->steps, step.get<int64_t>());
    break;
  }
  return *job;
}

Status JobFolder::add_event(EventLevel level, const std::string& message, const Json& data) const {
  constexpr const char* kLevels[] = {"info", "warn", "error"};
  Json event = {{"created_at", std::time(nullptr)},
                {"level", kLevels[static_cast<size_t>(level)]},
                {"message", message}};
  if (!data.is_null()) event["data"] = data;
  const std::string line = ApiError::to_text(event) + '\n';
  const int fd = ::open(events_path().c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0) return system_error("write", events_path(), errno);
  const ssize_t put = ::write(fd, line.data(), line.size());
  const int error = put == static_cast<ssize_t>(line.size()) ? 0 : put < 0 ? errno : ENOSPC;
  ::close(fd);
  return error == 0 ? Status() : system_error("write", events_path(), error);
}

std::vector<std::string> JobFolder::events() const {
  const Result<std::string> text = read_text_file(events_path(), kEventBytes);
  return text.ok() ? lines_of(*text) : std::vector<std::string>();
}

std::string JobFolder::event_id(const std::string& job, int64_t index) {
  return fmt::format("ftevent-{}-{}", job.substr(job.find('-') + 1), index);
}

Json JobFolder::event(const std::string& job, int64_t index, const std::string& line) {
  const Json kept = Json::parse(line, nullptr, false);
  const Json data = member(kept, "data");
  return {{"object", "fine_tuning.job.event"},
          {"id", event_id(job, index)},
          {"created_at", member(kept, "created_at")},
          {"level", member(kept, "level")},
          {"message", member(kept, "message")},
          {"data", data},
          {"type", data.is_null() ? "message" : "metrics"}};
}

std::string JobFolder::checkpoint(int64_t step) const {
  return fmt::format("{}/step-{:06}", adapter(), step);
}

int64_t bytes_below(const std::string& folder) {
  int64_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;
    if (!it->is_regular_file(gone) || it->hard_link_count(gone) > 1) continue;
    const auto size = it->file_size(gone);
    if (!gone) bytes += static_cast<int64_t>(size);
  }
  return bytes;
}

}  // namespace moebius
