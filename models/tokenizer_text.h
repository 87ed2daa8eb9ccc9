// UTF-8 and Unicode facts that the tokenizers share.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace moebius {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581: sentencepiece's space

// The length of the valid UTF-8 at the beginning of text, in whole characters.
size_t utf8_valid_prefix(std::string_view text);

// text with each maximal invalid part replaced by U+FFFD. The view is text itself when it is valid, else
// storage.
std::string_view utf8_lossy(std::string_view text, std::string& storage);

// How many bytes at the end of text are the beginning of a character that more bytes could complete: 0 to 3.
size_t utf8_incomplete_tail(std::string_view text);

// The character at position, which must be a character boundary of valid UTF-8; position moves past it.
char32_t utf8_next(std::string_view text, size_t& position);
// The character that ends at position; position moves to its beginning.
char32_t utf8_previous(std::string_view text, size_t& position);
void utf8_append(char32_t character, std::string& out);

bool is_unicode_space(char32_t character);  // White_Space
bool is_unicode_word(char32_t character);   // \w of UTS 18: letters, marks, digits, connectors, joiners

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// text must be valid UTF-8. n log n, also for long runs of combining marks.
std::string normalize_unicode(std::string_view text, NormalForm form);

}  // namespace moebius
