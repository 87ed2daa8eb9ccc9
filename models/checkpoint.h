// Checkpoint: a folder of safetensors and JSON files as Hugging Face publishes it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "models/safetensors.h"

namespace moebius {

// The folder that `model` names: a folder as it stands, or a Hugging Face cache id ("org/name" or
// "org/name@revision") already on disk under $HF_HUB_CACHE, $HF_HOME/hub or ~/.cache/huggingface/hub.
// cache_dir: the hub folder to look in; "" means by those variables as `hub_cache_dir` in engine/options gave
// it. Nothing is ever downloaded; kNotFound says where it looked.
Result<std::string> resolve_model_dir(const std::string& model, const std::string& cache_dir);

// Reads a whole small file (JSON, template). kNotFound, kIo, or kInvalid when larger than max_bytes.
Result<std::string> read_text_file(const std::string& path, size_t max_bytes);

// Writes text through a temporary file, fsync and rename.
Status write_text_file(const std::string& path, std::string_view text);

class Checkpoint {
 public:
  // Opens model.safetensors, or the shards of model.safetensors.index.json (names with separators or ".." are
  // refused, missing shards named, a tensor in two shards or in the wrong one refused).
  static Result<std::unique_ptr<Checkpoint>> open(const std::string& dir);

  const std::string& dir() const { return dir_; }
  const TensorEntry* find(const std::string& name) const;  // null when absent; owned by this checkpoint
  const std::vector<const TensorEntry*>& tensors() const { return ordered_; }
  int64_t total_bytes() const { return total_bytes_; }

 private:
  Checkpoint() = default;
  std::string dir_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::unordered_map<std::string, const TensorEntry*> by_name_;
  std::vector<const TensorEntry*> ordered_;
  int64_t total_bytes_ = 0;
};

}  // namespace moebius
