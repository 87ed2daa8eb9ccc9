#include "models/constraint/regex.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "models/constraint/json_text.h"
#include "models/tokenizer_text.h"

namespace moebius {

namespace {

const CharSet kDigits{{'0', '9'}}, kWord{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
    kSpace{{'\t', '\r'}, {' ', ' '}}, kAscii{{0, 0x7F}};
// Whatever either language calls a space, so that its negation is right for both.
const CharSet kAnySpace{{'\t', '\r'},     {0x1C, ' '},      {0x85, 0x85},     {0xA0, 0xA0},
                        {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F},
                        {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};

struct Quantifier {
  int64_t min = 1, max = 1;
};

int64_t times(int64_t length, int64_t count) {
  constexpr int64_t kMany = int64_t{1} << 40;
  if (length == kNoMaximum || count == kNoMaximum) return length == 0 || count == 0 ? 0 : kNoMaximum;
  return std::min(kMany, length * std::min(count, kMany / std::max<int64_t>(length, 1)));
}

int64_t plus(int64_t a, int64_t b) { return a == kNoMaximum || b == kNoMaximum ? kNoMaximum : a + b; }

class RegexParser {
 public:
  RegexParser(Grammar& grammar, std::string_view pattern, RegexOptions options)
      : grammar_(grammar), pattern_(pattern), options_(options) {}

  Result<RegexExpr> parse() {
    if (utf8_valid_prefix(pattern_) != pattern_.size()) return invalid("the regular expression is not UTF-8");
    RegexExpr out = alternatives(0);
    if (status_.ok() && at_ < pattern_.size()) fail("unmatched )");
    if (!status_.ok()) return status_;
    return out;
  }

 private:
  bool done() const { return at_ >= pattern_.size() || !status_.ok(); }
  bool next_is(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!next_is(text)) return false;
    at_ += text.size();
    return true;
  }
  void fail(std::string_view what) {
    if (status_.ok())
      status_ = invalid(fmt::format("the regular expression is wrong at byte {}: {}", at_, what));
  }
  void refuse(std::string_view what) {
    if (status_.ok())
      status_ = unsupported(
          fmt::format("the regular expression uses {} at byte {}, which is not supported", what, at_));
  }

  ExprId one_of(const CharSet& set) {
    return options_.json ? json_characters(grammar_, set) : grammar_.one_of(set);
  }
  ExprId anything() { return grammar_.repeat(one_of(CharSet::all()), 0, kNoMaximum); }

  RegexExpr alternatives(int depth) {
    if (depth > grammar_.limits().nesting) {
      fail("groups nest too deep");
      return {};
    }
    RegexExpr out = sequence(depth);
    if (done() || !next_is("|")) return out;
    std::vector<ExprId> parts = {whole(out)};
    out.single = false;
    while (!done() && take("|")) {
      const RegexExpr more = sequence(depth);
      parts.push_back(whole(more));
      out.min = std::min(out.min, more.min);
      out.max = out.max == kNoMaximum || more.max == kNoMaximum ? kNoMaximum : std::max(out.max, more.max);
    }
    out.expr = grammar_.choice(std::move(parts));
    return out;
  }

  // One alternative; the outermost ones may be anchored.
  RegexExpr sequence(int depth) {
    const bool outermost = depth == 0;
    const bool from_start = outermost && (take("^") || take("\\A"));
    bool to_end = false;
    std::vector<RegexExpr> pieces;
    while (!done() && !next_is("|") && !next_is(")")) {
      const bool anchor = next_is("$") || next_is("\\Z") || next_is("\\z");
      const size_t after = at_ + (next_is("$") ? 1 : 2);
      if (anchor && outermost && (after == pattern_.size() || pattern_[after] == '|')) {
        at_ = after;
        to_end = true;
        break;
      }
      pieces.push_back(quantified(depth));
    }
    const bool open = outermost && options_.search;
    if (pieces.size() == 1 && pieces[0].single && (!open || (from_start && to_end))) return pieces[0];
    RegexExpr out;
    std::vector<ExprId> parts;
    if (open && !from_start) parts.push_back(anything());
    for (const RegexExpr& piece : pieces) {
      parts.push_back(whole(piece));
      out.min += piece.min;
      out.max = plus(out.max, piece.max);
    }
    if (open && !to_end) parts.push_back(anything());
    if (open && !(from_start && to_end)) out.max = kNoMaximum;
    out.expr = grammar_.sequence(std::move(parts));
    return out;
  }

  ExprId whole(const RegexExpr& piece) {
    return piece.single ? grammar_.repeat(piece.expr, piece.min, piece.max) : piece.expr;
  }

  RegexExpr quantified(int depth) {
    RegexExpr what = atom(depth);
    const std::optional<Quantifier> q = quantifier();
    if (!q || !status_.ok()) return what;
    if (what.single && what.min == 1 && what.max == 1) {
      what.min = q->min, what.max = q->max;
      return what;
    }
    RegexExpr out;
    out.expr = grammar_.repeat(whole(what), q->min, q->max);
    out.min = times(what.min, q->min);
    out.max = times(what.max, q->max);
    return out;
  }

  std::optional<Quantifier> quantifier() {
    if (done()) return {};
    Quantifier out;
    if (take("*")) {
      out = {0, kNoMaximum};
    } else if (take("+")) {
      out = {1, kNoMaximum};
    } else if (take("?")) {
      out = {0, 1};
    } else if (!bounds(out)) {
      return {};
    }
    if (take("+")) refuse("a possessive quantifier");
    take("?");  // lazy: another order of attempts, the same texts
    if (next_is("*") || next_is("+") || next_is("?")) fail("two quantifiers in a row");
    return out;
  }

  // {m}, {m,}, {,n} or {m,n}; false and nothing taken for a brace that is a character.
  bool bounds(Quantifier& out) {
    const size_t begin = at_;
    if (!take("{")) return false;
    const std::optional<int64_t> low = number();
    std::optional<int64_t> high = low;
    const bool comma = take(",");
    if (comma) high = number();
    if (!take("}") || (!low && !high)) {
      at_ = begin;
      return false;
    }
    out = {low.value_or(0), comma && !high ? kNoMaximum : high.value_or(0)};
    const int64_t most = grammar_.limits().repeat;
    if (out.min > most || out.max > most) fail(fmt::format("a count above {}", most));
    if (out.max != kNoMaximum && out.max < out.min) fail("a range of counts that is empty");
    return true;
  }

  std::optional<int64_t> number() {
    constexpr int64_t kMany = 1'000'000'000;
    std::optional<int64_t> out;
    for (; at_ < pattern_.size() && pattern_[at_] >= '0' && pattern_[at_] <= '9'; ++at_)
      out = std::min(kMany, out.value_or(0) * 10 + (pattern_[at_] - '0'));
    return out;
  }

  RegexExpr character(const CharSet& set) { return {one_of(set), 1, 1, true}; }

  RegexExpr atom(int depth) {
    if (take("(")) return group(depth);
    if (take("[")) return character(char_class());
    if (take(".")) return character(CharSet({{'\n', '\n'}}).negated());
    if (take("\\")) return character(escape(false));
    for (const char* wrong : {"*", "+", "?"}) {
      if (next_is(wrong)) fail("a quantifier with nothing before it");
    }
    for (const char* anchor : {"^", "$"}) {
      if (next_is(anchor)) refuse("an anchor that is not at an end of the expression");
    }
    if (!status_.ok()) return {};
    const char32_t c = utf8_next(pattern_, at_);
    return character({{c, c}});
  }

  RegexExpr group(int depth) {
    if (take("?")) {
      if (next_is("P=")) refuse("a back reference");
      const bool named = take("P<") || (next_is("<") && !next_is("<=") && !next_is("<!") && take("<"));
      if (named) {
        while (!done() && !next_is(">")) ++at_;
        if (!take(">")) fail("a group's name without >");
      } else if (next_is("=") || next_is("!") || next_is("<")) {
        refuse("look-around");
      } else if (!take(":")) {
        refuse("flags or an extension");
      }
    }
    RegexExpr out = alternatives(depth + 1);
    if (!take(")")) fail("a group without )");
    return out;
  }

  // After the backslash.
  CharSet escape(bool in_class) {
    if (done()) {
      fail("a lone backslash at the end");
      return {};
    }
    const char32_t c = utf8_next(pattern_, at_);
    switch (c) {
      case 'd':
        return kDigits;
      case 'w':
        return kWord;
      case 's':
        return kSpace;
      case 'D':
        return kDigits.negated().intersected(kAscii);
      case 'W':
        return kWord.negated().intersected(kAscii);
      case 'S':
        return kAnySpace.negated();
      case 't':
        return {{'\t', '\t'}};
      case 'n':
        return {{'\n', '\n'}};
      case 'r':
        return {{'\r', '\r'}};
      case 'f':
        return {{'\f', '\f'}};
      case 'v':
        return {{'\v', '\v'}};
      case 'x':
        return hex(2);
      case 'u':
        return hex(4);
      case 'U':
        return hex(8);
      default:
        break;
    }
    if (c == 'b' && in_class) return {{'\b', '\b'}};
    if (c == '0' && !(at_ < pattern_.size() && pattern_[at_] >= '0' && pattern_[at_] <= '9')) return {{0, 0}};
    if (c >= '0' && c <= '9') refuse("a back reference or an octal escape");
    if (kWord.contains(c) && status_.ok()) refuse(fmt::format("\\{}", static_cast<char>(c)));
    return {{c, c}};
  }

  CharSet hex(int digits) {
    char32_t value = 0;
    for (int i = 0; i < digits; ++i, ++at_) {
      const char c = at_ < pattern_.size() ? pattern_[at_] : ' ';
      const int digit = c >= '0' && c <= '9'                 ? c - '0'
                        : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                             : -1;
      if (digit < 0) fail("a wrong hexadecimal escape");
      if (!status_.ok()) return {};
      value = value << 4 | static_cast<char32_t>(digit);
    }
    const CharSet out{{value, value}};
    if (out.empty() || value > 0x10FFFF) fail("an escape that is no character");
    return out;
  }

  // After the [.
  CharSet char_class() {
    const bool negated = take("^");
    CharSet set;
    bool first = true, negates_ascii = false;
    while (!done() && (first || !next_is("]"))) {
      first = false;
      negates_ascii |= next_is("\\w") || next_is("\\d");
      const CharSet low = class_item();
      const bool range = next_is("-") && !next_is("-]");
      if (!range || !status_.ok()) {
        set.add(low);
        continue;
      }
      take("-");
      negates_ascii |= next_is("\\w") || next_is("\\d");
      const CharSet high = class_item();
      if (!status_.ok()) break;
      const auto single = [](const CharSet& s) {
        return s.ranges().size() == 1 && s.ranges()[0].first == s.ranges()[0].second;
      };
      if (!single(low) || !single(high) || low.ranges()[0].first > high.ranges()[0].first) {
        fail("a wrong range in a class");
        break;
      }
      set.add(low.ranges()[0].first, high.ranges()[0].first);
    }
    if (!take("]")) fail("a class without ]");
    if (!negated) return set;
    return negates_ascii ? set.negated().intersected(kAscii) : set.negated();
  }

  CharSet class_item() {
    if (done()) {
      fail("a class without ]");
      return {};
    }
    if (take("\\")) return escape(true);
    if (next_is("[:")) refuse("a POSIX class");
    const char32_t c = utf8_next(pattern_, at_);
    return {{c, c}};
  }

  Grammar& grammar_;
  const std::string_view pattern_;
  const RegexOptions options_;
  size_t at_ = 0;
  Status status_;
};

}  // namespace

Result<RegexExpr> add_regex(Grammar& grammar, std::string_view pattern, RegexOptions options) {
  return RegexParser(grammar, pattern, options).parse();
}

}  // namespace moebius
