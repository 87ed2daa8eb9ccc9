// Reading JSON of strangers: bounded in depth, size and shape before anything is built from it.
#pragma once

#include <string_view>

#include "kernels/status.h"
#include "server/errors.h"

namespace moebius {

struct JsonLimits {
  int depth = 64;
  int64_t values = 4'000'000;      // of all kinds, in all
  int64_t keys = 200'000;          // in all; objects keep their order and are searched key by key,
  int64_t keys_per_object = 1200;  // so that both bounds together bound the time
};

// Strict JSON in strict UTF-8; of equal keys in one object the last one counts. kInvalid says what is wrong
// and at which byte, without quoting the text.
Result<Json> parse_json(std::string_view text, const JsonLimits& limits = {});

}  // namespace moebius
