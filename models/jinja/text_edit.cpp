#include "models/jinja/text_edit.h"

#include "models/jinja/text.h"

namespace moebius::jinja {
namespace {

bool is_line_end(char32_t c) {
  return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

// str.replace of the empty string: `fresh` before every character and at the end.
Value interleave(Heap& heap, std::string_view text, std::string_view fresh, int64_t count) {
  Builder out(heap);
  for (size_t at = 0; at < text.size();) {
    if (count != 0) out.add(fresh);
    if (count > 0) --count;
    const size_t begin = at;
    next_char(text, at);
    out.add(text.substr(begin, at - begin));
  }
  if (count != 0) out.add(fresh);
  return out.finish();
}

}  // namespace

Value replace_text(Heap& heap, std::string_view text, std::string_view old, std::string_view fresh,
                   int64_t count) {
  heap.touch(text.size());
  if (old.empty()) return interleave(heap, text, fresh, count);
  Builder out(heap);
  size_t at = 0;
  while (count != 0) {
    const size_t found = find_text(text, old, at);
    if (found == std::string_view::npos) break;
    out.add(text.substr(at, found - at));
    out.add(fresh);
    at = found + old.size();
    if (count > 0) --count;
  }
  out.add(text.substr(at));
  return out.finish();
}

Value pad_text(Heap& heap, std::string_view text, int64_t width, char32_t fill, bool left, bool right) {
  const int64_t missing = width - count_chars(text);
  std::string filler;
  append_char(filler, fill);
  int64_t before = left ? missing : 0;
  if (left && right) before = missing / 2 + (missing & width & 1);
  Builder out(heap);
  if (missing > 0) out.repeat(filler, before);
  out.add(text);
  if (missing > 0) out.repeat(filler, missing - before);
  return out.finish();
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const char32_t c = next_char(text, at);
    if (!is_line_end(c)) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

}  // namespace moebius::jinja
