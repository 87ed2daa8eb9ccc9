#include "models/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "kernels/mapped.h"
#include "models/file_io.h"
#include "models/safetensors_header.h"

namespace moebius {
namespace {

constexpr uint64_t kLengthBytes = 8;

Status malformed(const std::string& name, const std::string& what) {
  return invalid(
      fmt::format("'{}' cannot be read: {}; download or make the file again", printable(name, 4096), what));
}

int64_t modified_ns(const struct stat& info) {
  return static_cast<int64_t>(info.st_mtim.tv_sec) * 1'000'000'000 + info.st_mtim.tv_nsec;
}

uint64_t little_endian_u64(std::string_view bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(bytes[static_cast<size_t>(i)]);
  return value;
}

}  // namespace

Result<std::unique_ptr<SafetensorsFile>> SafetensorsFile::open(const std::string& path) {
  auto file = std::unique_ptr<SafetensorsFile>(new SafetensorsFile());
  file->path_ = path;
  // O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
  file->fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file->fd_ < 0) return system_error("open", path, errno);
  struct stat info {};
  if (::fstat(file->fd_, &info) != 0) return system_error("open", path, errno);
  if (!S_ISREG(info.st_mode)) {
    return io_error(fmt::format("cannot open '{}': it is not a regular file", printable(path, 4096)));
  }
  if (info.st_size == 0) return malformed(path, "it is empty");
  const auto bytes = static_cast<size_t>(info.st_size);
  void* mapping = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file->fd_, 0);
  if (mapping == MAP_FAILED) return system_error("map", path, errno);
  file->mapping_ = mapping;
  file->mapped_bytes_ = bytes;
  prefer_large_pages(mapping, bytes);  // experts are runs of megabytes
  file->modified_ns_ = modified_ns(info);
  MOEBIUS_TRY(file->read_header({static_cast<const char*>(mapping), bytes}, path));
  return file;
}

Result<std::unique_ptr<SafetensorsFile>> SafetensorsFile::parse(std::string_view bytes,
                                                                const std::string& name) {
  auto file = std::unique_ptr<SafetensorsFile>(new SafetensorsFile());
  MOEBIUS_TRY(file->read_header(bytes, name));
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (mapping_) ::munmap(mapping_, mapped_bytes_);
  if (fd_ >= 0) ::close(fd_);
}

Status SafetensorsFile::check_unchanged() const {
  if (fd_ < 0) return {};
  struct stat info {};
  if (::fstat(fd_, &info) != 0) return system_error("check", path_, errno);
  if (static_cast<size_t>(info.st_size) == mapped_bytes_ && modified_ns(info) == modified_ns_) return {};
  return invalid(fmt::format("'{}' was changed by another program while in use; open the model again",
                             printable(path_, 4096)));
}

Status SafetensorsFile::read_in(const std::function<bool(int64_t bytes)>& progress) const {
  constexpr size_t kPiece = size_t{64} << 20;
  const size_t ahead_of_page = reinterpret_cast<uintptr_t>(mapping_) % kLargePage;
  for (size_t at = 0, bytes; at < mapped_bytes_; at += bytes) {
    bytes =
        std::min(at == 0 ? kPiece - ahead_of_page : kPiece, mapped_bytes_ - at);  // ends with a large page
    const char* piece = static_cast<const char*>(mapping_) + at;
    if (at + bytes < mapped_bytes_) will_need(piece + bytes, std::min(kPiece, mapped_bytes_ - at - bytes));
    if (!moebius::read_in(piece, bytes))
      return io_error(
          fmt::format("cannot read '{}' beyond byte {}: it was cut short, or the disk failed; fetch the "
                      "file again",
                      printable(path_, 4096), at));
    // Where this fails they stay as they are, and are slower.
    if (!in_large_pages(piece, bytes)) copy_to_large_pages(fd_, static_cast<int64_t>(at), piece, bytes);
    if (!progress(static_cast<int64_t>(bytes))) return Status(Code::kCancelled, "loading was cancelled");
  }
  return Status();
}

Status SafetensorsFile::read_header(std::string_view bytes, const std::string& name) {
  if (bytes.size() < kLengthBytes) {
    return malformed(name, fmt::format("{} bytes are too few for a safetensors file", bytes.size()));
  }
  const uint64_t header_bytes = little_endian_u64(bytes);
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    return malformed(name, fmt::format("its header claims {} bytes, beyond the limit of {}; it may not be a "
                                       "safetensors file",
                                       header_bytes, kMaxSafetensorsHeaderBytes));
  }
  if (header_bytes > bytes.size() - kLengthBytes) {
    return malformed(name, fmt::format("its header claims {} bytes, but only {} follow", header_bytes,
                                       bytes.size() - kLengthBytes));
  }
  const std::string_view data = bytes.substr(kLengthBytes + header_bytes);
  auto header = parse_safetensors_header(bytes.substr(kLengthBytes, header_bytes), data.size());
  if (header.status().code() == Code::kUnsupported) {
    return unsupported(fmt::format("'{}' cannot be read: {}; use a checkpoint in one of those",
                                   printable(name, 4096), header.status().message()));
  }
  if (!header.ok()) return malformed(name, header.status().message());
  tensors_ = std::move(header->tensors);
  metadata_ = std::move(header->metadata);
  const char* at = data.data();
  for (TensorEntry& tensor : tensors_) {
    tensor.data = at;
    at += tensor.bytes;
  }
  return {};
}

}  // namespace moebius
