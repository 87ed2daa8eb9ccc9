// Sizes of memory as people write them: 12GiB, 24G, 1.5TiB, 800MB.
#pragma once

#include <string>
#include <string_view>

#include <CLI/CLI.hpp>

#include "kernels/status.h"

namespace moebius {

// Bytes. K, M, G, T, with or without iB, are powers of 1024; kB, MB, GB, TB too, since memory is sold so. A
// number without a unit is bytes, and refused when it is too small to be meant so (1 to 2^20). kInvalid says
// what to write.
Result<int64_t> parse_size(std::string_view text);

// An option that takes such a size; anything else is a usage error.
CLI::Option* add_size(CLI::App& app, const std::string& name, int64_t& bytes, const std::string& help);

}  // namespace moebius
