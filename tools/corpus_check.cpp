#include "tools/corpus_check.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

namespace moebius {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMaxExpression = 1000, kMaxMention = 800, kMaxCandidates = 64;
constexpr int kMaxDepth = 50, kMaxJsonDepth = 8;

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string squeezed(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (!is_space(c)) {
      out.push_back(c);
    } else if (!out.empty() && out.back() != ' ') {
      out.push_back(' ');
    }
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

std::string lowered(std::string text) {
  for (char& c : text) c = lower(c);
  return text;
}

class Expression {
 public:
  explicit Expression(std::string_view text) : text_(text) {}

  std::optional<double> value() {
    const std::optional<double> result = sum(0);
    skip();
    return result && at_ == text_.size() && std::isfinite(*result) ? result : std::nullopt;
  }

 private:
  void skip() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  }
  char take_any(std::string_view wanted) {
    skip();
    return at_ < text_.size() && wanted.find(text_[at_]) != std::string_view::npos ? text_[at_++] : '\0';
  }

  std::optional<double> sum(int depth) {
    std::optional<double> left = product(depth);
    while (left) {
      const char operation = take_any("+-");
      if (operation == '\0') break;
      const std::optional<double> right = product(depth);
      if (!right) return right;
      *left += operation == '+' ? *right : -*right;
    }
    return left;
  }

  std::optional<double> product(int depth) {
    std::optional<double> left = factor(depth);
    while (left) {
      const char operation = take_any("*/");
      if (operation == '\0') break;
      const std::optional<double> right = factor(depth);
      if (!right || (operation == '/' && *right == 0)) return std::nullopt;
      *left = operation == '*' ? *left * *right : *left / *right;
    }
    return left;
  }

  std::optional<double> factor(int depth) {
    if (depth > kMaxDepth) return std::nullopt;
    if (const char sign = take_any("+-")) {
      std::optional<double> value = factor(depth + 1);
      if (value && sign == '-') *value = -*value;
      return value;
    }
    if (take_any("(") != '\0') {
      const std::optional<double> inside = sum(depth + 1);
      return inside && take_any(")") != '\0' ? inside : std::nullopt;
    }
    skip();
    if (at_ >= text_.size() || !is_digit(text_[at_])) return std::nullopt;
    double value = 0;
    const auto [end, error] =
        std::from_chars(text_.data() + at_, text_.data() + text_.size(), value, std::chars_format::fixed);
    if (error != std::errc()) return std::nullopt;
    at_ = static_cast<size_t>(end - text_.data());
    return value;
  }

  std::string_view text_;
  size_t at_ = 0;
};

std::string_view final_answer(std::string_view reply) {
  constexpr std::string_view kMark = "Answer:";
  std::string_view found = reply;
  for (size_t at = 0; at < reply.size();) {
    const size_t end = std::min(reply.find('\n', at), reply.size());
    std::string_view line = reply.substr(at, end - at);
    while (!line.empty() && is_space(line.front())) line.remove_prefix(1);
    if (line.substr(0, kMark.size()) == kMark) found = line.substr(kMark.size());
    at = end + 1;
  }
  return found;
}

bool has_line(std::string_view reply, const std::string& wanted) {
  for (size_t at = 0; at < reply.size();) {
    const size_t end = std::min(reply.find('\n', at), reply.size());
    if (squeezed(reply.substr(at, end - at)) == wanted) return true;
    at = end + 1;
  }
  return false;
}

// Whether word stands in text with no letter, digit or hyphen before or after it; both in lower case.
bool mentions(std::string_view text, std::string_view word) {
  if (word.empty()) return false;
  const auto inside = [](char c) { return is_letter(c) || is_digit(c) || c == '-'; };
  for (size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || !inside(text[at - 1])) && (end == text.size() || !inside(text[end]))) return true;
  }
  return false;
}

// Sentences start with a capital or a quotation mark and end with . ! or ?
bool is_prose(const std::string& text) {
  int sentences = 0;
  bool start = true;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (start && c != ' ') {
      if (c != '"' && !(c >= 'A' && c <= 'Z')) return false;
      start = false;
      continue;
    }
    const bool mark = c == '.' || c == '!' || c == '?';
    const bool closes = i + 1 == text.size() || text[i + 1] == ' ' || text[i + 1] == '"';
    if (mark && closes) {
      ++sentences;
      // After a spoken sentence the narrator may go on in lower case: "Wait!" said the owl.
      start = i + 1 < text.size() && text[i + 1] == ' ';
    }
  }
  const char last = text.empty()                            ? '\0'
                    : text.back() == '"' && text.size() > 1 ? text[text.size() - 2]
                                                            : text.back();
  return sentences >= 3 && sentences <= 30 && (last == '.' || last == '!' || last == '?');
}

bool is_story(std::string_view answer, std::string_view reply) {
  if (reply.size() < 100 || reply.size() > 3000) return false;
  const std::string text = squeezed(reply), small = lowered(text);
  for (size_t at = 0; at < answer.size();) {
    const size_t end = std::min(answer.find(',', at), answer.size());
    if (!mentions(small, lowered(squeezed(answer.substr(at, end - at))))) return false;
    at = end + 1;
  }
  return is_prose(text);
}

// The JSON object that starts at text[0], or "" where none ends.
std::string_view object_at(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxJsonDepth) return {};
    } else if ((c == '}' || c == ']') && --depth == 0) {
      return text.substr(0, i + 1);
    }
  }
  return {};
}

// The expression of the first call of the calculator.
std::optional<std::string> called_expression(std::string_view reply) {
  size_t candidates = 0;
  for (size_t at = reply.find('{'); at != std::string_view::npos && candidates < kMaxCandidates;
       at = reply.find('{', at + 1), ++candidates) {
    const std::string_view text = object_at(reply.substr(at));
    const ordered_json call = ordered_json::parse(text.begin(), text.end(), nullptr, false);
    if (!call.is_object() || call.value("name", ordered_json()) != "calculator") continue;
    const ordered_json arguments = call.value("arguments", ordered_json());
    if (!arguments.is_object()) continue;
    const ordered_json expression = arguments.value("expression", ordered_json());
    if (expression.is_string()) return expression.get<std::string>();
  }
  return std::nullopt;
}

bool calls_right(std::string_view answer, std::string_view reply) {
  const std::optional<std::string> expression = called_expression(reply);
  if (!expression) return false;
  const Result<double> got = evaluate_expression(*expression), wanted = evaluate_expression(answer);
  return got.ok() && wanted.ok() && std::abs(*got - *wanted) <= 1e-9 * std::max(1., std::abs(*wanted));
}

bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

}  // namespace

Result<double> evaluate_expression(std::string_view text) {
  if (text.size() <= kMaxExpression) {
    if (const std::optional<double> value = Expression(text).value()) return *value;
  }
  return invalid("not an arithmetic expression; use numbers, + - * / and parentheses");
}

bool check_reply(std::string_view task, std::string_view answer, std::string_view reply) {
  const std::string wanted = squeezed(answer);
  if (starts_with(task, "story")) return is_story(answer, reply);
  if (task == "tools.calculator") return calls_right(answer, reply);
  if (task == "about.command") return has_line(reply, wanted);
  if (task == "about.fact" || starts_with(task, "talk")) {
    return reply.size() <= kMaxMention && mentions(lowered(squeezed(reply)), lowered(wanted));
  }
  if (task == "tools.unneeded" && called_expression(reply)) return false;
  return squeezed(final_answer(reply)) == wanted;
}

}  // namespace moebius
