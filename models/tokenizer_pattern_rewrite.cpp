// From Oniguruma (Ruby) and Rust syntax to PCRE2; the rules stand in tokenizer_pattern.h.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <vector>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "models/file_io.h"
#include "models/tokenizer_pattern.h"
#include "models/tokenizer_text.h"

namespace moebius {
namespace {

constexpr size_t kMaxPatternBytes = 64 * 1024;
constexpr int kMaxClassDepth = 16;

// White_Space: PCRE2's \s has U+180E besides.
constexpr std::string_view kSpaceItems =
    R"(\x{09}-\x{0d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kWordItems = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
// Oniguruma's \w and \b take these as well, its classes do not.
constexpr std::string_view kLatin1WordItems = R"(\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";
constexpr std::string_view kHexItems = "0-9a-fA-F";

// What Oniguruma takes these for; PCRE2's are narrower.
constexpr std::array<std::pair<std::string_view, std::string_view>, 9> kNamedClasses = {{
    {"alpha", R"(\p{Alphabetic})"},
    {"alnum", R"(\p{Alphabetic}\p{Nd})"},
    {"upper", R"(\p{Uppercase})"},
    {"lower", R"(\p{Lowercase})"},
    {"digit", R"(\p{Nd})"},
    {"punct", R"(\p{P}\p{S})"},
    {"space", kSpaceItems},
    {"word", kWordItems},
    {"xdigit", kHexItems},
}};

constexpr std::array<std::string_view, 30> kCategories = {
    "Cc", "Cf", "Cn", "Co", "Cs", "Ll", "Lm", "Lo", "Lt", "Lu", "Mc", "Me", "Mn", "Nd", "Nl",
    "No", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs"};
using CategorySet = std::bitset<kCategories.size()>;

constexpr std::array<std::pair<std::string_view, std::string_view>, 14> kLongCategories = {{
    {"Letter", "L"},
    {"Uppercase_Letter", "Lu"},
    {"Lowercase_Letter", "Ll"},
    {"Titlecase_Letter", "Lt"},
    {"Modifier_Letter", "Lm"},
    {"Other_Letter", "Lo"},
    {"Mark", "M"},
    {"Number", "N"},
    {"Decimal_Number", "Nd"},
    {"Letter_Number", "Nl"},
    {"Punctuation", "P"},
    {"Symbol", "S"},
    {"Separator", "Z"},
    {"Other", "C"},
}};

CategorySet categories_named(std::string_view name) {
  CategorySet set;
  for (size_t i = 0; i < kCategories.size(); ++i) set[i] = kCategories[i].starts_with(name);
  return set;
}

std::string category_items(CategorySet set) {
  std::string items;
  for (size_t i = 0; i < kCategories.size(); ++i) {
    if (!set[i]) continue;
    const CategorySet whole = categories_named(kCategories[i].substr(0, 1));
    const bool all = (whole & ~set).none();
    items += fmt::format("\\p{{{}}}", all ? kCategories[i].substr(0, 1) : kCategories[i]);
    if (all) set &= ~whole;
  }
  return items;
}

// A set of characters. Plain: [items categories], negated or not; else expr, which matches one character.
struct CharClass {
  bool plain = true;
  bool negated = false;
  std::string items;
  CategorySet categories;
  std::string expr;
};

CharClass plain_set(std::string_view items, bool negated = false) {
  CharClass set;
  set.items = items;
  set.negated = negated;
  return set;
}

std::string to_expr(const CharClass& set) {
  if (!set.plain) return set.expr;
  const std::string content = set.items + category_items(set.categories);
  if (content.empty()) return set.negated ? "\\p{Any}" : "(?!)";
  return (set.negated ? "[^" : "[") + content + "]";
}

CharClass complement(CharClass set) {
  if (set.plain) {
    set.negated = !set.negated;
  } else {
    set.expr = "(?:(?!" + set.expr + ")\\p{Any})";
  }
  return set;
}

CharClass unite(CharClass base, const std::vector<CharClass>& others) {
  std::string alternatives;
  for (const CharClass& other : others) {
    if (other.plain && !other.negated) {
      base.items += other.items;
      base.categories |= other.categories;
    } else {
      alternatives += '|';
      alternatives += to_expr(other);
    }
  }
  if (alternatives.empty()) return base;
  const bool only = base.items.empty() && base.categories.none();
  if (only && others.size() == 1) return others[0];
  CharClass result;
  result.plain = false;
  result.expr = "(?:" + (only ? alternatives.substr(1) : to_expr(base) + alternatives) + ")";
  return result;
}

// As a negated plain set where that is possible: the categories partition the characters.
bool as_negated(CharClass& set) {
  if (!set.plain) return false;
  if (set.negated) return true;
  if (!set.items.empty()) return false;
  set.categories = ~set.categories;
  set.negated = true;
  return true;
}

// One negated class where De Morgan allows it: its repetition needs no backtracking group, which would cost
// memory for each character of a long run.
CharClass intersect(std::vector<CharClass> parts) {
  if (parts.size() == 1) return parts[0];
  std::vector<CharClass> negated = parts;
  if (std::all_of(negated.begin(), negated.end(), as_negated)) {
    CharClass result = plain_set("", true);
    for (const CharClass& part : negated) {
      result.items += part.items;
      result.categories |= part.categories;
    }
    return result;
  }
  CharClass result;
  result.plain = false;
  result.expr = "(?:";
  for (size_t i = 0; i + 1 < parts.size(); ++i) result.expr += "(?=" + to_expr(parts[i]) + ")";
  result.expr += to_expr(parts.back()) + ")";
  return result;
}

// Whether PCRE2 of this version knows `\p{sc:name}`: since 10.40 a script's plain name means its extensions
// too.
bool is_script_here(std::string_view name) {
  const std::string probe = fmt::format("\\p{{sc:{}}}", name);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(probe.data()), probe.size(),
                                   PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

class Rewriter {
 public:
  explicit Rewriter(std::string_view pattern) : pattern_(pattern) {}

  Result<std::string> run() {
    while (position_ < pattern_.size()) MOEBIUS_TRY(element());
    return std::move(out_);
  }

 private:
  Status refuse(std::string_view why) const {
    return unsupported(
        fmt::format("pattern {}: {} at byte {} is not supported", printable(pattern_), why, position_));
  }
  bool at_end() const { return position_ >= pattern_.size(); }
  bool sees(std::string_view text) const { return pattern_.substr(position_).starts_with(text); }
  bool take(std::string_view text) {
    if (!sees(text)) return false;
    position_ += text.size();
    return true;
  }
  char32_t next() { return utf8_next(pattern_, position_); }

  static std::string literal(char32_t c) {
    const bool alphanumeric = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    return alphanumeric ? std::string(1, static_cast<char>(c))
                        : fmt::format("\\x{{{:x}}}", static_cast<uint32_t>(c));
  }

  // An element begins an atom unless it is an assertion mark or an operator; atom_ is where it began in out_.
  Status element() {
    const size_t begin = out_.size();
    if (sees("\\")) {
      atom_ = begin;
      return escape();
    }
    if (take("(")) {
      groups_.push_back({begin, caseless_});
      out_ += '(';
      return group_prefix();
    }
    if (take(")")) {
      if (groups_.empty()) return refuse("an unopened )");
      atom_ = groups_.back().begin;
      caseless_ = groups_.back().caseless_outside;
      groups_.pop_back();
      out_ += ')';
      return {};
    }
    if (take("[")) {
      atom_ = begin;
      MOEBIUS_ASSIGN(const CharClass set, char_class(0));
      out_ += to_expr(set);
      return {};
    }
    if (sees("{")) return interval();
    const char32_t c = next();
    if (c < 0x80 && std::string_view("^$.|*+?").find(static_cast<char>(c)) != std::string_view::npos) {
      if (c == '.') atom_ = begin;
      out_ += static_cast<char>(c);
      return {};
    }
    atom_ = begin;
    out_ += literal(c);
    return {};
  }

  Status group_prefix() {
    if (!sees("?")) return {};
    for (std::string_view plain : {"?:", "?=", "?!", "?<=", "?<!", "?>"}) {
      if (take(plain)) {
        out_ += plain;
        return {};
      }
    }
    take("?");
    out_ += '?';
    bool any = false, on = true;
    while (!at_end() && !sees(":") && !sees(")")) {
      const char32_t flag = next();
      if (flag != 'i' && flag != 'm' && flag != '-') return refuse("a group option");
      if (flag == 'i') caseless_ = on;
      if (flag == '-') on = false;
      out_ += flag == 'm' ? 's' : static_cast<char>(flag);  // Ruby's m lets the dot match a line end
      any = true;
    }
    if (!any || at_end()) return refuse("a group option");
    if (take(":")) {
      out_ += ':';
    } else {  // the option holds beyond this group; within an alternative the dialects differ on how far
      if (groups_.back().begin != 0) return refuse("an option inside of a pattern");
      const bool caseless = caseless_;
      take(")");
      out_ += ')';
      groups_.pop_back();
      caseless_ = caseless;
    }
    return {};
  }

  // {n}, {n,}, {n,m}, {,m}; anything else in braces is literal text.
  Status interval() {
    size_t i = position_ + 1;
    const auto digits = [&] {
      const size_t begin = i;
      while (i < pattern_.size() && pattern_[i] >= '0' && pattern_[i] <= '9') ++i;
      return std::string(pattern_.substr(begin, i - begin));
    };
    const std::string low = digits();
    bool comma = i < pattern_.size() && pattern_[i] == ',';
    if (comma) ++i;
    const std::string high = comma ? digits() : "";
    if (i >= pattern_.size() || pattern_[i] != '}' || (low.empty() && high.empty())) {
      atom_ = out_.size();
      ++position_;
      out_ += literal('{');
      return {};
    }
    position_ = i + 1;
    out_ += fmt::format("{{{}{}{}}}", low.empty() ? "0" : low, comma ? "," : "", high);
    if (sees("?") && !comma) return refuse("a lazy fixed repetition");
    if (take("+")) {  // in Ruby a second repetition, not a possessive one
      out_.insert(atom_, "(?:");
      out_ += ")+";
    }
    return {};
  }

  Status escape() {
    take("\\");
    if (at_end()) return refuse("a lone backslash");
    const size_t begin = position_;
    const char32_t c = next();
    switch (c) {
      case 'A':
      case 'z':
      case 'Z':
      case 'G':
        out_ += '\\';
        out_ += static_cast<char>(c);
        return {};
      case 'b':
      case 'B': {
        const std::string word = fmt::format("[{}{}]", kWordItems, kLatin1WordItems);
        out_ += c == 'b' ? fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word)
                         : fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", word);
        return {};
      }
      case 'w':
      case 'W':
        out_ += fmt::format("[{}{}{}]", c == 'W' ? "^" : "", kWordItems, kLatin1WordItems);
        return {};
      case 'R':
      case 'X':
        return refuse("this escape");
      default:
        position_ = begin;
        break;
    }
    MOEBIUS_ASSIGN(const CharClass set, char_escape());
    out_ += to_expr(set);
    return {};
  }

  // What follows a backslash, in or out of a class, where it stands for a character or a set of them.
  // A single character leaves single_ set to it.
  Result<CharClass> char_escape() {
    single_ = kNoCharacter;
    const char32_t c = next();
    switch (c) {
      case 's':
      case 'S':
        return plain_set(kSpaceItems, c == 'S');
      case 'w':
      case 'W':
        return plain_set(kWordItems, c == 'W');
      case 'h':
      case 'H':
        return plain_set(kHexItems, c == 'H');
      case 'd':
      case 'D': {
        CharClass set = plain_set("", c == 'D');
        set.categories = categories_named("Nd");
        return set;
      }
      case 'p':
      case 'P':
        return property(c == 'P');
      default:
        break;
    }
    MOEBIUS_ASSIGN(single_, escaped_character(c));
    return plain_set(literal(single_));
  }

  Result<char32_t> escaped_character(char32_t c) {
    switch (c) {
      case 't':
        return U'\t';
      case 'n':
        return U'\n';
      case 'v':
        return U'\v';
      case 'f':
        return U'\f';
      case 'r':
        return U'\r';
      case 'a':
        return U'\a';
      case 'e':
        return U'\x1b';
      case 'x':
        return take("{") ? hex(1, 8, "}") : hex(1, 2, "");
      case 'u':
        return hex(4, 4, "");
      default:
        break;
    }
    const bool alphanumeric = c < 0x80 && std::isalnum(static_cast<int>(c));
    if (alphanumeric) return refuse("this escape");
    return c;
  }

  Result<char32_t> hex(int least, int most, std::string_view close) {
    uint32_t value = 0;
    int count = 0;
    for (; count < most && !at_end() && std::isxdigit(static_cast<unsigned char>(pattern_[position_]));
         ++count) {
      const char digit = pattern_[position_++];
      value = value * 16 + static_cast<uint32_t>(digit <= '9' ? digit - '0' : (digit | 32) - 'a' + 10);
    }
    const bool surrogate = value >= 0xD800 && value <= 0xDFFF;
    if (count < least || !take(close) || value > 0x10FFFF || surrogate)
      return refuse("this character number");
    if (least == 1 && close.empty() && value > 0x7F) return refuse("a byte that is not a character");
    return static_cast<char32_t>(value);
  }

  Result<CharClass> property(bool negated) {
    std::string name;
    if (take("{")) {
      if (take("^")) negated = !negated;
      const size_t close = pattern_.find('}', position_);
      if (close == std::string_view::npos || close - position_ > 64) return refuse("this property");
      name = pattern_.substr(position_, close - position_);
      position_ = close + 1;
    } else if (!at_end()) {
      name = std::string(1, pattern_[position_++]);
    }
    const bool sane = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == ' ' || c == '&';
    });
    if (!sane) return refuse("this property");
    for (const auto& [full, brief] : kLongCategories) {
      if (name == full) name = brief;
    }
    CharClass set = plain_set("", negated);
    if (name.size() <= 2) set.categories = categories_named(name);
    if (name == "L&" || name == "LC") {
      set.categories = categories_named("Lu") | categories_named("Ll") | categories_named("Lt");
    }
    const CategorySet cased = categories_named("Lu") | categories_named("Ll") | categories_named("Lt");
    const bool some_cased = (set.categories & cased).any() && (set.categories & cased) != cased;
    if (caseless_ && some_cased) return refuse("a case property where case does not count");
    if (set.categories.none()) {
      set.items = fmt::format("\\p{{{}{}}}", name.size() > 2 && is_script_here(name) ? "sc:" : "", name);
    }
    return set;
  }

