#include "models/shard_index.h"

#include <fmt/format.h>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "models/file_io.h"
#include "models/json_fields.h"
#include "models/safetensors_header.h"

namespace moebius {
namespace {

constexpr std::string_view kSuffix = ".safetensors";

bool plain_shard_name(std::string_view name) {
  const bool control =
      std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; });
  return name.size() > kSuffix.size() && name.size() <= 255 && name.ends_with(kSuffix) && !control &&
         name.find_first_of("/\\") == name.npos && name.find("..") == name.npos;
}

// Keeps the strings of the object at "weight_map" in the root; skips all else.
class IndexEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<std::pair<std::string, std::string>> map;
  Status status;

  bool null() override { return scalar(); }
  bool boolean(bool) override { return scalar(); }
  bool number_integer(number_integer_t) override { return scalar(); }
  bool number_unsigned(number_unsigned_t) override { return scalar(); }
  bool number_float(number_float_t, const string_t&) override { return scalar(); }
  bool binary(binary_t&) override { return scalar(); }

  bool string(string_t& value) override {
    if (!in_map_) return scalar();
    if (!plain_shard_name(value)) {
      return fail(
          fmt::format("tensor '{}' is said to be in '{}', which is not the plain name of a .safetensors file",
                      printable(key_), printable(value)));
    }
    if (map.size() == kMaxTensors) return fail(fmt::format("it names more than {} tensors", kMaxTensors));
    map.emplace_back(std::move(key_), std::move(value));
    return true;
  }

  bool key(string_t& value) override {
    key_ = std::move(value);
    return true;
  }

  bool start_object(size_t) override {
    if (in_map_) return fail("its weight_map holds something other than strings");
    if (depth_ == 1 && key_ == "weight_map") {
      if (std::exchange(map_seen_, true)) return fail("it has two weight_maps");
      in_map_ = true;
    }
    return deeper();
  }
  bool start_array(size_t) override {
    if (depth_ == 0 || in_map_) return scalar();
    return deeper();
  }
  bool end_object() override {
    in_map_ = false;
    --depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    return fail(fmt::format("it is not valid JSON at byte {}", position));
  }

 private:
  bool fail(const std::string& what) {
    status = invalid(what);
    return false;
  }
  bool scalar() {
    if (depth_ == 0) return fail("it is not an object");
    if (in_map_) return fail(fmt::format("tensor '{}' is not mapped to a string", printable(key_)));
    return true;
  }
  bool deeper() {
    return ++depth_ <= kMaxJsonDepth || fail(fmt::format("it is nested beyond {} levels", kMaxJsonDepth));
  }

  int depth_ = 0;
  bool in_map_ = false, map_seen_ = false;
  std::string key_;
};

Status check_index(std::string_view json, IndexEvents* events) {
  // The JSON parser would stop at a zero byte, hiding what follows.
  if (json.find('\0') != json.npos) return invalid("it holds a zero byte");
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), events)) return events->status;
  if (events->map.empty()) return invalid("it has no weight_map");
  std::unordered_set<std::string_view> seen;
  seen.reserve(events->map.size());
  for (const auto& [tensor, shard] : events->map) {
    if (!seen.insert(tensor).second)
      return invalid(fmt::format("it names tensor '{}' twice", printable(tensor)));
  }
  return {};
}

}  // namespace

Result<std::vector<std::pair<std::string, std::string>>> parse_shard_index(std::string_view json,
                                                                           const std::string& file) {
  IndexEvents events;
  if (Status status = check_index(json, &events); !status.ok()) {
    return invalid(
        fmt::format("'{}' cannot be used: {}; download it again", printable(file, 4096), status.message()));
  }
  return std::move(events.map);
}

}  // namespace moebius
