// Fuzzes the safetensors reader: whatever it accepts must tile the data and be readable to the last byte.
//
// Seeds: the safetensors_* files of tests/golden.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "models/safetensors.h"

namespace {

using moebius::SafetensorsFile;

uint64_t read_all(const char* data, int64_t bytes) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < bytes; ++i) sum += static_cast<unsigned char>(data[i]);
  return sum;
}

void check(std::string_view bytes) {
  auto file = SafetensorsFile::parse(bytes, "fuzz");
  if (!file.ok()) {
    MOEBIUS_CHECK(file.status().message().find('\n') == std::string::npos, "a message of one line");
    return;
  }
  const char* expected = nullptr;
  volatile uint64_t sum = 0;
  for (const auto& tensor : (*file)->tensors()) {
    const char* data = static_cast<const char*>(tensor.data);
    MOEBIUS_CHECK(expected == nullptr || data == expected, "tensors tile the data");
    int64_t size = static_cast<int64_t>(moebius::dtype_bytes(tensor.dtype));
    for (int64_t dim : tensor.shape) MOEBIUS_CHECK(moebius::checked_mul(size, dim, &size));
    MOEBIUS_CHECK(size == tensor.bytes && tensor.shape.size() <= 8);
    sum = sum + read_all(data, tensor.bytes);
    expected = data + tensor.bytes;
  }
  MOEBIUS_CHECK(expected == nullptr || expected == bytes.data() + bytes.size(),
                "the data ends with the file");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  check(input);
  if (size == 0) return 0;
  // Again as a header of the right length with as much data as the first byte says, which mutations rarely
  // hit.
  const std::string_view header = input.substr(1);
  std::string framed;
  for (int shift = 0; shift < 64; shift += 8) framed += static_cast<char>(header.size() >> shift & 0xFF);
  framed += header;
  framed.append(data[0], '\x5A');
  check(framed);
  return 0;
}