  // After the opening bracket.
  Result<CharClass> char_class(int depth) {
    if (depth == kMaxClassDepth) return refuse("a deeper nested class");
    const bool negated = take("^");
    std::vector<CharClass> parts;
    CharClass base;
    std::vector<CharClass> nested;
    for (bool first = true;; first = false) {
      if (at_end()) return refuse("a class without its end");
      if (sees("]") && !first) break;
      if (take("&&")) {
        parts.push_back(unite(std::move(base), nested));
        base = CharClass();
        nested.clear();
        continue;
      }
      MOEBIUS_TRY(class_item(depth, base, nested));
    }
    take("]");
    parts.push_back(unite(std::move(base), nested));
    CharClass set = intersect(std::move(parts));
    return negated ? complement(std::move(set)) : std::move(set);
  }

  Status class_item(int depth, CharClass& base, std::vector<CharClass>& nested) {
    if (sees("[:")) return named_class(nested);
    if (take("[")) {
      MOEBIUS_ASSIGN(CharClass inner, char_class(depth + 1));
      nested.push_back(std::move(inner));
      return {};
    }
    MOEBIUS_ASSIGN(CharClass set, class_character());
    if (single_ == kNoCharacter) {
      nested.push_back(std::move(set));
      return {};
    }
    const char32_t low = single_;
    const bool range = sees("-") && position_ + 1 < pattern_.size() && pattern_[position_ + 1] != ']';
    if (!range || sees("-[")) {
      base.items += set.items;
      return {};
    }
    take("-");
    MOEBIUS_ASSIGN(set, class_character());
    if (single_ == kNoCharacter || single_ < low) return refuse("this range");
    base.items += literal(low) + "-" + literal(single_);
    return {};
  }

