#include "models/constraint/char_set.h"

#include <algorithm>

namespace moebius {
namespace {

constexpr char32_t kLast = 0x10FFFF, kSurrogatesBegin = 0xD800, kSurrogatesEnd = 0xDFFF;
constexpr char32_t kLengthEnds[] = {0x7F, 0x7FF, 0xFFFF, kLast};

int encode(char32_t c, unsigned char (&out)[4]) {
  if (c <= 0x7F) return out[0] = static_cast<unsigned char>(c), 1;
  const int length = c <= 0x7FF ? 2 : c <= 0xFFFF ? 3 : 4;
  constexpr unsigned char kLead[] = {0, 0, 0xC0, 0xE0, 0xF0};
  for (int i = length - 1; i > 0; --i, c >>= 6) out[i] = static_cast<unsigned char>(0x80 | (c & 0x3F));
  out[0] = static_cast<unsigned char>(kLead[length] | c);
  return length;
}

// Cuts [low, high], all of one length, where the ranges of its bytes would not be independent.
void add_sequences(char32_t low, char32_t high, std::vector<Utf8Sequence>& out) {
  unsigned char first[4], last[4];
  const int length = encode(low, first);
  encode(high, last);
  for (int i = 1; i < length; ++i) {
    const char32_t tail = (char32_t{1} << (6 * i)) - 1;  // the bits of the last i bytes
    if ((low & ~tail) == (high & ~tail)) continue;
    if ((low & tail) != 0) {
      add_sequences(low, low | tail, out);
      return add_sequences((low | tail) + 1, high, out);
    }
    if ((high & tail) != tail) {
      add_sequences(low, (high & ~tail) - 1, out);
      return add_sequences(high & ~tail, high, out);
    }
  }
  Utf8Sequence sequence;
  sequence.length = length;
  for (int i = 0; i < length; ++i) sequence.bytes[i] = {first[i], last[i]};
  out.push_back(sequence);
}

}  // namespace

void CharSet::add(char32_t low, char32_t high) {
  high = std::min(high, kLast);
  if (low > high) return;
  if (low <= kSurrogatesEnd && high >= kSurrogatesBegin) {
    if (low < kSurrogatesBegin) add(low, kSurrogatesBegin - 1);
    if (high > kSurrogatesEnd) add(kSurrogatesEnd + 1, high);
    return;
  }
  // Ranges that touch the new one: neighbours too, but not across the surrogates, which nothing spans.
  auto from = std::lower_bound(ranges_.begin(), ranges_.end(), low,
                               [](const Range& r, char32_t value) { return r.second + 1 < value; });
  auto to = from;
  for (; to != ranges_.end() && to->first <= high + 1; ++to) {
    low = std::min(low, to->first);
    high = std::max(high, to->second);
  }
  from = ranges_.erase(from, to);
  ranges_.insert(from, {low, high});
}

void CharSet::add(const CharSet& other) {
  for (const Range& range : other.ranges_) add(range.first, range.second);
}

CharSet CharSet::negated() const {
  CharSet out;
  char32_t next = 0;
  for (const Range& range : ranges_) {
    if (range.first > next) out.add(next, range.first - 1);
    next = range.second + 1;
  }
  out.add(next, kLast);
  return out;
}

CharSet CharSet::intersected(const CharSet& other) const {
  CharSet out;
  auto a = ranges_.begin(), b = other.ranges_.begin();
  while (a != ranges_.end() && b != other.ranges_.end()) {
    const char32_t low = std::max(a->first, b->first), high = std::min(a->second, b->second);
    if (low <= high) out.ranges_.push_back({low, high});
    (a->second < b->second ? a : b)++;
  }
  return out;
}

bool CharSet::contains(char32_t character) const {
  const auto at = std::lower_bound(ranges_.begin(), ranges_.end(), character,
                                   [](const Range& r, char32_t value) { return r.second < value; });
  return at != ranges_.end() && at->first <= character;
}

std::vector<Utf8Sequence> utf8_sequences(const CharSet& set) {
  std::vector<Utf8Sequence> out;
  for (const CharSet::Range& range : set.ranges()) {
    char32_t low = range.first;
    for (const char32_t end : kLengthEnds) {
      if (low > end || low > range.second) continue;
      add_sequences(low, std::min(range.second, end), out);
      low = end + 1;
    }
  }
  return out;
}

}  // namespace moebius
