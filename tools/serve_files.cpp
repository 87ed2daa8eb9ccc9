#include "tools/serve_files.h"

#include <filesystem>

#include "tools/size_text.h"

namespace moebius {

void add_files_options(CLI::App& app, FineTuningOptions& o) {
  std::error_code error;
  o.program = std::filesystem::read_symlink("/proc/self/exe", error);
  app.add_option("--files-dir", o.folder,
                 "folder that this server may write: lets clients give files and start fine-tuning jobs "
                 "(default: none)");
  app.add_option("--max-file-size", o.limits.file_bytes,
                 "of a file that clients give, as 512MiB (the default)")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--files-quota", o.limits.folder_bytes,
                 "of all files and jobs together, as 16GiB (the default)")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--finetune-threads", o.threads,
                 "CPU threads of a fine-tuning job (default: half of the cores)")
      ->check(CLI::Range(1, 4096));
  add_size(app, "--finetune-memory", o.memory_bytes,
           "that a job may take beside the model's file (default: half of the machine's)");
}

}  // namespace moebius
