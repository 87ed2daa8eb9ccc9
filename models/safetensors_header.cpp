#include "models/safetensors_header.h"

#include <fmt/format.h>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <unordered_set>

#include "models/file_io.h"

namespace moebius {
namespace {

constexpr size_t kMaxDims = 8;
constexpr const char* kReadable = "F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I16 I8 U64 U32 U16 U8 BOOL";

std::optional<DType> dtype_named(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i) {
    if (name == dtype_name(static_cast<DType>(i))) return static_cast<DType>(i);
  }
  return std::nullopt;
}

// Receives the events of the JSON parser. Each place in the header allows few events; any other stops the
// parse, which also bounds the depth at three.
class HeaderEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderEvents(uint64_t data_bytes) : data_bytes_(data_bytes) {}

  SafetensorsHeader header;
  std::vector<uint64_t> begins;  // parallel to header.tensors
  Status status;

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("true or false"); }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return unexpected("a number that is not a 64-bit integer");
  }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::kShape) {
      if (shape_.size() == kMaxDims) return fail(fmt::format("has more than {} dimensions", kMaxDims));
      if (value > static_cast<uint64_t>(INT64_MAX)) return fail("has a dimension beyond 63 bits");
      shape_.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ != Place::kOffsets) return unexpected("a number");
    if (offset_count_ == 2) return fail("has more than two data_offsets");
    offsets_[offset_count_++] = value;
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      header.metadata.emplace_back(std::move(metadata_key_), std::move(value));
      return true;
    }
    if (place_ != Place::kTensor || field_ != kDtype) return unexpected("a string");
    dtype_ = dtype_named(value);
    if (!dtype_) {
      status = unsupported(fmt::format("tensor '{}' has dtype '{}', which is not among those read here: {}",
                                       printable(name_), printable(value), kReadable));
    }
    return dtype_.has_value();
  }

  bool start_object(size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
      return true;
    }
    if (place_ != Place::kTop) return unexpected("an object");
    place_ = name_ == "__metadata__" ? Place::kMetadata : Place::kTensor;
    if (place_ == Place::kMetadata && std::exchange(metadata_seen_, true)) {
      return fail("stands twice");
    }
    fields_seen_ = 0;
    return true;
  }

  bool key(string_t& value) override {
    if (place_ == Place::kTop) {
      name_ = std::move(value);
      return true;
    }
    if (place_ == Place::kMetadata) {
      metadata_key_ = std::move(value);
      return true;
    }
    field_ = value == "dtype" ? kDtype : value == "shape" ? kShape : value == "data_offsets" ? kOffsets : 0;
    if (field_ == 0) return fail(fmt::format("has an unknown field '{}'", printable(value)));
    if (fields_seen_ & field_) return fail(fmt::format("has the field '{}' twice", value));
    fields_seen_ |= field_;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTop) return true;
    const bool tensor = place_ == Place::kTensor;
    place_ = Place::kTop;
    return tensor ? end_tensor() : true;
  }

  bool start_array(size_t) override {
    if (place_ == Place::kTensor && field_ == kShape) {
      place_ = Place::kShape;
      shape_.clear();
      return true;
    }
    if (place_ != Place::kTensor || field_ != kOffsets) return unexpected("an array");
    place_ = Place::kOffsets;
    offset_count_ = 0;
    return true;
  }

  bool end_array() override {
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    status = invalid(fmt::format("the header is not valid JSON at byte {}", position));
    return false;
  }

 private:
  enum class Place { kStart, kTop, kTensor, kShape, kOffsets, kMetadata };
  enum Field { kDtype = 1, kShape = 2, kOffsets = 4 };

  bool fail(const std::string& what) {
    status = invalid(fmt::format("tensor '{}' {}", printable(name_), what));
    return false;
  }
  bool unexpected(const char* what) {
    if (place_ == Place::kStart) {
      status = invalid(fmt::format("the header is {}, not an object", what));
      return false;
    }
    return fail(fmt::format("has {} where the format allows none", what));
  }

  bool end_tensor() {
    if (!(fields_seen_ & kDtype)) return fail("has no dtype");
    if (!(fields_seen_ & kShape)) return fail("has no shape");
    if (!(fields_seen_ & kOffsets) || offset_count_ != 2) return fail("has no pair of data_offsets");
    const auto [begin, end] = std::pair(offsets_[0], offsets_[1]);
    int64_t bytes = 0;
    if (!tensor_bytes(*dtype_, shape_, &bytes)) return fail("has a shape whose size overflows");
    if (begin > end) return fail(fmt::format("ends at {}, before its start at {}", end, begin));
    if (end > data_bytes_) {
      return fail(fmt::format("ends at {}, but the file has {} bytes of data", end, data_bytes_));
    }
    if (end - begin != static_cast<uint64_t>(bytes)) {
      return fail(fmt::format("has {} bytes of data where its shape needs {}", end - begin, bytes));
    }
    if (begins.size() == kMaxTensors)
      return fail(fmt::format("is beyond the limit of {} tensors", kMaxTensors));
    header.tensors.push_back({std::move(name_), *dtype_, shape_, nullptr, bytes});
    begins.push_back(begin);
    return true;
  }

  uint64_t data_bytes_;
  Place place_ = Place::kStart;
  bool metadata_seen_ = false;
  std::string name_, metadata_key_;
  int field_ = 0, fields_seen_ = 0;
  std::optional<DType> dtype_;
  std::vector<int64_t> shape_;
  uint64_t offsets_[2] = {0, 0};
  int offset_count_ = 0;
};

