// The two old ways to format: pattern % arguments and pattern.format(...).
#include <algorithm>
#include <cmath>

#include <fmt/core.h>

#include "models/jinja/call.h"
#include "models/jinja/format.h"
#include "models/jinja/numbers.h"
#include "models/jinja/text.h"

namespace moebius::jinja {
namespace {

constexpr int64_t kMaxPrecision = 1000;

struct Spec {
  std::string fill = " ";
  char align = 0;  // < > ^ =
  char sign = '-';
  bool alternate = false;
  char grouping = 0;
  int64_t width = 0;
  int64_t precision = -1;
  char type = 0;
};

int64_t read_number(std::string_view text, size_t& at) {
  int64_t value = 0;
  for (; at < text.size() && is_digit(text[at]); ++at)
    value = std::min<int64_t>(value * 10 + (text[at] - '0'), 1 << 30);
  return value;
}

void write_padded(Builder& out, const Spec& spec, std::string_view sign, std::string_view body,
                  char default_align) {
  const char align = spec.align != 0 ? spec.align : default_align;
  const int64_t missing = spec.width - count_chars(sign) - count_chars(body);
  const int64_t before = missing <= 0 || align == '<' ? 0 : (align == '^' ? missing / 2 : missing);
  if (align == '=') out.add(sign);
  out.repeat(spec.fill, before);
  if (align != '=') out.add(sign);
  out.add(body);
  if (missing > before) out.repeat(spec.fill, missing - before);
}

std::string grouped(std::string digits, char separator, size_t size) {
  const size_t whole = std::min(digits.find_first_not_of("0123456789abcdefABCDEF"), digits.size());
  for (size_t i = whole; i > size; i -= size) digits.insert(i - size, 1, separator);
  return digits;
}

std::string int_digits(Int value, int base, bool upper) {
  std::string digits;
  do {
    const int digit = std::abs(static_cast<int>(value % base));
    digits.push_back((upper ? "0123456789ABCDEF" : "0123456789abcdef")[digit]);
    value /= base;
  } while (value != 0);
  std::reverse(digits.begin(), digits.end());
  return digits;
}

std::string_view sign_text(const Spec& spec, bool negative) {
  if (negative) return "-";
  return spec.sign == '+' ? "+" : (spec.sign == ' ' ? " " : "");
}

void write_int(Builder& out, Spec spec, Int value) {
  const char type = spec.type;
  const int base = type == 'x' || type == 'X' ? 16 : (type == 'o' ? 8 : (type == 'b' ? 2 : 10));
  std::string digits = int_digits(value, base, type == 'X');
  if (static_cast<int64_t>(digits.size()) < spec.precision) {
    digits.insert(0, static_cast<size_t>(spec.precision) - digits.size(), '0');
  }
  if (spec.grouping != 0) digits = grouped(digits, spec.grouping, base == 10 ? 3 : 4);
  std::string sign(sign_text(spec, value < 0));
  if (spec.alternate && base != 10) sign += std::string("0") + type;
  write_padded(out, spec, sign, digits, '>');
}

void write_float(Builder& out, const Spec& spec, double value) {
  char type = spec.type == 0 ? 'g' : spec.type;
  int64_t precision = spec.precision < 0 ? 6 : spec.precision;
  const double shown = std::abs(type == '%' ? value * 100 : value);
  std::string digits;
  if (!std::isfinite(shown)) {
    digits = std::isnan(shown) ? "nan" : "inf";
  } else if (spec.type == 0 && spec.precision < 0) {
    digits = float_text(shown);
  } else if (type == 'f' || type == 'F' || type == '%') {
    digits = fmt::format("{:.{}f}", shown, precision);
  } else if (type == 'e' || type == 'E') {
    digits = fmt::format("{:.{}e}", shown, precision);
  } else if (spec.alternate) {
    digits = fmt::format("{:#.{}g}", shown, std::max<int64_t>(precision, 1));
  } else {
    digits = fmt::format("{:.{}g}", shown, std::max<int64_t>(precision, 1));
  }
  if (type == 'E' || type == 'F' || type == 'G') digits = to_upper(digits);
  if (spec.grouping != 0) digits = grouped(digits, spec.grouping, 3);
  if (type == '%') digits += '%';
  write_padded(out, spec, sign_text(spec, std::signbit(value) && !std::isnan(value)), digits, '>');
}

void write_text(Builder& out, const Spec& spec, std::string_view text, char default_align) {
  if (spec.precision >= 0) text = text.substr(0, byte_offset(text, spec.precision));
  write_padded(out, spec, "", text, default_align);
}

class Percent {
 public:
  Percent(Heap& heap, const std::string& pattern, const Value& arguments)
      : heap_(heap), pattern_(pattern), arguments_(arguments), out_(heap) {
    tuple_ = is_kind(arguments, ObjectKind::kTuple) ? arguments.as<Sequence>() : nullptr;
  }

