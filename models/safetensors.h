// Safetensors: files of named tensors, mapped and read in place, or written in one pass.
//
// Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then the
// data (https://github.com/huggingface/safetensors). Files are hostile until checked: header at most 100 MB,
// at most a million tensors, eight dimensions, sizes by overflow-checked arithmetic, offsets that tile the
// data exactly.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/status.h"
#include "kernels/tensor.h"

namespace moebius {

// One tensor of a mapped file. data stays valid as long as the file that gave it, and may lie at any address.
struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  int64_t bytes = 0;
};

class SafetensorsFile {
 public:
  // Maps the file read-only. Errors name the file, the tensor and what is wrong with it.
  static Result<std::unique_ptr<SafetensorsFile>> open(const std::string& path);
  // The same checks over bytes in memory, which must outlive the result (tests, fuzzing). name: for messages.
  static Result<std::unique_ptr<SafetensorsFile>> parse(std::string_view bytes, const std::string& name);
  ~SafetensorsFile();

  const std::vector<TensorEntry>& tensors() const { return tensors_; }  // ordered by offset
  const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }

 private:
  SafetensorsFile() = default;
  Status read_header(std::string_view bytes, const std::string& name);
  std::vector<TensorEntry> tensors_;
  std::vector<std::pair<std::string, std::string>> metadata_;
  void* mapping_ = nullptr;
  size_t mapped_bytes_ = 0;
};

// Writes a file front to back without holding it in memory: declare every tensor, then append the data in the
// same order. Nothing appears under path before finish(), which syncs a temporary file and renames it.
class SafetensorsWriter {
 public:
  SafetensorsWriter(std::string path, std::vector<std::pair<std::string, std::string>> metadata = {});
  ~SafetensorsWriter();  // removes the temporary file unless finish() succeeded
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  void declare(std::string name, DType dtype, std::vector<int64_t> shape);
  // The next bytes of the data, in order of declaration; a tensor may come in several pieces.
  Status append(const void* data, size_t bytes);
  Status finish();  // kInvalid if fewer bytes were appended than declared

 private:
  Status write_header();
  std::string path_, temporary_;
  std::vector<std::pair<std::string, std::string>> metadata_;
  std::vector<TensorEntry> declared_;
  int fd_ = -1;
  uint64_t expected_ = 0, written_ = 0;
  bool finished_ = false;
};

}  // namespace moebius
