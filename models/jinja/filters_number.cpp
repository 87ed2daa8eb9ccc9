#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>

#include <fmt/core.h>

#include "models/jinja/interpreter.h"
#include "models/jinja/numbers.h"
#include "models/jinja/text.h"

namespace moebius::jinja {
namespace {

using In = Interpreter;

int digit_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 32);
  return lower >= 'a' && lower <= 'z' ? lower - 'a' + 10 : 99;
}

// Single underscores between digits go; any other one makes the text no number.
std::optional<std::string> without_underscores(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out.push_back(text[i]);
    } else if (i == 0 || i + 1 >= text.size() || digit_value(text[i - 1]) > 35 ||
               digit_value(text[i + 1]) > 35) {
      return std::nullopt;
    }
  }
  return out;
}

std::optional<Int> truncate_float(double value) {
  if (std::isnan(value) || std::isinf(value)) return std::nullopt;
  if (std::abs(value) >= 1.7e38) fail("a float is too large for an integer");
  return static_cast<Int>(value);
}

std::optional<Int> to_int(const Value& v, int64_t base) {
  if (const auto integer = as_int(v)) return integer;
  if (v.is_float()) return truncate_float(v.real());
  if (!v.is_string()) return std::nullopt;
  if (base == 0 || (base >= 2 && base <= 36)) {
    if (const auto whole = parse_int(v.text(), static_cast<int>(base))) return whole;
  }
  const auto real = parse_float(v.text());
  return real ? truncate_float(*real) : std::nullopt;
}

Value int_filter(In&, const Value& self, const Arguments& args) {
  const Parameters given(args, "int", {"default", "base"});
  if (self.is_undefined()) fail_undefined(self);
  if (const auto value = to_int(self, given.integer(1, 10))) return Value(*value);
  return given[0] == nullptr ? make_int(0) : *given[0];
}

Value float_filter(In&, const Value& self, const Arguments& args) {
  const Parameters given(args, "float", {"default"});
  if (self.is_undefined()) fail_undefined(self);
  if (const auto number = as_float(self)) return Value(*number);
  if (self.is_string()) {
    if (const auto number = parse_float(self.text())) return Value(*number);
  }
  return given[0] == nullptr ? Value(0.0) : *given[0];
}

Value abs_filter(In& in, const Value& self, const Arguments&) {
  if (self.is_undefined()) fail_undefined(self);
  if (self.is_float()) return Value(std::abs(self.real()));
  const auto integer = as_int(self);
  if (!integer) fail(fmt::format("abs needs a number, not {}", type_name(self)));
  return *integer < 0 ? binary(in.heap, Op::kSub, make_int(0), Value(*integer)) : Value(*integer);
}

// round() of an integer to a negative number of digits: to a multiple of a power of ten, half to even.
Int round_int(Int value, int64_t digits) {
  if (digits >= 0) return value;
  if (digits < -38) return 0;
  Int unit = 1;
  for (int64_t i = digits; i < 0; ++i) unit *= 10;
  Int rest = value % unit;
  if (rest < 0) rest += unit;
  const Int below = value - rest;
  const bool up = rest > unit - rest || (rest == unit - rest && (below / unit) % 2 != 0);
  return up ? below + unit : below;
}

Value round_filter(In& in, const Value& self, const Arguments& args) {
  const Parameters given(args, "round", {"precision", "method"});
  const int64_t digits = given.integer(0, 0);
  const std::string method = given[1] == nullptr ? "common" : given.text(1);
  if (method != "common" && method != "ceil" && method != "floor") fail("round knows common, ceil and floor");
  if (self.is_undefined()) fail_undefined(self);
  if (!as_float(self)) fail(fmt::format("round needs a number, not {}", type_name(self)));
  if (method == "common") {
    if (const auto integer = as_int(self)) return Value(round_int(*integer, digits));
    return Value(round_half_even(self.real(), static_cast<int>(std::clamp<int64_t>(digits, -400, 400))));
  }
  const Value scale = binary(in.heap, Op::kPow, make_int(10), make_int(digits));
  const Value scaled = binary(in.heap, Op::kMul, self, scale);
  const double whole = method == "ceil" ? std::ceil(*as_float(scaled)) : std::floor(*as_float(scaled));
  return binary(in.heap, Op::kDiv, Value(whole + 0.0), scale);  // no negative zero
}

constexpr NativeEntry kNumberFilters[] = {
    {"abs", bare<abs_filter>}, {"float", float_filter}, {"int", int_filter}, {"round", round_filter}};

}  // namespace

std::optional<Int> parse_int(std::string_view text, int base) {
  text = strip(text, Side::kBoth);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  bool prefixed = false;
  if (text.size() > 2 && text[0] == '0') {
    const char mark = static_cast<char>(text[1] | 32);
    const int marked = mark == 'x' ? 16 : (mark == 'o' ? 8 : (mark == 'b' ? 2 : 0));
    if (marked != 0 && (base == 0 || base == marked)) {
      base = marked;
      prefixed = true;
      text.remove_prefix(text[2] == '_' && text.size() > 3 ? 3 : 2);
    }
  }
  const auto digits = without_underscores(text);
  if (!digits || digits->empty()) return std::nullopt;
  if (base == 0 && !prefixed) {
    if (digits->front() == '0' && digits->find_first_not_of('0') != std::string::npos) return std::nullopt;
    base = 10;
  }
  Int value = 0;
  bool large = false;
  for (const char c : *digits) {
    if (digit_value(c) >= base) return std::nullopt;
    large |= __builtin_mul_overflow(value, static_cast<Int>(base), &value);
    large |= __builtin_add_overflow(value, static_cast<Int>(digit_value(c)), &value);
  }
  if (large) fail("an integer is larger than 127 bits");
  return negative ? -value : value;
}

std::optional<double> parse_float(std::string_view text) {
  const auto plain = without_underscores(strip(text, Side::kBoth));
  if (!plain) return std::nullopt;
  const std::string lower = to_lower(*plain);
  const size_t sign = !lower.empty() && (lower[0] == '-' || lower[0] == '+') ? 1 : 0;
  const std::string_view body = std::string_view(lower).substr(sign);
  if (body != "nan" && body != "inf" && body != "infinity") {
    if (body.empty() || body.find_first_not_of("0123456789.e+-") != body.npos) return std::nullopt;
    if (body[0] == '+' || body[0] == '-') return std::nullopt;
  }
  char* end = nullptr;
  const double value = std::strtod(lower.c_str(), &end);
  if (end != lower.c_str() + lower.size()) return std::nullopt;
  return value;
}

double round_half_even(double value, int digits) {
  if (!std::isfinite(value)) return value;
  if (digits >= 0) return std::strtod(fmt::format("{:.{}f}", value, digits).c_str(), nullptr);
  const double unit = std::pow(10.0, -digits);
  if (!std::isfinite(unit)) return std::copysign(0.0, value);
  return std::nearbyint(value / unit) * unit;
}

std::span<const NativeEntry> number_filters() { return kNumberFilters; }

}  // namespace moebius::jinja