  Value run() {
    bool mapped = false;
    while (at_ < pattern_.size()) {
      const size_t mark = std::min(pattern_.find('%', at_), pattern_.size());
      out_.add(std::string_view(pattern_).substr(at_, mark - at_));
      at_ = mark + 1;
      if (mark < pattern_.size()) mapped |= conversion();
    }
    const size_t given = tuple_ != nullptr ? tuple_->items.size() : 1;
    const auto* sequence = arguments_.as<Sequence>();
    const bool may_remain = arguments_.is_undefined() || as_dict(arguments_) != nullptr ||
                            (sequence != nullptr && sequence->kind <= ObjectKind::kRange);
    if (used_ < given && !mapped && (tuple_ != nullptr || !may_remain))
      fail("not all arguments of '%' are used");
    return out_.finish();
  }

 private:
  char peek() const {
    if (at_ >= pattern_.size()) fail("a format ends after '%'");
    return pattern_[at_];
  }

  Value next_argument() {
    if (tuple_ == nullptr && used_ == 0) {
      used_ = 1;
      return arguments_;
    }
    if (tuple_ == nullptr || used_ >= tuple_->items.size()) fail("a format has more fields than arguments");
    return tuple_->items[used_++];
  }

  int64_t number_or_star() {
    if (peek() != '*') return read_number(pattern_, at_);
    ++at_;
    const auto value = as_int(next_argument());
    if (!value) fail("'*' in a format needs an integer");
    return clamp_int(*value);
  }

  bool conversion() {
    if (peek() == '%') {
      out_.add("%");
      ++at_;
      return false;
    }
    Value argument;
    bool mapped = false;
    if (peek() == '(') {
      const size_t close = pattern_.find(')', at_);
      Dict* dict = as_dict(arguments_);
      if (close == std::string::npos || dict == nullptr) fail("%(name) needs a dict");
      const Value* found = dict->find(std::string_view(pattern_).substr(at_ + 1, close - at_ - 1));
      if (found == nullptr) fail("%(name) finds no such key");
      argument = *found;
      at_ = close + 1;
      mapped = true;
    }
    Spec spec = flags();
    spec.width = number_or_star();
    if (spec.width < 0) {
      spec.align = '<';
      spec.width = -spec.width;
    }
    if (peek() == '.') {
      ++at_;
      spec.precision = std::max<int64_t>(0, number_or_star());
    }
    while (peek() == 'l' || peek() == 'h' || peek() == 'L') ++at_;
    spec.type = peek();
    ++at_;
    if (!mapped) argument = next_argument();
    write(spec, argument);
    return mapped;
  }

  Spec flags() {
    Spec spec;
    for (;; ++at_) {
      const char c = peek();
      if (c == '-') {
        spec.align = '<';
      } else if (c == '+' || (c == ' ' && spec.sign != '+')) {
        spec.sign = c;
      } else if (c == '0') {
        zero_ = true;
      } else if (c == '#') {
        spec.alternate = true;
      } else if (c != ' ') {
        break;
      }
    }
    return spec;
  }

