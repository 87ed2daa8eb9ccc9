#include "engine/options.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <fmt/format.h>

namespace moebius {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

int64_t number_in(const std::string& path, int64_t otherwise) {
  std::ifstream file(path);
  int64_t number = 0;
  return file >> number ? number : otherwise;
}

// The page cache of a control group, from its memory.stat: what can be dropped.
int64_t page_cache_in(const std::string& stat, bool one) {
  std::ifstream file(stat);
  std::string name;
  int64_t bytes = 0, sum = 0;
  while (file >> name >> bytes)
    for (const char* list : {"inactive_file", "active_file"})
      if (name == (one ? "total_" : "") + std::string(list)) sum += bytes;
  return sum;
}

// one: of version 1 of control groups.
int64_t limit_of_group(const std::string& group, bool one) {
  return number_in(group + (one ? "/memory.limit_in_bytes" : "/memory.max"), INT64_MAX);  // "max": no number
}

int64_t left_in_group(const std::string& group, bool one) {
  const int64_t most = limit_of_group(group, one);
  if (most == INT64_MAX) return most;
  const int64_t used = number_in(group + (one ? "/memory.usage_in_bytes" : "/memory.current"), 0);
  return most - used + page_cache_in(group + "/memory.stat", one);
}

// The least of what the control groups of this process (a container's, a service's) say.
int64_t least_of_groups(int64_t (*of_group)(const std::string& group, bool one)) {
  int64_t least = INT64_MAX;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const bool one = line.find(":memory:/") != std::string::npos;
    if (!one && !line.starts_with("0::/")) continue;
    const std::string root = one ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";
    // In a container the group may be the root itself, by whatever name the system outside knows it.
    for (std::string path = line.substr(line.find(":/") + 1);; path.resize(path.rfind('/'))) {
      least = std::min(least, of_group(root + path, one));
      if (path.empty()) break;
    }
  }
  return least;
}

bool is_model_dir(const std::string& dir) {
  struct stat info {};
  return stat((dir + "/config.json").c_str(), &info) == 0;
}

std::string program_dir() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  if (length <= 0) return ".";
  const std::string program(path, static_cast<size_t>(length));
  return program.substr(0, program.rfind('/'));
}

}  // namespace

DType cache_dtype(CacheType asked, bool float32) {
  if (asked == CacheType::kInt8) return DType::kI8;
  return asked == CacheType::kF32 || (asked == CacheType::kAuto && float32) ? DType::kF32 : DType::kBF16;
}

std::string hub_cache_dir() {
  if (const std::string dir = environment("HF_HUB_CACHE"); !dir.empty()) return dir;
  if (const std::string dir = environment("HF_HOME"); !dir.empty()) return dir + "/hub";
  const std::string home = environment("HOME");
  return home.empty() ? "" : home + "/.cache/huggingface/hub";
}

std::string user_data_dir() {
  if (const std::string dir = environment("XDG_DATA_HOME"); !dir.empty()) return dir + "/moebius";
  const std::string home = environment("HOME");
  return home.empty() ? "" : home + "/.local/share/moebius";
}

EngineOptions remembering_experts(EngineOptions options) {
  if (const std::string dir = user_data_dir(); !dir.empty()) options.heat_dir = dir + "/experts";
  return options;
}

int64_t machine_memory() {
  const int64_t pages = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES));
  return std::min(pages * static_cast<int64_t>(sysconf(_SC_PAGESIZE)), least_of_groups(limit_of_group));
}

int64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string name;
  int64_t kilobytes = 0, available = 0;
  for (std::string line; std::getline(file, line);)
    if (std::istringstream fields(line); fields >> name >> kilobytes && name == "MemAvailable:")
      available = kilobytes * 1024;
  return std::min(available, least_of_groups(left_in_group));
}

bool no_color() { return !environment("NO_COLOR").empty(); }

Result<std::string> default_model_dir() {
  const std::string root = std::filesystem::path(program_dir()).parent_path().string();
  std::string tried;
  for (const char* place :
       {"/models/pebble", "/share/moebius/pebble", "/tests/golden/models/deepseek_v3_tiny"}) {
    if (is_model_dir(root + place)) return root + place;
    tried += fmt::format(" {}{}", root, place);
  }
  return not_found(fmt::format("no model given and none shipped (looked in{}); name one with -m", tried));
}

}  // namespace moebius
