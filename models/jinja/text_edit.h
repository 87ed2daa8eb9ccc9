// Editing of text that both filters and methods of str offer.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/jinja/heap.h"
#include "models/jinja/value.h"

namespace moebius::jinja {

// At most `count` replacements; all of them when it is negative.
Value replace_text(Heap& heap, std::string_view text, std::string_view old, std::string_view fresh,
                   int64_t count);
// Padded with `fill` to width characters.
Value pad_text(Heap& heap, std::string_view text, int64_t width, char32_t fill, bool left, bool right);
// Lines as str.splitlines sees them.
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

}  // namespace moebius::jinja
