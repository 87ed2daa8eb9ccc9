#include "models/tokenizer_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "kernels/status.h"

namespace moebius {
namespace {

struct Utf8Step {
  size_t length;    // bytes that belong together, at least 1
  bool valid;       // they are one character
  bool incomplete;  // they are the beginning of one that the end of the text cuts off
};

// Table 3-7 of the Unicode standard: only the second byte has a range that depends on the first.
Utf8Step utf8_step(std::string_view text, size_t position) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[position + i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  uint8_t low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < length; ++i) {
    if (position + i == text.size()) return {i, false, true};
    if (byte(i) < low || byte(i) > high) return {i, false, false};
    low = 0x80;
    high = 0xBF;
  }
  return {length, true, false};
}

bool all_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; });
}

// Sorts each run of combining marks by their class, which the library does in quadratic time.
void order_marks(std::vector<int32_t>& characters) {
  const auto mark_class = [](int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (size_t begin = 0; begin < characters.size();) {
    if (mark_class(characters[begin]) == 0) {
      ++begin;
      continue;
    }
    size_t end = begin + 1;
    while (end < characters.size() && mark_class(characters[end]) != 0) ++end;
    std::stable_sort(characters.begin() + static_cast<ptrdiff_t>(begin),
                     characters.begin() + static_cast<ptrdiff_t>(end),
                     [&](int32_t a, int32_t b) { return mark_class(a) < mark_class(b); });
    begin = end;
  }
}

}  // namespace

size_t utf8_valid_prefix(std::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    const Utf8Step step = utf8_step(text, position);
    if (!step.valid) break;
    position += step.length;
  }
  return position;
}

std::string_view utf8_lossy(std::string_view text, std::string& storage) {
  size_t position = utf8_valid_prefix(text);
  if (position == text.size()) return text;
  storage.assign(text.substr(0, position));
  while (position < text.size()) {
    const Utf8Step step = utf8_step(text, position);
    storage += step.valid ? text.substr(position, step.length) : kReplacementCharacter;
    position += step.length;
  }
  return storage;
}

size_t utf8_incomplete_tail(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const uint8_t byte = static_cast<uint8_t>(text[text.size() - back]);
    if (byte < 0x80) return 0;
    if (byte < 0xC0) continue;
    return utf8_step(text, text.size() - back).incomplete ? back : 0;
  }
  return 0;
}

char32_t utf8_next(std::string_view text, size_t& position) {
  const auto byte = [&](size_t i) { return static_cast<char32_t>(static_cast<uint8_t>(text[position + i])); };
  const char32_t lead = byte(0);
  char32_t character = lead;
  size_t length = 1;
  if (lead >= 0xF0) {
    character = (lead & 7) << 18 | (byte(1) & 63) << 12 | (byte(2) & 63) << 6 | (byte(3) & 63);
    length = 4;
  } else if (lead >= 0xE0) {
    character = (lead & 15) << 12 | (byte(1) & 63) << 6 | (byte(2) & 63);
    length = 3;
  } else if (lead >= 0xC0) {
    character = (lead & 31) << 6 | (byte(1) & 63);
    length = 2;
  }
  position += length;
  return character;
}

char32_t utf8_previous(std::string_view text, size_t& position) {
  do --position;
  while (position > 0 && (static_cast<uint8_t>(text[position]) & 0xC0) == 0x80);
  size_t forward = position;
  return utf8_next(text, forward);
}

void utf8_append(char32_t character, std::string& out) {
  utf8proc_uint8_t bytes[4];
  const auto length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(character), bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
}

bool is_unicode_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_unicode_word(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:  // the joiners, and the enclosed letters that are alphabetic symbols
      return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  }
}

std::string normalize_unicode(std::string_view text, NormalForm form) {
  if (all_ascii(text)) return std::string(text);
  const bool compat = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  const int decompose = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
  std::vector<int32_t> characters;
  characters.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    constexpr int kLongest = 32;  // the longest full decomposition is 18 characters
    int32_t parts[kLongest];
    int boundary = 0;
    const auto count =
        utf8proc_decompose_char(static_cast<int32_t>(utf8_next(text, position)), parts, kLongest,
                                static_cast<utf8proc_option_t>(decompose), &boundary);
    MOEBIUS_CHECK(count >= 0 && count <= kLongest);
    characters.insert(characters.end(), parts, parts + count);
  }
  order_marks(characters);
  auto length = static_cast<utf8proc_ssize_t>(characters.size());
  if (compose) {
    length = utf8proc_normalize_utf32(characters.data(), length,
                                      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    MOEBIUS_CHECK(length >= 0);
  }
  std::string out;
  out.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < length; ++i) {
    utf8_append(static_cast<char32_t>(characters[static_cast<size_t>(i)]), out);
  }
  return out;
}

}  // namespace moebius
