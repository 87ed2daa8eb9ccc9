#include "models/jinja/lexer.h"

#include <algorithm>

#include <fmt/core.h>

#include "models/jinja/text.h"

namespace moebius::jinja {
namespace {

constexpr size_t kNone = std::string_view::npos;

// Newlines of every kind become \n, and one at the end of the file goes.
std::string normalize(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') continue;
      out.push_back('\n');
    } else {
      out.push_back(source[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)), text_(source_) {}

  std::vector<Lexeme> run() {
    while (at_ < text_.size()) root();
    emit(Token::kEnd, "");
    return std::move(out_);
  }

 private:
  [[noreturn]] void error(const std::string& message) const { throw Error{Code::kInvalid, line_, message}; }
  bool starts(std::string_view prefix) const { return text_.substr(at_).starts_with(prefix); }
  void emit(Token token, std::string text) { out_.push_back({token, line_, std::move(text)}); }

  void advance(size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) line_ += text_[at_ + i] == '\n';
    at_ += bytes;
  }

  void skip_space() {
    while (at_ < text_.size()) {
      size_t end = at_;
      if (!is_space(next_char(text_, end))) return;
      advance(end - at_);
    }
  }

  // The text up to a tag that begins with sign, trimmed as the sign and lstrip_blocks ask.
  std::string_view before_tag(std::string_view data, char sign, bool variable) const {
    if (sign == '-') return strip(data, Side::kRight);
    if (sign == '+' || variable) return data;
    const size_t newline = data.rfind('\n');
    const size_t begin = newline == kNone ? 0 : newline + 1;
    if (begin == 0 && !line_starting_) return data;
    const std::string_view indent = data.substr(begin);
    return strip(indent, Side::kBoth).empty() ? data.substr(0, begin) : data;
  }

  void data(std::string_view shown, size_t bytes) {
    if (!shown.empty()) emit(Token::kData, std::string(shown));
    advance(bytes);
  }

  char sign() {
    if (at_ >= text_.size() || (text_[at_] != '-' && text_[at_] != '+')) return 0;
    return text_[at_++];
  }

  void root() {
    size_t tag = at_;
    while (true) {
      tag = text_.find('{', tag);
      if (tag == kNone || tag + 1 >= text_.size()) return data(text_.substr(at_), text_.size() - at_);
      const char kind = text_[tag + 1];
      if (kind == '{' || kind == '%' || kind == '#') break;
      ++tag;
    }
    const std::string_view before = text_.substr(at_, tag - at_);
    const char kind = text_[tag + 1];
    const char mark =
        tag + 2 < text_.size() && (text_[tag + 2] == '-' || text_[tag + 2] == '+') ? text_[tag + 2] : 0;
    data(before_tag(before, mark, kind == '{'), before.size());
    at_ += mark != 0 ? 3 : 2;
    line_starting_ = false;
    if (kind == '#') return comment();
    if (kind == '%' && raw_begins()) return raw();
    emit(kind == '{' ? Token::kOpenVariable : Token::kOpenBlock, "");
    code(kind == '{');
  }

  // After the end of a block or comment: the white space that "-" strips, or the newline of trim_blocks.
  void after_tag(char mark) {
    if (mark == '-') {
      skip_space();
    } else if (mark != '+' && starts("\n")) {
      advance(1);
    }
    line_starting_ = text_[at_ - 1] == '\n';
  }

  // A comment or raw block that opens where the file ends is no error to Jinja.
  void comment() {
    if (at_ == text_.size()) return;
    const size_t end = text_.find("#}", at_);
    if (end == kNone) error("a comment has no end; close it with #}");
    const char mark = end > at_ ? text_[end - 1] : 0;
    advance(end - at_ + 2);
    after_tag(mark == '-' || mark == '+' ? mark : 0);
  }

  // At the name after "{%": consumes "raw %}" if it is one.
  bool raw_begins() {
    const size_t begin = at_;
    const int line = line_;
    skip_space();
    if (starts("raw")) {
      advance(3);
      skip_space();
      const bool strips = starts("-%}");
      if (strips || starts("%}")) {
        advance(strips ? 3 : 2);
        if (strips) skip_space();
        line_starting_ = text_[at_ - 1] == '\n';
        return true;
      }
    }
    at_ = begin;
    line_ = line;
    return false;
  }

