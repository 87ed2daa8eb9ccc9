// Fingerprints: short texts that tell models and adapters apart, for what is kept of them.
#pragma once

#include <cstdint>
#include <string_view>

#include <fmt/format.h>

#include "models/peft.h"

namespace moebius {

inline uint64_t hash_of(std::string_view bytes, uint64_t hash = 14695981039346656037ull) {  // FNV-1a
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 1099511628211ull;
  return hash;
}

inline std::string fingerprint_of(const Adapter& adapter) {
  uint64_t hash = hash_of("");
  for (const AdapterFactors& f : adapter.factors) {
    hash = hash_of(fmt::format("{} {} {}", f.module, f.rank, f.scale), hash);
    for (const std::vector<float>* values : {&f.a, &f.b})
      hash = hash_of({reinterpret_cast<const char*>(values->data()), values->size() * sizeof(float)}, hash);
  }
  return fmt::format("{:016x}", hash);
}

}  // namespace moebius