// Sorts the tensors by offset and checks that they cover the data once.
Status check_tiling(HeaderEvents* events, uint64_t data_bytes) {
  std::vector<TensorEntry>& tensors = events->header.tensors;
  const std::vector<uint64_t>& begins = events->begins;
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::pair(begins[a], tensors[a].bytes) < std::pair(begins[b], tensors[b].bytes);
  });
  std::vector<TensorEntry> sorted;
  sorted.reserve(tensors.size());
  uint64_t expected = 0;
  for (size_t i : order) {
    if (begins[i] != expected) {
      return invalid(fmt::format("tensor '{}' starts at {}, which leaves {} at {}",
                                 printable(tensors[i].name), begins[i],
                                 begins[i] < expected ? "an overlap" : "a gap", expected));
    }
    expected += static_cast<uint64_t>(tensors[i].bytes);  // at most data_bytes, by the check of each end
    sorted.push_back(std::move(tensors[i]));
  }
  if (expected != data_bytes) {
    return invalid(fmt::format("the file has {} bytes of data after its last tensor", data_bytes - expected));
  }
  tensors = std::move(sorted);
  return {};
}

Status check_names(const SafetensorsHeader& header) {
  std::unordered_set<std::string_view> seen;
  seen.reserve(header.tensors.size());
  for (const TensorEntry& tensor : header.tensors) {
    if (!seen.insert(tensor.name).second) {
      return invalid(fmt::format("tensor '{}' stands twice in the header", printable(tensor.name)));
    }
  }
  seen.clear();
  for (const auto& [key, value] : header.metadata) {
    if (!seen.insert(key).second) {
      return invalid(fmt::format("the metadata has the key '{}' twice", printable(key)));
    }
  }
  return {};
}

Status check_header(std::string_view json, uint64_t data_bytes, HeaderEvents* events) {
  // The JSON parser would skip a byte order mark and stop at a zero byte, hiding what follows.
  if (json.empty() || json.front() != '{') return invalid("the header does not start with '{'");
  if (json.find('\0') != std::string_view::npos) return invalid("the header holds a zero byte");
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), events)) return events->status;
  MOEBIUS_TRY(check_tiling(events, data_bytes));
  return check_names(events->header);
}

}  // namespace

Result<SafetensorsHeader> parse_safetensors_header(std::string_view json, uint64_t data_bytes) {
  HeaderEvents events(data_bytes);
  MOEBIUS_TRY(check_header(json, data_bytes, &events));
  return std::move(events.header);
}

bool tensor_bytes(DType dtype, const std::vector<int64_t>& shape, int64_t* bytes) {
  // Zero counts as one here: whoever multiplies some of the dimensions may do so without a second check.
  int64_t product = static_cast<int64_t>(dtype_bytes(dtype));
  bool none = false;
  for (int64_t dim : shape) {
    none = none || dim == 0;
    if (!checked_mul(product, dim == 0 ? 1 : dim, &product)) return false;
  }
  *bytes = none ? 0 : product;
  return true;
}

}  // namespace moebius
