#include "server/fine_tuning.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include <fmt/format.h>

#include "engine/options.h"
#include "kernels/backend.h"

namespace moebius {

namespace {

TrainingPlace place_of(const FineTuningOptions& options, const std::string& model) {
  TrainingPlace place;
  place.program = options.program;
  place.model = std::filesystem::absolute(model);
  place.threads = options.threads > 0 ? options.threads : std::max(1, physical_cores() / 2);
  place.memory_bytes = options.memory_bytes > 0 ? options.memory_bytes : machine_memory() / 2;
  return place;
}

}  // namespace

Result<std::unique_ptr<FineTuning>> FineTuning::open(const FineTuningOptions& options,
                                                     const std::string& model, std::vector<std::string> names,
                                                     std::chrono::milliseconds stop, spdlog::logger& log) {
  std::error_code error;
  std::filesystem::create_directories(options.folder, error);
  if (error) return system_error("make folder", options.folder, error.value());
  const std::string folder = std::filesystem::absolute(options.folder), lock = folder + "/lock";
  std::unique_ptr<FineTuning> out(new FineTuning);
  out->lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (out->lock_ < 0) return system_error("write", lock, errno);
  if (::flock(out->lock_, LOCK_EX | LOCK_NB) != 0)
    return invalid(
        fmt::format("another server uses '{}'; give this one another --files-dir", printable(folder)));
  const std::string jobs = folder + "/jobs";
  MOEBIUS_ASSIGN(out->files_,
                 FileStore::open(folder + "/files", options.limits, [jobs] { return bytes_below(jobs); }));
  JobsOptions how;
  how.folder = jobs;
  how.models = std::move(names);
  how.place = place_of(options, model);
  out->threads_ = how.place.threads;
  how.stop = stop;
  MOEBIUS_ASSIGN(out->jobs_, Jobs::open(std::move(how), *out->files_, log));
  return out;
}

FineTuning::~FineTuning() {
  jobs_.reset();
  if (lock_ >= 0) ::close(lock_);
}

}  // namespace moebius
