#include <algorithm>

#include <fmt/core.h>

#include "models/jinja/format.h"
#include "models/jinja/interpreter.h"
#include "models/jinja/text.h"
#include "models/jinja/text_edit.h"

namespace moebius::jinja {
namespace {

using In = Interpreter;
using View = std::string_view;

Value view(In& in, View text) { return in.heap.string(std::string(text)); }

template <std::string (*kChange)(View)>
Value change(In& in, const Value& self, const Arguments& args) {
  const Parameters none_taken(args, "a case method", {});
  in.heap.require(3 * self.text().size());
  return in.heap.string(kChange(self.text()));
}

template <Side kSide>
Value strip_method(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "strip", {"chars"});
  in.heap.touch(self.text().size());
  if (!given.given(0)) return view(in, strip(self.text(), kSide));
  return view(in, strip(self.text(), kSide, given.text(0)));
}

// The part of the text that the arguments start and end of a search select.
struct Region {
  View text;
  int64_t first;  // its first character's number
  bool valid;     // false: start lies behind the end of the text
};

Region region(In& in, const std::string& text, const Parameters& given) {
  in.heap.touch(text.size());
  if (!given.given(1) && !given.given(2)) return {text, 0, true};
  const int64_t length = count_chars(text);
  const auto place = [&](size_t i, int64_t fallback) {
    if (!given.given(i)) return fallback;
    const int64_t index = given.integer(i, 0);
    return std::max<int64_t>(0, index < 0 ? index + length : index);
  };
  const int64_t start = place(1, 0);
  const int64_t end = std::min(place(2, length), length);
  if (start > end) return {{}, start, false};
  const size_t begin = byte_offset(text, start);
  const View rest = View(text).substr(begin);
  return {rest.substr(0, byte_offset(rest, end - start)), start, true};
}

template <bool kStart>
Value starts_or_ends(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, kStart ? "startswith" : "endswith", {"prefix", "start", "end"}, 1);
  const Region where = region(in, self.text(), given);
  const auto matches = [&](const Value& affix) {
    if (!affix.is_string())
      fail(fmt::format("startswith and endswith need strings, not {}", type_name(affix)));
    in.heap.touch(affix.text().size());
    return where.valid &&
           (kStart ? where.text.starts_with(affix.text()) : where.text.ends_with(affix.text()));
  };
  if (!is_kind(*given[0], ObjectKind::kTuple)) return Value(matches(*given[0]));
  for (const Value& affix : given[0]->as<Sequence>()->items) {
    if (matches(affix)) return Value(true);
  }
  return Value(false);
}

// The last occurrence; its cost is counted, since unlike the search forwards it is not linear.
size_t find_last(In& in, View text, View needle) {
  in.heap.step(static_cast<int64_t>(text.size() / 64 * (1 + needle.size() / 16)));
  return text.rfind(needle);
}

template <bool kForwards, bool kMust>
Value find(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "find", {"sub", "start", "end"}, 1);
  const Region where = region(in, self.text(), given);
  const std::string& needle = given.text(0);
  size_t at = View::npos;
  if (where.valid) at = kForwards ? find_text(where.text, needle) : find_last(in, where.text, needle);
  if (at != View::npos) return make_int(where.first + count_chars(where.text.substr(0, at)));
  if (kMust) fail("index and rindex did not find their argument");
  return make_int(-1);
}

Value count(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "count", {"sub", "start", "end"}, 1);
  const Region where = region(in, self.text(), given);
  const std::string& needle = given.text(0);
  if (!where.valid) return make_int(0);
  if (needle.empty()) return make_int(count_chars(where.text) + 1);
  int64_t found = 0;
  for (size_t at = find_text(where.text, needle); at != View::npos; ++found) {
    in.heap.step();
    at = find_text(where.text, needle, at + needle.size());
  }
  return make_int(found);
}

Value replace(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "replace", {"old", "new", "count"}, 2);
  return replace_text(in.heap, self.text(), given.text(0), given.text(1), given.integer(2, -1));
}

void split_spaces(In& in, View text, int64_t limit, Sequence* parts) {
  text = strip(text, Side::kLeft);
  while (!text.empty()) {
    if (limit-- == 0) return in.heap.push(parts, view(in, text));
    size_t end = 0;
    while (end < text.size()) {
      size_t next = end;
      if (is_space(next_char(text, next))) break;
      end = next;
    }
    in.heap.push(parts, view(in, text.substr(0, end)));
    text = strip(text.substr(end), Side::kLeft);
  }
}

// From the right; the caller turns the order around.
void rsplit_spaces(In& in, View text, int64_t limit, Sequence* parts) {
  text = strip(text, Side::kRight);
  while (!text.empty()) {
    if (limit-- == 0) return in.heap.push(parts, view(in, text));
    size_t begin = text.size();
    while (begin > 0) {
      size_t previous = begin - 1;
      while (previous > 0 && (text[previous] & 0xc0) == 0x80) --previous;
      size_t at = previous;
      if (is_space(next_char(text, at))) break;
      begin = previous;
    }
    in.heap.push(parts, view(in, text.substr(begin)));
    text = strip(text.substr(0, begin), Side::kRight);
  }
}

