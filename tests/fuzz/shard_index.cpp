// Fuzzes the reader of model.safetensors.index.json: a shard name it lets through must stay in its folder.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "models/shard_index.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto map = moebius::parse_shard_index({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!map.ok()) {
    MOEBIUS_CHECK(map.status().message().find('\n') == std::string::npos, "a message of one line");
    return 0;
  }
  MOEBIUS_CHECK(!map->empty());
  for (const auto& [tensor, shard] : *map) {
    MOEBIUS_CHECK(shard.find('/') == shard.npos && shard.find("..") == shard.npos &&
                  shard.find('\0') == shard.npos);
    MOEBIUS_CHECK(shard.ends_with(".safetensors"));
  }
  return 0;
}
