#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace moebius {

// PREFIX and 24 random letters and digits, which nobody can guess.
std::string random_id(std::string_view prefix);
uint64_t random_seed();

}  // namespace moebius
