// Numbers from text, as int() and float() read them, and round().
#pragma once

#include <optional>
#include <string_view>

#include "models/jinja/value.h"

namespace moebius::jinja {

std::optional<Int> parse_int(std::string_view text, int base);  // fails when beyond 127 bits
std::optional<double> parse_float(std::string_view text);
double round_half_even(double value, int digits);

}  // namespace moebius::jinja
