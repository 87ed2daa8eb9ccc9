#include "models/jinja/text.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "models/jinja/unicode_tables.h"

namespace moebius::jinja {
namespace {

template <class Range>
const Range* find_range(std::span<const Range> table, char32_t c) {
  const auto after = std::upper_bound(table.begin(), table.end(), c,
                                      [](char32_t value, const Range& range) { return value < range.first; });
  if (after == table.begin() || c > (after - 1)->last) return nullptr;
  return &*(after - 1);
}

const char* find_special(std::span<const CaseSpecial> table, char32_t c) {
  const auto at =
      std::lower_bound(table.begin(), table.end(), c,
                       [](const CaseSpecial& special, char32_t value) { return special.from < value; });
  return at != table.end() && at->from == c ? at->to : nullptr;
}

char32_t map_case(std::span<const CaseRange> table, char32_t c) {
  const CaseRange* range = find_range(table, c);
  if (range == nullptr || (c - range->first) % static_cast<char32_t>(range->stride) != 0) return c;
  return static_cast<char32_t>(static_cast<int32_t>(c) + range->delta);
}

void append_upper(std::string& out, char32_t c) {
  if (c < 0x80) {
    out.push_back(static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c));
  } else if (const char* special = find_special(upper_specials(), c)) {
    out += special;
  } else {
    append_char(out, map_case(upper_ranges(), c));
  }
}

void append_title(std::string& out, char32_t c) {
  const char* special = c < 0x80 ? nullptr : find_special(title_specials(), c);
  if (special == nullptr) return append_upper(out, c);
  out += special;
}

bool is_cased(char32_t c) { return is_upper(c) || is_lower(c); }

constexpr char32_t kSigma = 0x3a3;

// A capital sigma at the end of a word becomes the final form.
bool final_sigma(std::string_view text, size_t begin, size_t end) {
  bool before = false;
  while (begin > 0 && !before) {
    do {
      --begin;
    } while (begin > 0 && (text[begin] & 0xc0) == 0x80);
    size_t at = begin;
    const char32_t c = next_char(text, at);
    if (c == '\'' || c == 0xad) continue;
    before = is_cased(c);
    if (!before) break;
  }
  if (!before) return false;
  while (end < text.size()) {
    const char32_t c = next_char(text, end);
    if (c == '\'' || c == 0xad) continue;
    return !is_cased(c);
  }
  return true;
}

void append_lower(std::string& out, std::string_view text, char32_t c, size_t begin, size_t end) {
  if (c < 0x80) {
    out.push_back(static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c));
  } else if (c == 0x130) {
    out += "i\xcc\x87";
  } else if (c == kSigma && final_sigma(text, begin, end)) {
    append_char(out, 0x3c2);
  } else {
    append_char(out, map_case(lower_ranges(), c));
  }
}

}  // namespace

bool valid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const size_t size = lead >= 0xf0 ? 4 : (lead >= 0xe0 ? 3 : 2);
    if (lead < 0xc2 || lead > 0xf4 || size > text.size() - i) return false;
    char32_t c = lead & (0xffu >> (size + 1));
    for (size_t k = 1; k < size; ++k) {
      const auto byte = static_cast<unsigned char>(text[i + k]);
      if ((byte & 0xc0) != 0x80) return false;
      c = c << 6 | (byte & 0x3f);
    }
    const char32_t least = size == 2 ? 0x80 : (size == 3 ? 0x800 : 0x10000);
    if (c < least || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return false;
    i += size;
  }
  return true;
}

char32_t next_char(std::string_view text, size_t& at) {
  const auto lead = static_cast<unsigned char>(text[at++]);
  if (lead < 0xc0) return lead;
  const int more = lead >= 0xf0 ? 3 : (lead >= 0xe0 ? 2 : 1);
  char32_t c = lead & (0x3fu >> more);
  for (int k = 0; k < more && at < text.size(); ++k)
    c = c << 6 | (static_cast<unsigned char>(text[at++]) & 0x3f);
  return c;
}

void append_char(std::string& text, char32_t c) {
  if (c < 0x80) {
    text.push_back(static_cast<char>(c));
    return;
  }
  if (c >= 0x10000) {
    text.push_back(static_cast<char>(0xf0 | c >> 18));
    text.push_back(static_cast<char>(0x80 | (c >> 12 & 0x3f)));
  } else if (c >= 0x800) {
    text.push_back(static_cast<char>(0xe0 | c >> 12));
  }
  text.push_back(static_cast<char>(c >= 0x800 ? 0x80 | (c >> 6 & 0x3f) : 0xc0 | c >> 6));
  text.push_back(static_cast<char>(0x80 | (c & 0x3f)));
}

int64_t count_chars(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

size_t byte_offset(std::string_view text, int64_t chars) {
  size_t at = 0;
  while (chars > 0 && at < text.size()) {
    do {
      ++at;
    } while (at < text.size() && (text[at] & 0xc0) == 0x80);
    --chars;
  }
  return at;
}

bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool is_alpha(char32_t c) {
  if (c < 0x80) return (c | 32) >= 'a' && (c | 32) <= 'z';
  return find_range(alpha_ranges(), c) != nullptr;
}

bool is_decimal(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return find_range(decimal_ranges(), c) != nullptr;
}

bool is_alnum(char32_t c) {
  return is_alpha(c) || is_decimal(c) || find_range(numeric_ranges(), c) != nullptr;
}
bool is_printable(char32_t c) { return find_range(unprintable_ranges(), c) == nullptr; }
bool is_upper(char32_t c) { return map_case(lower_ranges(), c) != c || c == 0x130; }

bool is_lower(char32_t c) {
  if (is_upper(c)) return false;
  return map_case(upper_ranges(), c) != c || (c >= 0x80 && find_special(upper_specials(), c) != nullptr);
}

std::string to_upper(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) append_upper(out, next_char(text, at));
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_char(text, at);
    append_lower(out, text, c, begin, at);
  }
  return out;
}

std::string swap_case(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_char(text, at);
    if (is_upper(c)) {
      append_lower(out, text, c, begin, at);
    } else {
      append_upper(out, c);
    }
  }
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_char(text, at);
    if (begin == 0) {
      append_title(out, c);
    } else {
      append_lower(out, text, c, begin, at);
    }
  }
  return out;
}

std::string title_words(std::string_view text) {
  std::string out;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_char(text, at);
    if (inside) {
      append_lower(out, text, c, begin, at);
    } else {
      append_title(out, c);
    }
    inside = is_cased(c);
  }
  return out;
}

std::string_view strip(std::string_view text, Side side, std::optional<std::string_view> chars) {
  std::vector<char32_t> set;
  if (chars) {
    for (size_t at = 0; at < chars->size();) set.push_back(next_char(*chars, at));
    std::sort(set.begin(), set.end());
  }
  const auto matches = [&](char32_t c) {
    return chars ? std::binary_search(set.begin(), set.end(), c) : is_space(c);
  };
  while (side != Side::kRight && !text.empty()) {
    size_t at = 0;
    if (!matches(next_char(text, at))) break;
    text.remove_prefix(at);
  }
  while (side != Side::kLeft && !text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && (text[begin] & 0xc0) == 0x80) --begin;
    size_t at = begin;
    if (!matches(next_char(text, at))) break;
    text = text.substr(0, begin);
  }
  return text;
}

size_t find_text(std::string_view text, std::string_view needle, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  const void* found = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

}  // namespace moebius::jinja