  void write(Spec spec, const Value& value) {
    const bool zero = std::exchange(zero_, false);
    if (spec.type == 's' || spec.type == 'r') {
      Builder text(heap_);
      spec.type == 's' ? write_str(text, heap_, value) : write_repr(text, heap_, value);
      return write_text(out_, spec, text.text(), '>');
    }
    if (spec.type == 'c' && value.is_string() && count_chars(value.text()) == 1) {
      return write_text(out_, spec, value.text(), '>');
    }
    if (const auto code = as_int(value); spec.type == 'c' && code && *code >= 0 && *code < 0xd800) {
      std::string character;
      append_char(character, static_cast<char32_t>(*code));
      return write_text(out_, spec, character, '>');
    }
    if (std::string_view("diuxXoeEfFgG").find(spec.type) == std::string_view::npos)
      fail("a format is not known");
    if (value.is_undefined()) fail_undefined(value);
    if (!as_float(value))
      fail(fmt::format("the format %{} needs a number, not {}", spec.type, type_name(value)));
    if (spec.precision > kMaxPrecision) fail("a precision is larger than 1000");
    if (zero && spec.align == 0) {
      spec.fill = "0";
      spec.align = '=';
    }
    if (std::string_view("eEfFgG").find(spec.type) != std::string_view::npos) {
      if (spec.precision < 0) spec.precision = 6;
      return write_float(out_, spec, *as_float(value));
    }
    const auto integer = as_int(value);
    if (!integer && (spec.type == 'x' || spec.type == 'X' || spec.type == 'o'))
      fail("%x and %o need an integer");
    if (!integer && !(std::abs(value.real()) < 1.7e38)) fail("a float is too large for an integer");
    write_int(out_, spec, integer ? *integer : static_cast<Int>(value.real()));
  }

  Heap& heap_;
  const std::string& pattern_;
  const Value& arguments_;
  const Sequence* tuple_;
  Builder out_;
  size_t at_ = 0;
  size_t used_ = 0;
  bool zero_ = false;
};

Spec parse_spec(std::string_view text) {
  Spec spec;
  size_t at = 0;
  size_t after_fill = 0;
  if (!text.empty()) next_char(text, after_fill);
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (after_fill < text.size() && is_align(text[after_fill])) {
    spec.fill = text.substr(0, after_fill);
    spec.align = text[after_fill];
    at = after_fill + 1;
  } else if (!text.empty() && is_align(text[0])) {
    spec.align = text[at++];
  }
  if (at < text.size() && (text[at] == '+' || text[at] == '-' || text[at] == ' ')) spec.sign = text[at++];
  if (at < text.size() && text[at] == '#') {
    spec.alternate = true;
    ++at;
  }
  if (at < text.size() && text[at] == '0') {
    if (spec.align == 0) {
      spec.fill = "0";
      spec.align = '=';
    }
    ++at;
  }
  spec.width = read_number(text, at);
  if (at < text.size() && (text[at] == ',' || text[at] == '_')) spec.grouping = text[at++];
  if (at < text.size() && text[at] == '.') {
    const size_t begin = ++at;
    spec.precision = read_number(text, at);
    if (at == begin || spec.precision > kMaxPrecision) fail("a format needs a precision of 0 to 1000");
  }
  if (at < text.size()) spec.type = text[at++];
  if (at != text.size()) fail("a format specification is not known");
  return spec;
}

void write_formatted(Builder& out, Heap& heap, const Value& value, std::string_view format) {
  if (format.empty()) return write_str(out, heap, value);
  Spec spec = parse_spec(format);
  const bool real_type =
      spec.type != 0 && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos;
  if (value.is_string() && (spec.type == 0 || spec.type == 's') && spec.sign == '-' && spec.grouping == 0) {
    if (spec.align == '=') fail("'=' aligns numbers only");
    return write_text(out, spec, value.text(), '<');
  }
  if (value.is_float() && (spec.type == 0 || real_type)) return write_float(out, spec, value.real());
  const auto integer = as_int(value);
  if (integer && real_type) return write_float(out, spec, *as_float(value));
  const bool int_type = spec.type == 0 || std::string_view("dxXob").find(spec.type) != std::string_view::npos;
  if (!integer || !int_type || spec.precision >= 0) {
    fail(fmt::format("a value of type {} has no format like this", type_name(value)));
  }
  write_int(out, spec, *integer);
}

class Brace {
 public:
  Brace(Heap& heap, const std::string& pattern, const Arguments& arguments)
      : heap_(heap), text_(pattern), arguments_(arguments), out_(heap) {}