Value split(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "split", {"sep", "maxsplit"});
  int64_t limit = given.integer(1, -1);
  Sequence* parts = in.heap.sequence(ObjectKind::kList);
  View text = self.text();
  in.heap.touch(text.size());
  if (!given.given(0)) {
    split_spaces(in, text, limit, parts);
    return Value(parts);
  }
  const std::string& separator = given.text(0);
  if (separator.empty()) fail("split needs a separator that is not empty");
  while (limit-- != 0) {
    const size_t at = find_text(text, separator);
    if (at == View::npos) break;
    in.heap.push(parts, view(in, text.substr(0, at)));
    text.remove_prefix(at + separator.size());
  }
  in.heap.push(parts, view(in, text));
  return Value(parts);
}

Value rsplit(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "rsplit", {"sep", "maxsplit"});
  int64_t limit = given.integer(1, -1);
  Sequence* parts = in.heap.sequence(ObjectKind::kList);
  View text = self.text();
  in.heap.touch(text.size());
  if (!given.given(0)) {
    rsplit_spaces(in, text, limit, parts);
  } else {
    const std::string& separator = given.text(0);
    if (separator.empty()) fail("rsplit needs a separator that is not empty");
    in.heap.step(static_cast<int64_t>(text.size() / 64 * (1 + separator.size() / 16)));
    while (limit-- != 0) {
      const size_t at = text.rfind(separator);
      if (at == View::npos) break;
      in.heap.push(parts, view(in, text.substr(at + separator.size())));
      text = text.substr(0, at);
    }
    in.heap.push(parts, view(in, text));
  }
  std::reverse(parts->items.begin(), parts->items.end());
  return Value(parts);
}

Value splitlines(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "splitlines", {"keepends"});
  in.heap.touch(self.text().size());
  Sequence* parts = in.heap.sequence(ObjectKind::kList);
  for (const View line : split_lines(self.text(), given.flag(0, false))) in.heap.push(parts, view(in, line));
  return Value(parts);
}

template <bool kForwards>
Value partition(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "partition", {"sep"}, 1);
  const std::string& separator = given.text(0);
  if (separator.empty()) fail("partition needs a separator that is not empty");
  const View text = self.text();
  in.heap.touch(text.size());
  const size_t at = kForwards ? find_text(text, separator) : find_last(in, text, separator);
  Sequence* parts = in.heap.sequence(ObjectKind::kTuple);
  const bool found = at != View::npos;
  const View before = found ? text.substr(0, at) : (kForwards ? text : View());
  const View after = found ? text.substr(at + separator.size()) : (kForwards ? View() : text);
  in.heap.push(parts, view(in, before));
  in.heap.push(parts, view(in, found ? View(separator) : View()));
  in.heap.push(parts, view(in, after));
  return Value(parts);
}

Value join(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "join", {"iterable"}, 1);
  Builder out(in.heap);
  bool begun = false;
  for (const Value& item : items_of(in.heap, *given[0])->items) {
    if (!item.is_string()) fail(fmt::format("str.join needs strings, not {}", type_name(item)));
    if (begun) out.add(self.text());
    begun = true;
    out.add(item.text());
  }
  return out.finish();
}

template <bool kPrefix>
Value remove_affix(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "removeprefix", {"affix"}, 1);
  View text = self.text();
  const std::string& affix = given.text(0);
  if (kPrefix && text.starts_with(affix)) text.remove_prefix(affix.size());
  if (!kPrefix && text.ends_with(affix)) text.remove_suffix(affix.size());
  return view(in, text);
}

template <bool kLeft, bool kRight>
Value pad(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "ljust, rjust or center", {"width", "fillchar"}, 1);
  char32_t fill = ' ';
  if (given[1] != nullptr) {
    if (count_chars(given.text(1)) != 1) fail("the fill of ljust, rjust and center is one character");
    size_t at = 0;
    fill = next_char(given.text(1), at);
  }
  return pad_text(in.heap, self.text(), given.integer(0, 0), fill, kLeft, kRight);
}

Value zfill(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "zfill", {"width"}, 1);
  const View text = self.text();
  const size_t sign = text.starts_with('-') || text.starts_with('+') ? 1 : 0;
  const Value padded = pad_text(in.heap, text.substr(sign), given.integer(0, 0) - static_cast<int64_t>(sign),
                                '0', true, false);
  return in.heap.string(std::string(text.substr(0, sign)) + padded.text());
}

Value format(In& in, const Value& self, const Arguments& args) {
  return brace_format(in.heap, self.text(), args);
}

constexpr NativeEntry kMethods[] = {
    {"capitalize", change<capitalize>},
    {"casefold", change<to_lower>},
    {"center", pad<true, true>},
    {"count", count},
    {"endswith", starts_or_ends<false>},
    {"find", find<true, false>},
    {"format", format},
    {"index", find<true, true>},
    {"join", join},
    {"ljust", pad<false, true>},
    {"lower", change<to_lower>},
    {"lstrip", strip_method<Side::kLeft>},
    {"partition", partition<true>},
    {"removeprefix", remove_affix<true>},
    {"removesuffix", remove_affix<false>},
    {"replace", replace},
    {"rfind", find<false, false>},
    {"rindex", find<false, true>},
    {"rjust", pad<true, false>},
    {"rpartition", partition<false>},
    {"rsplit", rsplit},
    {"rstrip", strip_method<Side::kRight>},
    {"split", split},
    {"splitlines", splitlines},
    {"startswith", starts_or_ends<true>},
    {"strip", strip_method<Side::kBoth>},
    {"swapcase", change<swap_case>},
    {"title", change<title_words>},
    {"upper", change<to_upper>},
    {"zfill", zfill},
};

}  // namespace

std::span<const NativeEntry> string_methods() { return kMethods; }

}  // namespace moebius::jinja
