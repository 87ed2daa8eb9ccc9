// Checkpoint: a folder of safetensors and JSON files as Hugging Face publishes it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "models/file_io.h"
#include "models/safetensors.h"

namespace moebius {

// The folder that `model` names: a folder as it stands, or an id in the Hugging Face cache ("org/name" or
// "org/name@revision": a commit, branch or tag; "main" when left out) that is already on disk.
// cache_dir: the hub folder to look in, the one that holds "models--org--name" (engine/options finds it); ""
// when there is none. Nothing is ever downloaded. kNotFound says where it looked and what is there; kInvalid
// for a malformed id or a snapshot that breaks the rule of check_snapshot_links.
Result<std::string> resolve_model_dir(const std::string& model, const std::string& cache_dir);

// In a snapshot of a Hugging Face cache (models--*/snapshots/*) files are links into the model's blobs;
// kInvalid when one leads out of the hub folder, that is, the folder in which the model's own cache folder
// really lies. Links that lead nowhere are left to whoever opens them. Other folders are the user's own, and
// links in them are followed: always ok.
Status check_snapshot_links(const std::string& dir);

class Checkpoint {
 public:
  // Opens model.safetensors or, without one, the shards that model.safetensors.index.json names. Refused:
  // shard names with separators or "..", shards that are missing (all are named), a tensor in two shards, or
  // one that is not in the shard the index says. A tensor in a shard that the index leaves out is kept.
  static Result<std::unique_ptr<Checkpoint>> open(const std::string& dir);

  const std::string& dir() const { return dir_; }
  const TensorEntry* find(const std::string& name) const;  // null when absent; owned by this checkpoint
  // Shards by name, tensors by offset.
  const std::vector<const TensorEntry*>& tensors() const { return ordered_; }
  // The tensor that `at` points into; null when it is in none.
  const TensorEntry* holding(const void* at) const;
  int64_t total_bytes() const { return total_bytes_; }  // of all tensors
  struct Shard {
    std::string name;             // "model-00001-of-00003.safetensors"
    const SafetensorsFile* file;  // owned by this checkpoint
  };
  const std::vector<Shard>& shards() const { return shards_; }  // by name
  std::vector<MappedFile> mapped() const;                       // the shards, by name
  Status check_unchanged() const;  // SafetensorsFile::check_unchanged() of every shard
  // SafetensorsFile::read_in() of every shard; progress is called with the bytes done and in total.
  Status read_in(const std::function<bool(int64_t done, int64_t total)>& progress) const;

 private:
  struct Place {
    const TensorEntry* entry;
    size_t file;  // index into files_
  };

  Checkpoint() = default;
  Status add_file(const std::string& name);
  Status open_shards(const std::string& index_path);
  std::string dir_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<Shard> shards_;                            // parallel to files_
  std::unordered_map<std::string_view, Place> by_name_;  // keys lie in the entries
  std::vector<const TensorEntry*> ordered_;
  int64_t total_bytes_ = 0;
};

}  // namespace moebius
