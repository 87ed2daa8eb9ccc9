// CacheMiss: why the cache had no more of a prompt.
#pragma once

#include <cstdint>

namespace moebius {

enum class CacheMiss : uint8_t {
  kNone,       // it had all but the last token, which is computed for its logits
  kUnknown,    // nothing that is cached begins like this
  kEnds,       // all that is cached of it was used: the rest is new
  kDiffers,    // what is cached goes on otherwise
  kEvicted,    // it was cached, and gave way to others
  kOtherSpace  // it is cached for another salt
};

constexpr const char* cache_miss_text(CacheMiss miss) {
  switch (miss) {
    case CacheMiss::kNone:
      return "none";
    case CacheMiss::kUnknown:
      return "no such prefix";
    case CacheMiss::kEnds:
      return "the rest is new";
    case CacheMiss::kDiffers:
      return "goes on otherwise";
    case CacheMiss::kEvicted:
      return "evicted";
    case CacheMiss::kOtherSpace:
      return "other salt";
  }
  return "";
}

}  // namespace moebius