  void raw() {
    const size_t begin = at_;
    const int line = line_;
    for (size_t tag = text_.find("{%", begin); tag != kNone; tag = text_.find("{%", tag + 1)) {
      at_ = tag + 2;
      const char mark = sign();
      skip_space();
      if (!starts("endraw")) continue;
      at_ += 6;
      skip_space();
      const char end_mark = starts("-%}") || starts("+%}") ? text_[at_] : 0;
      if (end_mark == 0 && !starts("%}")) continue;
      const size_t end = at_ + (end_mark != 0 ? 3 : 2);
      at_ = begin;
      line_ = line;
      const std::string_view inside = text_.substr(begin, tag - begin);
      data(before_tag(inside, mark, false), inside.size());
      advance(end - at_);
      return after_tag(end_mark);
    }
    line_ = line;
    at_ = begin;
    if (begin == text_.size()) return;
    error("a raw block has no end; close it with {% endraw %}");
  }

  // The end of a variable or block, if it is here and no bracket is open.
  bool code_ends(bool variable) {
    if (!brackets_.empty()) return false;
    const std::string_view end = variable ? "}}" : "%}";
    char mark = 0;
    if (!starts(end)) {
      if (!text_.substr(std::min(at_ + 1, text_.size())).starts_with(end)) return false;
      if (text_[at_] != '-' && (variable || text_[at_] != '+')) return false;
      mark = text_[at_];
    }
    emit(variable ? Token::kCloseVariable : Token::kCloseBlock, "");
    at_ += mark != 0 ? 3 : 2;
    after_tag(variable && mark == 0 ? '+' : mark);
    return true;
  }

  void code(bool variable) {
    brackets_.clear();
    while (at_ < text_.size()) {
      if (code_ends(variable)) return;
      skip_space();
      if (at_ >= text_.size() || code_ends(variable)) return;
      const char c = text_[at_];
      size_t end = at_;
      const char32_t wide = next_char(text_, end);
      if (is_digit(c)) {
        number();
      } else if (c == '_' || is_alnum(wide)) {
        name();
      } else if (c == '\'' || c == '"') {
        string();
      } else {
        punctuation(wide);
      }
    }
  }

  void name() {
    size_t end = at_;
    while (end < text_.size()) {
      size_t next = end;
      const char32_t c = next_char(text_, next);
      if (c != '_' && !is_alnum(c)) break;
      end = next;
    }
    emit(Token::kName, std::string(text_.substr(at_, end - at_)));
    at_ = end;
  }

  // Digits of that base with single underscores between them, from `from`; the offset behind them.
  template <class IsDigit>
  size_t digits(size_t from, IsDigit is_one) const {
    size_t end = from;
    while (end < text_.size() && (is_one(text_[end]) || (text_[end] == '_' && end > from &&
                                                         end + 1 < text_.size() && is_one(text_[end + 1])))) {
      ++end;
    }
    return end;
  }

  void number() {
    const size_t whole = digits(at_, is_digit);
    size_t end = whole;
    const bool after_dot = at_ > 0 && text_[at_ - 1] == '.';
    if (!after_dot) {
      if (end + 1 < text_.size() && text_[end] == '.' && is_digit(text_[end + 1]))
        end = digits(end + 1, is_digit);
      if (end < text_.size() && (text_[end] | 32) == 'e') {
        size_t exponent = end + 1;
        if (exponent < text_.size() && (text_[exponent] == '+' || text_[exponent] == '-')) ++exponent;
        if (exponent < text_.size() && is_digit(text_[exponent])) end = digits(exponent, is_digit);
      }
    }
    const bool real = end != whole;
    if (!real) end = integer_end(whole);
    std::string text(text_.substr(at_, end - at_));
    std::erase(text, '_');
    emit(real ? Token::kFloat : Token::kInteger, std::move(text));
    at_ = end;
  }

