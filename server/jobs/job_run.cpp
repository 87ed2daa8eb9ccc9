#include "server/jobs/job_run.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>

#include <fmt/format.h>

#include "models/file_io.h"
#include "server/json_input.h"

namespace moebius {

namespace {

constexpr size_t kSmallFile = 1 << 20, kTail = 8192, kMessage = 1024;

std::string tail_of(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "";
  const off_t size = ::lseek(fd, 0, SEEK_END);
  std::string text(kTail, '\0');
  const off_t from = size > static_cast<off_t>(kTail) ? size - static_cast<off_t>(kTail) : 0;
  const ssize_t got = ::pread(fd, text.data(), text.size(), from);
  ::close(fd);
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return text;
}

void replace_all(std::string& text, const std::string& what, const std::string& with) {
  for (size_t at = 0; !what.empty() && (at = text.find(what, at)) != std::string::npos; at += with.size())
    text.replace(at, what.size(), with);
}

}  // namespace

Result<std::unique_ptr<JobRun>> JobRun::start(const JobFolder& folder, const Job& job,
                                              const TrainingPlace& place) {
  std::unique_ptr<JobRun> run(new JobRun(folder, place));
  run->lock_ = ::open(folder.lock().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (run->lock_ < 0) return system_error("write", folder.lock(), errno);
  if (::flock(run->lock_, LOCK_EX | LOCK_NB) != 0)
    return Status(Code::kCancelled, "an earlier run of this job has not ended yet");
  std::error_code ignored;
  std::filesystem::remove(folder.adapter() + "/run.json", ignored);  // which then tells of this run
  ChildOptions child;
  child.program = place.program;
  child.arguments = {"finetune",
                     "--resume",
                     "--model=" + place.model,
                     "--data=" + folder.train(),
                     "--out=" + folder.adapter(),
                     fmt::format("--parent={}", ::getpid()),
                     fmt::format("--threads={}", place.threads),
                     fmt::format("--keep={}", kKeptCheckpoints)};
  if (!job.request.validation_file.empty()) child.arguments.push_back("--eval-data=" + folder.valid());
  for (std::string& argument : finetune_arguments(job.request))
    child.arguments.push_back(std::move(argument));
  child.output = folder.output();
  child.kept_open = run->lock_;
  child.memory_bytes = place.memory_bytes;
  MOEBIUS_ASSIGN(run->child_, Child::start(child));
  return run;
}

JobRun::~JobRun() {
  child_.reset();
  if (lock_ >= 0) ::close(lock_);
}

int64_t JobRun::total_steps() const {
  if (total_steps_ > 0) return total_steps_;
  const Result<std::string> text = read_text_file(folder_.adapter() + "/run.json", kSmallFile);
  if (!text.ok()) return 0;
  const Result<Json> about = parse_json(*text);
  if (!about.ok() || !about->is_object() || !about->contains("steps")) return 0;
  const Json& steps = (*about)["steps"];
  if (steps.is_number_integer()) total_steps_ = steps.get<int64_t>();
  return total_steps_;
}

std::vector<TrainingRow> JobRun::rows_after(int64_t step) {
  if (total_steps() == 0) return {};  // the log may be that of an earlier run still
  Result<std::vector<TrainingRow>> rows = read_new_rows(folder_.adapter() + "/log.csv", log_offset_);
  if (!rows.ok()) return {};
  std::erase_if(*rows, [&](const TrainingRow& row) { return row.step <= step; });
  return std::move(*rows);
}

std::string JobRun::last_words(const Job& job) const {
  constexpr std::string_view kMark = "moebius: ";
  std::string text = tail_of(folder_.output());
  while (text.ends_with('\n')) text.pop_back();
  text.erase(0, text.rfind('\n') + 1);
  if (text.starts_with(kMark)) text.erase(0, kMark.size());
  replace_all(text, folder_.train(), job.request.training_file);
  replace_all(text, folder_.valid(), job.request.validation_file);
  replace_all(text, folder_.path(), job.id);
  replace_all(text, place_.model, job.request.model);
  return printable(text, kMessage);
}

}  // namespace moebius
