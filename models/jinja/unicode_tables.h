// Tables of the Unicode character database, written by tests/golden/make_unicode_tables.py.
#pragma once

#include <cstdint>
#include <span>

namespace moebius::jinja {

struct CharRange {
  char32_t first, last;
};
// Every stride-th character of the range maps to itself plus delta.
struct CaseRange {
  char32_t first, last;
  int32_t stride, delta;
};
struct CaseSpecial {
  char32_t from;
  const char* to;  // UTF-8
};

std::span<const CharRange> alpha_ranges();
std::span<const CharRange> numeric_ranges();  // alphanumeric but not alphabetic
std::span<const CharRange> decimal_ranges();
std::span<const CharRange> unprintable_ranges();
std::span<const CaseRange> upper_ranges();
std::span<const CaseRange> lower_ranges();
std::span<const CaseSpecial> upper_specials();  // to more than one character
std::span<const CaseSpecial> title_specials();  // where title case is not upper case

}  // namespace moebius::jinja