  size_t integer_end(size_t whole) const {
    if (text_[at_] != '0') return whole;
    const char base = at_ + 1 < text_.size() ? static_cast<char>(text_[at_ + 1] | 32) : '\0';
    size_t from = at_ + 2;
    if (from < text_.size() && text_[from] == '_') ++from;
    size_t end = from;
    if (base == 'b') end = digits(from, [](char c) { return c == '0' || c == '1'; });
    if (base == 'o') end = digits(from, [](char c) { return c >= '0' && c <= '7'; });
    if (base == 'x') {
      end = digits(from, [](char c) { return is_digit(c) || ((c | 32) >= 'a' && (c | 32) <= 'f'); });
    }
    if (end > from) return end;
    return digits(at_, [](char c) { return c == '0'; });
  }

  void punctuation(char32_t wide) {
    static constexpr std::string_view kDouble[] = {"//", "**", "==", "!=", ">=", "<="};
    for (const std::string_view two : kDouble) {
      if (starts(two)) {
        emit(Token::kOperator, std::string(two));
        at_ += 2;
        return;
      }
    }
    const char c = text_[at_];
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == kNone) {
      error(wide < 0x80 && is_printable(wide)
                ? fmt::format("unexpected character '{}'", c)
                : fmt::format("unexpected character U+{:04X}", static_cast<uint32_t>(wide)));
    }
    if (c == '(' || c == '[' || c == '{') brackets_.push_back(c == '(' ? ')' : (c == '[' ? ']' : '}'));
    if (c == ')' || c == ']' || c == '}') {
      if (brackets_.empty() || brackets_.back() != c) error(fmt::format("unexpected '{}'", c));
      brackets_.pop_back();
    }
    emit(Token::kOperator, std::string(1, c));
    ++at_;
  }

  void string() {
    const char quote = text_[at_];
    const int line = line_;
    std::string value;
    size_t i = at_ + 1;
    while (i < text_.size() && text_[i] != quote) {
      if (text_[i] == '\\' && i + 1 < text_.size()) {
        i = escape(i + 1, value);
      } else {
        value.push_back(text_[i++]);
      }
    }
    if (i >= text_.size()) error("a string has no end");
    advance(i + 1 - at_);
    out_.push_back({Token::kString, line, std::move(value)});
  }

  // i: the character after the backslash. Appends what it stands for and returns the offset behind it.
  size_t escape(size_t i, std::string& value) const {
    static constexpr std::string_view kNames = "abfnrtv\\'\"";
    static constexpr std::string_view kValues = "\a\b\f\n\r\t\v\\'\"";
    const char c = text_[i];
    if (c == '\n') return i + 1;
    if (const size_t found = kNames.find(c); found != kNone) {
      value.push_back(kValues[found]);
      return i + 1;
    }
    if (c == 'x') return code_point(i + 1, 2, value);
    if (c == 'u') return code_point(i + 1, 4, value);
    if (c == 'U') return code_point(i + 1, 8, value);
    if (c == 'N') error("named characters (\\N{...}) are not supported; write the character itself");
    if (c >= '0' && c <= '7') {
      char32_t octal = 0;
      size_t end = i;
      while (end < text_.size() && end < i + 3 && text_[end] >= '0' && text_[end] <= '7') {
        octal = octal * 8 + static_cast<char32_t>(text_[end++] - '0');
      }
      append_char(value, octal);
      return end;
    }
    value.push_back('\\');
    return i;
  }

  size_t code_point(size_t from, size_t count, std::string& value) const {
    uint64_t c = 0;
    for (size_t k = from; k < from + count; ++k) {
      const char digit = k < text_.size() ? text_[k] : '\0';
      const char lower = static_cast<char>(digit | 32);
      if (!is_digit(digit) && (lower < 'a' || lower > 'f')) error("an escape in a string is cut short");
      c = c * 16 + static_cast<uint64_t>(is_digit(digit) ? digit - '0' : lower - 'a' + 10);
    }
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) error("an escape in a string is not a character");
    append_char(value, static_cast<char32_t>(c));
    return from + count;
  }

  std::string source_;
  std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::string brackets_;  // closing brackets that are still to come
  std::vector<Lexeme> out_;
};

}  // namespace

std::vector<Lexeme> tokenize(std::string_view source) { return Lexer(normalize(source)).run(); }

}  // namespace moebius::jinja
