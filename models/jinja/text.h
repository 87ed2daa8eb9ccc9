// UTF-8 text the way Python's str sees it: as code points, with Unicode's white space, letters and cases.
// All inputs are valid UTF-8 (checked where text enters); broken bytes would be read as single characters.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace moebius::jinja {

bool valid_utf8(std::string_view text);
char32_t next_char(std::string_view text, size_t& at);  // at < text.size(); moves on by the character's bytes
void append_char(std::string& text, char32_t c);
int64_t count_chars(std::string_view text);
size_t byte_offset(std::string_view text, int64_t chars);  // of the character with that number, or the end

inline bool is_digit(char c) { return c >= '0' && c <= '9'; }  // of ASCII

bool is_space(char32_t c);      // str.isspace
bool is_alpha(char32_t c);      // str.isalpha
bool is_alnum(char32_t c);      // str.isalnum
bool is_decimal(char32_t c);    // str.isdecimal
bool is_printable(char32_t c);  // what repr() shows as it is
bool is_upper(char32_t c);
bool is_lower(char32_t c);

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string swap_case(std::string_view text);
std::string capitalize(std::string_view text);   // str.capitalize
std::string title_words(std::string_view text);  // str.title

enum class Side { kLeft, kRight, kBoth };
// Without chars: white space; otherwise any of the characters of chars.
std::string_view strip(std::string_view text, Side side,
                       std::optional<std::string_view> chars = std::nullopt);

// First byte offset of needle at or after from, or npos, in linear time.
size_t find_text(std::string_view text, std::string_view needle, size_t from = 0);

}  // namespace moebius::jinja
