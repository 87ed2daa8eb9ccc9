// FineTuning: what a server with a folder for files has: the files, and the jobs that train on them.
#pragma once

#include <memory>

#include "server/jobs/jobs.h"

namespace moebius {

inline constexpr const char* kFilesPath = "/v1/files";  // where files are posted

struct FineTuningOptions {
  std::string folder;        // "": none; else it is this server's alone
  FileLimits limits;         // folder_bytes counts jobs too
  std::string program;       // the path of `moebius`
  int threads = 0;           // of training; 0: half of the cores
  int64_t memory_bytes = 0;  // that training may write to; 0: half of the machine's
};

class FineTuning {
 public:
  // model: folder of the base, and its names. kInvalid: another server has the folder.
  static Result<std::unique_ptr<FineTuning>> open(const FineTuningOptions& options, const std::string& model,
                                                  std::vector<std::string> names,
                                                  std::chrono::milliseconds stop, spdlog::logger& log);
  ~FineTuning();

  int threads() const { return threads_; }  // that work on files and jobs may take
  FileStore& files() { return *files_; }
  Jobs& jobs() { return *jobs_; }

 private:
  FineTuning() = default;
  int lock_ = -1, threads_ = 1;
  std::unique_ptr<FileStore> files_;
  std::unique_ptr<Jobs> jobs_;
};

}  // namespace moebius
