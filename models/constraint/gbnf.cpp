#include "models/constraint/gbnf.h"

#include <algorithm>
#include <map>
#include <optional>

#include <fmt/format.h>

#include "models/file_io.h"
#include "models/tokenizer_text.h"

namespace moebius {

namespace {

bool is_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

class GbnfParser {
 public:
  GbnfParser(Grammar& grammar, std::string_view text) : grammar_(grammar), text_(text) {}

  Result<ExprId> parse() {
    if (utf8_valid_prefix(text_) != text_.size()) return invalid("the grammar is not UTF-8");
    space(true);
    while (at_ < text_.size() && status_.ok()) rule();
    if (!status_.ok()) return status_;
    for (const auto& [name, rule] : rules_) {
      if (!rule.defined) return invalid(fmt::format("the grammar has no rule `{}`", name));
    }
    const auto root = rules_.find("root");
    if (root == rules_.end()) return invalid("the grammar has no rule `root`, where it begins");
    return grammar_.call(root->second.id);
  }

 private:
  struct Rule {
    RuleId id = 0;
    bool defined = false;
  };

  void fail(std::string_view what) {
    const auto line =
        1 + std::count(text_.begin(),
                       text_.begin() + static_cast<std::ptrdiff_t>(std::min(at_, text_.size())), '\n');
    if (status_.ok()) status_ = invalid(fmt::format("the grammar is wrong in line {}: {}", line, what));
  }
  bool done() const { return at_ >= text_.size() || !status_.ok(); }
  bool take(std::string_view part) {
    if (!text_.substr(at_).starts_with(part)) return false;
    at_ += part.size();
    return true;
  }

  void space(bool newlines) {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '#') {
        while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      } else if (c == ' ' || c == '\t' || (newlines && (c == '\n' || c == '\r'))) {
        ++at_;
      } else {
        return;
      }
    }
  }

  std::string name() {
    const size_t begin = at_;
    while (at_ < text_.size() && is_name(text_[at_])) ++at_;
    if (at_ == begin) fail("a rule's name is expected");
    if (at_ - begin > 200) fail("a rule's name is too long");
    return std::string(text_.substr(begin, at_ - begin));
  }

  Rule& rule_of(const std::string& name) {
    const auto [at, added] = rules_.try_emplace(name);
    if (added) at->second.id = grammar_.add_rule();
    if (!grammar_.status().ok() && status_.ok()) status_ = grammar_.status();
    return at->second;
  }

  void rule() {
    const std::string left = name();
    space(false);
    if (!take("::=")) return fail("::= is expected after a rule's name");
    space(true);
    const ExprId body = alternatives(0);
    if (!status_.ok()) return;
    Rule& rule = rule_of(left);
    if (rule.defined) return fail(fmt::format("rule `{}` is there twice", left));
    rule.defined = true;
    if (status_.ok()) grammar_.define(rule.id, body);
    if (!done() && text_[at_] != '\n' && text_[at_] != '\r') fail("the end of the rule is expected");
    space(true);
  }

  // Within parentheses, lines do not matter; outside of them a line that begins with | goes on.
  ExprId alternatives(int depth) {
    if (depth > grammar_.limits().nesting) {
      fail("groups nest too deep");
      return 0;
    }
    std::vector<ExprId> parts = {sequence(depth)};
    while (!done()) {
      const size_t before = at_;
      space(true);
      if (!take("|")) {
        at_ = depth > 0 ? at_ : before;
        break;
      }
      space(true);
      parts.push_back(sequence(depth));
    }
    return grammar_.choice(std::move(parts));
  }

  ExprId sequence(int depth) {
    std::vector<ExprId> parts;
    while (!done()) {
      space(depth > 0);
      if (done()) break;
      const char c = text_[at_];
      if (c == '|' || c == ')' || c == '\n' || c == '\r') break;
      parts.push_back(repeated(item(depth)));
    }
    return grammar_.sequence(std::move(parts));
  }