  Value run() {
    for (size_t at = 0; at < text_.size();) {
      const char c = text_[at];
      if (c != '{' && c != '}') {
        const size_t end = std::min(text_.find_first_of("{}", at), text_.size());
        out_.add(text_.substr(at, end - at));
        at = end;
      } else if (at + 1 < text_.size() && text_[at + 1] == c) {
        out_.add({&c, 1});
        at += 2;
      } else if (c == '}') {
        fail("a format has a single '}'");
      } else {
        at = field(at + 1);
      }
    }
    return out_.finish();
  }

 private:
  size_t field(size_t at) {
    size_t end = at;
    while (end < text_.size() && text_[end] != '}' && text_[end] != '{') ++end;
    if (end >= text_.size()) fail("a field of a format has no '}'");
    if (text_[end] == '{') fail_unsupported("fields inside fields of a format are not supported");
    std::string_view name = text_.substr(at, end - at);
    std::string_view format;
    const size_t colon = name.find(':');
    if (colon != name.npos) {
      format = name.substr(colon + 1);
      name = name.substr(0, colon);
    }
    char conversion = 0;
    if (name.size() >= 2 && name[name.size() - 2] == '!') {
      conversion = name.back();
      name.remove_suffix(2);
      if (conversion != 's' && conversion != 'r') fail_unsupported("a format converts with !s and !r only");
    }
    Value value = lookup(name);
    if (conversion != 0) {
      Builder text(heap_);
      conversion == 's' ? write_str(text, heap_, value) : write_repr(text, heap_, value);
      value = text.finish();
    }
    write_formatted(out_, heap_, value, format);
    return end + 1;
  }

  Value lookup(std::string_view name) {
    size_t end = std::min(name.find_first_of(".["), name.size());
    Value value = argument(name.substr(0, end));
    while (end < name.size()) {
      const bool item = name[end] == '[';
      const size_t begin = end + 1;
      end = item ? name.find(']', begin) : std::min(name.find_first_of(".[", begin), name.size());
      if (end == name.npos || end == begin) fail("a field of a format is malformed");
      const std::string part(name.substr(begin, end - begin));
      if (item) {
        ++end;
        const auto index =
            part.find_first_not_of("0123456789") == part.npos ? parse_int(part, 10) : std::nullopt;
        value = get_item(heap_, value, index ? Value(*index) : heap_.string(part));
      } else {
        value = get_attribute(heap_, value, part);
      }
    }
    return value;
  }

  Value argument(std::string_view name) {
    std::optional<Int> index;
    if (name.empty()) {
      index = automatic_++;
    } else if (name.find_first_not_of("0123456789") == name.npos) {
      index = parse_int(name, 10);
    }
    if (index) {
      if (*index >= static_cast<Int>(arguments_.positional.size()))
        fail("a format has more fields than arguments");
      return arguments_.positional[static_cast<size_t>(*index)];
    }
    for (const auto& [key, value] : arguments_.named) {
      if (key == name) return value;
    }
    fail(fmt::format("a format has no argument '{}'", name));
  }

  Heap& heap_;
  std::string_view text_;
  const Arguments& arguments_;
  Builder out_;
  Int automatic_ = 0;
};

}  // namespace

Value percent_format(Heap& heap, const std::string& pattern, const Value& arguments) {
  return Percent(heap, pattern, arguments).run();
}

Value brace_format(Heap& heap, const std::string& pattern, const Arguments& arguments) {
  return Brace(heap, pattern, arguments).run();
}

}  // namespace moebius::jinja
