// CharSet: a set of Unicode scalar values (surrogates are none), as ascending ranges that neither touch nor
// overlap.
#pragma once

#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

namespace moebius {

class CharSet {
 public:
  using Range = std::pair<char32_t, char32_t>;  // both ends belong to it
  CharSet() = default;
  CharSet(std::initializer_list<Range> ranges) {
    for (const Range& range : ranges) add(range.first, range.second);
  }
  static CharSet all() { return {{0, 0x10FFFF}}; }

  void add(char32_t low, char32_t high);
  void add(char32_t character) { add(character, character); }
  void add(const CharSet& other);
  CharSet negated() const;
  CharSet intersected(const CharSet& other) const;
  bool contains(char32_t character) const;
  bool contains(const CharSet& other) const { return other.intersected(negated()).empty(); }
  bool empty() const { return ranges_.empty(); }
  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  std::vector<Range> ranges_;
};

// Bytes of UTF-8, one range after the other, that spell a part of a set; the sequences of one set exclude
// each other. At most four ranges.
struct Utf8Sequence {
  std::pair<unsigned char, unsigned char> bytes[4];
  int length = 0;
};
std::vector<Utf8Sequence> utf8_sequences(const CharSet& set);

}  // namespace moebius