  ExprId item(int depth) {
    if (take("\"")) return literal();
    if (take("[")) return char_class();
    if (take(".")) return grammar_.one_of(CharSet::all());
    if (take("(")) {
      const ExprId inside = alternatives(depth + 1);
      space(true);
      if (!take(")")) fail(") is expected");
      return inside;
    }
    if (!is_name(text_[at_])) {
      fail(fmt::format("unexpected `{}`", printable(text_.substr(at_, 1))));
      return 0;
    }
    return grammar_.call(rule_of(name()).id);
  }

  ExprId repeated(ExprId what) {
    for (int i = 0; !done() && i < 8; ++i) {
      if (take("*")) {
        what = grammar_.repeat(what, 0, kNoMaximum);
      } else if (take("+")) {
        what = grammar_.repeat(what, 1, kNoMaximum);
      } else if (take("?")) {
        what = grammar_.optional(what);
      } else if (take("{")) {
        what = counted(what);
      } else {
        break;
      }
    }
    return what;
  }

  ExprId counted(ExprId what) {
    const int64_t most = grammar_.limits().repeat;
    const int64_t low = number();
    int64_t high = low;
    if (take(",")) {
      space(false);
      high = text_.substr(at_).starts_with("}") ? kNoMaximum : number();
    }
    space(false);
    if (!take("}")) fail("} is expected after a count");
    if (low > most || high > most) fail(fmt::format("a count above {}", most));
    if (high != kNoMaximum && high < low) fail("a range of counts that is empty");
    return status_.ok() ? grammar_.repeat(what, low, high) : what;
  }

  int64_t number() {
    space(false);
    int64_t out = 0;
    const size_t begin = at_;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_)
      out = std::min<int64_t>(out * 10 + (text_[at_] - '0'), 1'000'000'000);
    if (at_ == begin) fail("a count is expected");
    space(false);
    return out;
  }

  // One character of a literal or class, escapes undone.
  char32_t character() {
    if (!take("\\")) return utf8_next(text_, at_);
    if (done()) {
      fail("a lone backslash");
      return 0;
    }
    const char c = text_[at_++];
    switch (c) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'x':
        return hex(2);
      case 'u':
        return hex(4);
      case 'U':
        return hex(8);
      case '"':
      case '\\':
      case '[':
      case ']':
      case '-':
      case '^':
        return static_cast<unsigned char>(c);
      default:
        fail("an unknown escape");
        return 0;
    }
  }

  char32_t hex(int digits) {
    char32_t value = 0;
    for (int i = 0; i < digits; ++i, ++at_) {
      const char c = at_ < text_.size() ? text_[at_] : ' ';
      const int digit = c >= '0' && c <= '9'                 ? c - '0'
                        : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                             : -1;
      if (digit < 0) fail("a wrong hexadecimal escape");
      if (!status_.ok()) return 0;
      value = value << 4 | static_cast<char32_t>(digit);
    }
    if (CharSet{{value, value}}.empty() || value > 0x10FFFF) fail("an escape that is no character");
    return value;
  }

  ExprId literal() {
    std::string out;
    while (!done() && text_[at_] != '"' && text_[at_] != '\n') utf8_append(character(), out);
    if (!take("\"")) fail("a literal without its second \"");
    return grammar_.literal(out);
  }

  ExprId char_class() {
    const bool negated = take("^");
    CharSet set;
    while (!done() && text_[at_] != ']' && text_[at_] != '\n') {
      const char32_t low = character();
      char32_t high = low;
      const bool range = text_.substr(at_).starts_with("-") && !text_.substr(at_).starts_with("-]");
      if (range && take("-")) high = done() ? 0 : character();
      if (status_.ok() && high < low) fail("a wrong range in a class");
      if (status_.ok()) set.add(low, high);
    }
    if (!take("]")) fail("a class without ]");
    return grammar_.one_of(negated ? set.negated() : set);
  }

  Grammar& grammar_;
  const std::string_view text_;
  size_t at_ = 0;
  std::map<std::string, Rule> rules_;
  Status status_;
};

}  // namespace

Result<ExprId> add_gbnf(Grammar& grammar, std::string_view text) { return GbnfParser(grammar, text).parse(); }

}  // namespace moebius
