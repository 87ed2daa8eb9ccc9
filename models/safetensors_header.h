// The JSON header of a safetensors file: its checks, in one place for reader and writer. For models/ only.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/safetensors.h"

namespace moebius {

constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;
constexpr size_t kMaxTensors = 1'000'000;  // of a file, and of an index of files

struct SafetensorsHeader {
  // By offset, without data: each starts where the one before ends, the first at the start of the data.
  std::vector<TensorEntry> tensors;
  std::vector<std::pair<std::string, std::string>> metadata;
};

// json: the header without its length; data_bytes: what follows it in the file. Errors name the tensor; the
// caller adds the file and the remedy.
Result<SafetensorsHeader> parse_safetensors_header(std::string_view json, uint64_t data_bytes);

// Bytes of a dense tensor; false where they, or the product of the dimensions other than zero, overflow, or a
// dimension is negative.
bool tensor_bytes(DType dtype, const std::vector<int64_t>& shape, int64_t* bytes);

}  // namespace moebius
