#include <fmt/format.h>
#include <algorithm>
#include <cctype>
#include <filesystem>
#include <vector>

#include "models/checkpoint.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxRefBytes = 256;
constexpr size_t kMaxNamed = 8;
constexpr int kMaxFolderDepth = 16;

std::string shown(const fs::path& path) { return printable(path.string(), 4096); }

// One part of an id or a revision: what the hub allows, and nothing that moves about in the file system.
bool plain_part(std::string_view part) {
  const bool allowed = std::all_of(part.begin(), part.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '-' || c == '_' || c == '.' || c == '+';
  });
  return !part.empty() && part.size() <= 128 && allowed && part.front() != '.' &&
         part.find("..") == part.npos;
}

bool plain_parts(std::string_view text, size_t most) {
  size_t parts = 0;
  while (true) {
    const size_t slash = text.find('/');
    if (++parts > most || !plain_part(text.substr(0, slash))) return false;
    if (slash == text.npos) return true;
    text.remove_prefix(slash + 1);
  }
}

bool is_commit(std::string_view text) {
  return text.size() >= 7 && text.size() <= 64 &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isxdigit(c); });
}

// "'a', 'b'" of the entries of a folder; "" when there are none.
std::string entries_of(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kMaxNamed); ++i) {
    text += fmt::format("{}'{}'", i ? ", " : "", printable(names[i]));
  }
  return names.size() > kMaxNamed ? text + ", ..." : text;
}

// The commit that a revision means in the cache folder of one model.
Result<std::string> find_commit(const fs::path& repository, const std::string& revision,
                                const std::string& model) {
  std::error_code error;
  if (is_commit(revision) && fs::is_directory(repository / "snapshots" / revision, error)) return revision;
  auto text = read_text_file((repository / "refs" / revision).string(), kMaxRefBytes);
  if (!text.ok()) {
    const std::string refs = entries_of(repository / "refs"),
                      snapshots = entries_of(repository / "snapshots");
    return not_found(
        fmt::format("'{}' has no revision '{}' in '{}' (revisions: {}; commits: {}); download it or name "
                    "one that is there with @revision",
                    printable(model), printable(revision), shown(repository), refs.empty() ? "none" : refs,
                    snapshots.empty() ? "none" : snapshots));
  }
  std::string commit = *text;
  while (!commit.empty() && std::isspace(static_cast<unsigned char>(commit.back()))) commit.pop_back();
  if (!is_commit(commit)) {
    return invalid(fmt::format("'{}' does not hold a commit; download the model again",
                               shown(repository / "refs" / revision)));
  }
  return commit;
}

Result<std::string> find_in_cache(const std::string& model, const fs::path& cache_dir) {
  const size_t at = model.find('@');
  const std::string id = model.substr(0, at);
  const std::string revision = at == model.npos ? "main" : model.substr(at + 1);
  if (!plain_parts(id, 2) || id.find("--") != id.npos || !plain_parts(revision, 8)) {
    return invalid(
        fmt::format("'{}' is neither a folder nor an id like org/name or org/name@revision; check the "
                    "spelling",
                    printable(model, 4096)));
  }
  std::string folder = "models--" + id;
  if (const size_t slash = folder.find('/'); slash != folder.npos) folder.replace(slash, 1, "--");
  std::error_code error;
  const fs::path repository = fs::canonical(cache_dir / folder, error);
  if (error || !fs::is_directory(repository, error)) {
    return not_found(
        fmt::format("no model '{}': neither a folder of that name nor '{}' exists; check the name, or "
                    "download it first (hf download {})",
                    printable(model), shown(cache_dir / folder), id));
  }
  MOEBIUS_ASSIGN(const std::string commit, find_commit(repository, revision, model));
  const fs::path snapshot = repository / "snapshots" / commit;
  if (!fs::is_directory(snapshot, error)) {
    return not_found(
        fmt::format("'{}' has no snapshot '{}', though revision '{}' is that commit; download it again",
                    shown(repository), commit, revision));
  }
  if (fs::canonical(snapshot, error) != snapshot) {
    return invalid(
        fmt::format("'{}' is a link to another place, which no Hugging Face cache has; download the model "
                    "again",
                    shown(snapshot)));
  }
  MOEBIUS_TRY(check_snapshot_links(snapshot.string()));
  return (cache_dir / folder / "snapshots" / commit).string();
}

bool lies_within(const fs::path& path, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first == folder.end();
}

}  // namespace

Result<std::string> resolve_model_dir(const std::string& model, const std::string& cache_dir) {
  if (model.empty()) return invalid("no model was named; give a folder or an id like org/name");
  if (model.find('\0') != model.npos) return invalid("the model's name holds a zero byte");
  std::error_code error;
  const fs::file_type type = fs::status(model, error).type();
  if (type == fs::file_type::directory) {
    MOEBIUS_TRY(check_snapshot_links(model));
    return model;
  }
  if (type != fs::file_type::not_found && type != fs::file_type::none) {
    return invalid(fmt::format("'{}' is a file; give the folder of a checkpoint", printable(model, 4096)));
  }
  if (model.front() == '/' || model.front() == '.' || model.front() == '~') {
    return not_found(fmt::format("no folder '{}'; check the path", printable(model, 4096)));
  }
  if (cache_dir.empty()) {
    return not_found(
        fmt::format("no folder '{}', and no Hugging Face cache to look in; give a folder or set HF_HOME",
                    printable(model, 4096)));
  }
  return find_in_cache(model, cache_dir);
}

Status check_snapshot_links(const std::string& dir) {
  std::error_code error;
  const fs::path snapshot = fs::canonical(dir, error);
  if (error) return system_error("open", dir, error.value());
  const fs::path repository = snapshot.parent_path().parent_path();
  if (snapshot.parent_path().filename() != "snapshots" ||
      !repository.filename().string().starts_with("models--")) {
    return {};
  }
  const fs::path hub = repository.parent_path();
  fs::recursive_directory_iterator it(snapshot, error), end;
  for (; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it.depth() > kMaxFolderDepth) {
      return invalid(fmt::format("'{}' is nested too deep; download the model again", shown(it->path())));
    }
    if (!it->is_symlink(ignored)) continue;
    std::error_code dangling;
    const fs::path target = fs::canonical(it->path(), dangling);
    if (!dangling && !lies_within(target, hub)) {
      return invalid(
          fmt::format("'{}' leads to '{}', out of the Hugging Face cache; download the model again",
                      shown(it->path()), shown(target)));
    }
  }
  return error ? system_error("open", dir, error.value()) : Status();
}

}  // namespace moebius
