#include "models/checkpoint.h"

#include <fmt/format.h>
#include <algorithm>
#include <filesystem>
#include <map>

#include "models/shard_index.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = 200'000'000;
constexpr size_t kMaxShards = 4096;
constexpr size_t kMaxListed = 32;

std::string shown(const std::string& path) { return printable(path, 4096); }

// "'a', 'b' and 3 more"
std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kMaxListed); ++i) {
    text += fmt::format("{}'{}'", i ? ", " : "", printable(names[i]));
  }
  if (names.size() > kMaxListed) text += fmt::format(" and {} more", names.size() - kMaxListed);
  return text;
}

// Why dir holds no checkpoint, by what it holds instead.
Status no_checkpoint(const std::string& dir) {
  std::vector<std::string> weights;
  bool gguf = false, pickle = false, safetensors = false;
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string(), extension = it->path().extension().string();
    gguf = gguf || extension == ".gguf";
    pickle = pickle || extension == ".bin" || extension == ".pt" || extension == ".pth";
    safetensors = safetensors || extension == ".safetensors";
    if (extension == ".safetensors" || extension == ".gguf" || name.starts_with("pytorch_model")) {
      weights.push_back(name);
    }
  }
  std::sort(weights.begin(), weights.end());
  const std::string found = weights.empty() ? "" : fmt::format(", only {}", listed(weights));
  const char* remedy = safetensors ? "complete the download, or name a lone file model.safetensors"
                       : gguf      ? "GGUF is not read here, get the original safetensors checkpoint"
                       : pickle    ? "pickled weights are not read, get or convert to safetensors"
                                   : "give the folder of a safetensors checkpoint";
  return not_found(
      fmt::format("'{}' holds neither {} nor {}{}; {}", shown(dir), kSingle, kIndex, found, remedy));
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> Checkpoint::open(const std::string& dir) {
  std::error_code error;
  if (!fs::is_directory(dir, error)) {
    return not_found(
        fmt::format("'{}' is not a folder; give the folder of a safetensors checkpoint", shown(dir)));
  }
  MOEBIUS_TRY(check_snapshot_links(dir));
  auto checkpoint = std::unique_ptr<Checkpoint>(new Checkpoint());
  checkpoint->dir_ = dir;
  // A link whose target is missing counts as there: the failed open then says so.
  if (fs::symlink_status(fs::path(dir) / kSingle, error).type() != fs::file_type::not_found) {
    MOEBIUS_TRY(checkpoint->add_file(kSingle));
    return checkpoint;
  }
  const fs::path index = fs::path(dir) / kIndex;
  if (fs::symlink_status(index, error).type() == fs::file_type::not_found) return no_checkpoint(dir);
  MOEBIUS_TRY(checkpoint->open_shards(index.string()));
  return checkpoint;
}

Status Checkpoint::add_file(const std::string& name) {
  MOEBIUS_ASSIGN(auto file, SafetensorsFile::open((fs::path(dir_) / name).string()));
  by_name_.reserve(by_name_.size() + file->tensors().size());
  for (const TensorEntry& tensor : file->tensors()) {
    if (!by_name_.emplace(tensor.name, Place{&tensor, files_.size()}).second) {
      return invalid(
          fmt::format("'{}': tensor '{}' of '{}' is in another shard too; download the checkpoint again",
                      shown(dir_), printable(tensor.name), printable(name)));
    }
    ordered_.push_back(&tensor);
    total_bytes_ += tensor.bytes;  // at most what is mapped, so no overflow
  }
  shards_.push_back({name, file.get()});
  files_.push_back(std::move(file));
  return {};
}

Status Checkpoint::open_shards(const std::string& index_path) {
  MOEBIUS_ASSIGN(const std::string json, read_text_file(index_path, kMaxIndexBytes));
  MOEBIUS_ASSIGN(const auto weight_map, parse_shard_index(json, index_path));
  std::map<std::string, size_t> shards;  // name -> index into files_, in order of the names
  for (const auto& [tensor, shard] : weight_map) {
    shards.emplace(shard, 0);
    if (shards.size() > kMaxShards) {
      return invalid(
          fmt::format("'{}' names more than {} shards; download it again", shown(index_path), kMaxShards));
    }
  }
  std::vector<std::string> missing;
  for (const auto& [shard, at] : shards) {
    std::error_code error;
    if (fs::status(fs::path(dir_) / shard, error).type() == fs::file_type::not_found)
      missing.push_back(shard);
  }
  if (!missing.empty()) {
    return not_found(fmt::format("'{}' lacks {} of its {} shards: {}; complete the download", shown(dir_),
                                 missing.size(), shards.size(), listed(missing)));
  }
  for (auto& [shard, at] : shards) {
    at = files_.size();
    MOEBIUS_TRY(add_file(shard));
  }
  for (const auto& [tensor, shard] : weight_map) {
    const auto found = by_name_.find(tensor);
    if (found == by_name_.end() || found->second.file != shards.at(shard)) {
      return invalid(fmt::format(
          "'{}': tensor '{}' is {}not in '{}' as the index says; download the checkpoint again", shown(dir_),
          printable(tensor), found == by_name_.end() ? "" : "in another shard and ", printable(shard)));
    }
  }
  return {};
}

const TensorEntry* Checkpoint::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second.entry;
}

const TensorEntry* Checkpoint::holding(const void* at) const {
  const char* byte = static_cast<const char*>(at);
  for (const Shard& shard : shards_) {
    const std::vector<TensorEntry>& tensors = shard.file->tensors();
    const auto begins_after = [](const char* p, const TensorEntry& t) {
      return p < static_cast<const char*>(t.data);
    };
    auto tensor = std::upper_bound(tensors.begin(), tensors.end(), byte, begins_after);
    while (tensor != tensors.begin() && (--tensor)->bytes == 0) {
    }
    if (tensor == tensors.end()) continue;
    const char* begin = static_cast<const char*>(tensor->data);
    if (byte >= begin && byte < begin + tensor->bytes) return &*tensor;
  }
  return nullptr;
}

std::vector<MappedFile> Checkpoint::mapped() const {
  std::vector<MappedFile> mapped;
  for (const auto& file : files_) mapped.push_back(file->mapped());
  return mapped;
}

Status Checkpoint::check_unchanged() const {
  for (const auto& file : files_) MOEBIUS_TRY(file->check_unchanged());
  return {};
}

Status Checkpoint::read_in(const std::function<bool(int64_t done, int64_t total)>& progress) const {
  int64_t done = 0, total = 0;
  for (const auto& file : files_) total += file->bytes();
  for (const auto& file : files_)
    MOEBIUS_TRY(file->read_in([&](int64_t bytes) { return progress(done += bytes, total); }));
  return Status();
}

}  // namespace moebius