  // [:name:] or [:^name:]
  Status named_class(std::vector<CharClass>& nested) {
    const size_t begin = position_ + 2;
    const size_t close = pattern_.find(":]", begin);
    if (close == std::string_view::npos) return refuse("this class name");
    std::string_view name = pattern_.substr(begin, close - begin);
    const bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    for (const auto& [known, items] : kNamedClasses) {
      if (name != known) continue;
      nested.push_back(plain_set(items, negated));
      position_ = close + 2;
      return {};
    }
    return refuse("this class name");
  }

  Result<CharClass> class_character() {
    if (!take("\\")) {
      single_ = next();
      return plain_set(literal(single_));
    }
    if (at_end()) return refuse("a lone backslash");
    if (take("b")) {
      single_ = U'\b';
      return plain_set(literal(single_));
    }
    return char_escape();
  }

  static constexpr char32_t kNoCharacter = 0xFFFFFFFF;

  std::string_view pattern_;
  size_t position_ = 0;
  std::string out_;
  size_t atom_ = 0;  // where the last atom begins in out_
  struct Group {
    size_t begin;  // in out_
    bool caseless_outside;
  };
  std::vector<Group> groups_;  // the open ones
  bool caseless_ = false;
  char32_t single_ = kNoCharacter;
};

}  // namespace

Result<std::string> rewrite_pattern(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return unsupported(
        fmt::format("a pattern of {} bytes; the limit is {}", pattern.size(), kMaxPatternBytes));
  }
  if (utf8_valid_prefix(pattern) != pattern.size()) return invalid("a pattern that is not UTF-8");
  return Rewriter(pattern).run();
}

}  // namespace moebius
