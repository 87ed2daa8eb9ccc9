// Safetensors: files of named tensors, mapped and read in place, or written in one pass.
//
// Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then the
// data (https://github.com/huggingface/safetensors). Files are hostile until checked: header at most 100 MB,
// at most a million tensors, eight dimensions, sizes by overflow-checked arithmetic, offsets that tile the
// data exactly, no name or field twice, no fields beyond those three.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/status.h"
#include "kernels/tensor.h"

namespace moebius {

class AtomicFile;

// One tensor of a mapped file. data stays valid as long as the file that gave it, and may lie at any address.
struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  int64_t bytes = 0;
};

// A file, open for reading, as it is mapped from its first byte on; valid as long as whoever gave it.
struct MappedFile {
  int file = -1;
  const char* data = nullptr;
  int64_t bytes = 0;
  bool holds(const void* at) const { return at >= data && at < data + bytes; }
};

class SafetensorsFile {
 public:
  // Maps the file read-only, shared with the page cache; only the header's pages are touched, so the cost
  // does not depend on the size of the data. Errors name the file, the tensor and what is wrong with it;
  // kUnsupported for a dtype that Tensor does not have, kInvalid for everything else in the content.
  //
  // The size is checked against the header here, so a file that is short is refused. A file cut short or
  // overwritten by another program while it is mapped cannot be guarded: reading a lost page raises SIGBUS.
  // Replace checkpoints by rename, as SafetensorsWriter does (the mapping then keeps the old file), and see
  // check_unchanged().
  static Result<std::unique_ptr<SafetensorsFile>> open(const std::string& path);
  // The same checks over bytes in memory, which must outlive the result (tests, fuzzing). name: for messages.
  static Result<std::unique_ptr<SafetensorsFile>> parse(std::string_view bytes, const std::string& name);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::vector<TensorEntry>& tensors() const { return tensors_; }  // ordered by offset
  const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }

  // kInvalid when the mapped file was resized or written to since open(): one system call, for callers that
  // would rather stop between two requests than meet SIGBUS or mixed weights. Always ok after parse().
  Status check_unchanged() const;

  // Reads all of the file into memory, a piece at a time; progress is called with the bytes of each piece,
  // and false cancels (kCancelled). Pieces that the page cache does not hold in large pages become memory of
  // the process, in such pages, at the same addresses: others may read the tensors meanwhile. kIo: the disk,
  // or the file was cut short meanwhile. Nothing to do after parse().
  Status read_in(const std::function<bool(int64_t bytes)>& progress) const;
  int64_t bytes() const { return static_cast<int64_t>(mapped_bytes_); }
  // All of it, as mapped; empty after parse().
  std::span<const char> memory() const { return {static_cast<const char*>(mapping_), mapped_bytes_}; }
  MappedFile mapped() const { return {fd_, static_cast<const char*>(mapping_), bytes()}; }  // as memory()

 private:
  SafetensorsFile() = default;
  Status read_header(std::string_view bytes, const std::string& name);
  std::vector<TensorEntry> tensors_;
  std::vector<std::pair<std::string, std::string>> metadata_;
  std::string path_;
  void* mapping_ = nullptr;
  size_t mapped_bytes_ = 0;
  int fd_ = -1;
  int64_t modified_ns_ = 0;  // the file's modification time at open()
};

// Writes a file without holding it in memory: declare every tensor, then append the data in the same order.
// Nothing appears under path before finish(), which syncs a temporary file and renames it. In the file, wider
// types come first (in order of declaration within a width), so that every tensor is aligned to its type,
// which other readers need. After an error every later call returns that error.
class SafetensorsWriter {
 public:
  SafetensorsWriter(std::string path, std::vector<std::pair<std::string, std::string>> metadata = {});
  ~SafetensorsWriter();  // removes the temporary file unless finish() succeeded
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Before the first append(). What the reader would refuse (a name twice, a shape that overflows, text that
  // is not UTF-8) is reported by the next append() or finish().
  void declare(std::string name, DType dtype, std::vector<int64_t> shape);
  // The next bytes of the data, in order of declaration; a tensor may come in several pieces, and one piece
  // may span tensors. The first call claims the disk space of the whole file.
  Status append(const void* data, size_t bytes);
  Status finish();  // kInvalid if fewer bytes were appended than declared; once

 private:
  Status start();
  Status place(const char* data, size_t bytes);
  Status flush();
  std::string path_;
  std::vector<std::pair<std::string, std::string>> metadata_;
  std::vector<TensorEntry> declared_;
  std::vector<uint64_t> offsets_;  // in the file, parallel to declared_; known from start() on
  std::unique_ptr<AtomicFile> file_;
  std::string buffer_;      // small pieces waiting for one large write
  uint64_t buffer_at_ = 0;  // where in the file they belong
  size_t current_ = 0;      // the declared tensor whose bytes come next
  uint64_t filled_ = 0;     // bytes it has so far
  Status status_;
  bool finished_ = false;
};

}  // namespace moebius
