#include <fmt/format.h>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "models/file_io.h"
#include "models/safetensors.h"
#include "models/safetensors_header.h"

namespace moebius {
namespace {

constexpr size_t kPieceBytes = size_t{4} << 20;
constexpr size_t kHeaderAlignment = 8;

// text as a JSON string. The library's one way to report text that is not UTF-8 is an exception.
Status append_json_string(const std::string& text, std::string* out) {
  try {
    *out += nlohmann::json(text).dump();
    return {};
  } catch (const nlohmann::json::exception&) {
    return invalid(fmt::format("'{}' is not valid UTF-8; rename it", printable(text)));
  }
}

Status append_metadata(const std::vector<std::pair<std::string, std::string>>& metadata, std::string* json) {
  if (metadata.empty()) return {};
  *json += "\"__metadata__\":{";
  for (size_t i = 0; i < metadata.size(); ++i) {
    if (i > 0) *json += ',';
    MOEBIUS_TRY(append_json_string(metadata[i].first, json));
    *json += ':';
    MOEBIUS_TRY(append_json_string(metadata[i].second, json));
  }
  *json += '}';
  return {};
}

Status append_tensor(const TensorEntry& tensor, uint64_t begin, std::string* json) {
  if (json->size() > 1) *json += ',';
  MOEBIUS_TRY(append_json_string(tensor.name, json));
  *json +=
      fmt::format(":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", dtype_name(tensor.dtype),
                  fmt::join(tensor.shape, ","), begin, begin + static_cast<uint64_t>(tensor.bytes));
  return {};
}

// The declared tensors, wider types first.
std::vector<size_t> file_order(const std::vector<TensorEntry>& tensors) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return dtype_bytes(tensors[a].dtype) > dtype_bytes(tensors[b].dtype);
  });
  return order;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::string path,
                                     std::vector<std::pair<std::string, std::string>> metadata)
    : path_(std::move(path)), metadata_(std::move(metadata)) {}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::declare(std::string name, DType dtype, std::vector<int64_t> shape) {
  MOEBIUS_CHECK(!file_ && !finished_, "declare every tensor before the first append");
  TensorEntry entry{std::move(name), dtype, std::move(shape), nullptr, 0};
  if (!tensor_bytes(dtype, entry.shape, &entry.bytes) && status_.ok()) {
    status_ = invalid(fmt::format("cannot write '{}': tensor '{}' has a shape whose size overflows",
                                  printable(path_, 4096), printable(entry.name)));
  }
  declared_.push_back(std::move(entry));
}

Status SafetensorsWriter::start() {
  std::string json = "{";
  MOEBIUS_TRY(append_metadata(metadata_, &json));
  offsets_.resize(declared_.size());
  int64_t data_bytes = 0;
  for (size_t i : file_order(declared_)) {
    offsets_[i] = static_cast<uint64_t>(data_bytes);
    if (__builtin_add_overflow(data_bytes, declared_[i].bytes, &data_bytes)) {
      return invalid(fmt::format("cannot write '{}': its size overflows", printable(path_, 4096)));
    }
    MOEBIUS_TRY(append_tensor(declared_[i], offsets_[i], &json));
  }
  json += '}';
  json.resize((json.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');
  if (json.size() > kMaxSafetensorsHeaderBytes) {
    return invalid(
        fmt::format("cannot write '{}': its header of {} bytes is beyond the limit of {}; use shards",
                    printable(path_, 4096), json.size(), kMaxSafetensorsHeaderBytes));
  }
  // What the reader refuses is not written.
  if (auto header = parse_safetensors_header(json, static_cast<uint64_t>(data_bytes)); !header.ok()) {
    return invalid(fmt::format("cannot write '{}': {}", printable(path_, 4096), header.status().message()));
  }

  std::string head;
  for (int shift = 0; shift < 64; shift += 8) head += static_cast<char>(json.size() >> shift & 0xFF);
  head += json;
  for (uint64_t& offset : offsets_) offset += head.size();
  MOEBIUS_ASSIGN(file_, AtomicFile::create(path_));
  MOEBIUS_TRY(file_->reserve(head.size() + static_cast<uint64_t>(data_bytes)));
  return file_->write_at(head.data(), head.size(), 0);
}

Status SafetensorsWriter::append(const void* data, size_t bytes) {
  MOEBIUS_CHECK(!finished_, "append after finish");
  if (status_.ok() && !file_) status_ = start();
  const char* from = static_cast<const char*>(data);
  while (status_.ok() && bytes > 0) {
    while (current_ < declared_.size() && filled_ == static_cast<uint64_t>(declared_[current_].bytes)) {
      ++current_;
      filled_ = 0;
    }
    if (current_ == declared_.size()) {
      status_ = invalid(fmt::format("cannot write '{}': {} bytes more than its tensors declare",
                                    printable(path_, 4096), bytes));
      break;
    }
    const auto room = static_cast<uint64_t>(declared_[current_].bytes) - filled_;
    const auto take = static_cast<size_t>(std::min<uint64_t>(bytes, room));
    status_ = place(from, take);
    from += take;
    bytes -= take;
    filled_ += take;
  }
  return status_;
}

// Puts bytes at the current place in the file: small pieces through the buffer, large ones straight.
Status SafetensorsWriter::place(const char* data, size_t bytes) {
  const uint64_t at = offsets_[current_] + filled_;
  if (at != buffer_at_ + buffer_.size() || buffer_.size() + bytes > kPieceBytes) MOEBIUS_TRY(flush());
  if (bytes >= kPieceBytes) return file_->write_at(data, bytes, at);
  if (buffer_.empty()) buffer_at_ = at;
  buffer_.append(data, bytes);
  return {};
}

Status SafetensorsWriter::flush() {
  MOEBIUS_TRY(file_->write_at(buffer_.data(), buffer_.size(), buffer_at_));
  buffer_.clear();
  return {};
}

Status SafetensorsWriter::finish() {
  MOEBIUS_CHECK(!finished_, "finish is called once");
  if (status_.ok() && !file_) status_ = start();
  for (; status_.ok() && current_ < declared_.size(); ++current_, filled_ = 0) {
    const auto needed = static_cast<uint64_t>(declared_[current_].bytes);
    if (filled_ != needed) {
      status_ =
          invalid(fmt::format("cannot write '{}': tensor '{}' has {} of its {} bytes", printable(path_, 4096),
                              printable(declared_[current_].name), filled_, needed));
    }
  }
  if (status_.ok()) status_ = flush();
  if (status_.ok()) status_ = file_->commit();
  finished_ = status_.ok();
  file_.reset();
  return status_;
}

}  // namespace moebius
