// Numbers between bounds, digit by digit.
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "models/constraint/json_text.h"

namespace moebius {

namespace {

constexpr int kExactDigits = 15;  // significant digits that a double keeps apart
constexpr int64_t kMaxExact = 999'999'999'999'999;

class Digits {
 public:
  explicit Digits(Grammar& grammar) : g_(grammar) {}

  ExprId range(char low, char high) {
    return low > high ? g_.never() : g_.one_of({{static_cast<char32_t>(low), static_cast<char32_t>(high)}});
  }
  ExprId any(int64_t min, int64_t max) { return g_.repeat(range('0', '9'), min, max); }

  // Whole numbers from low to high, 0 <= low.
  ExprId whole(int64_t low, int64_t high) {
    std::vector<ExprId> parts;
    int64_t begin = 0, end = 9;  // numbers of one length
    for (int digits = 1; digits <= kExactDigits && begin <= high; ++digits) {
      if (end >= low)
        parts.push_back(
            same_length(std::to_string(std::max(low, begin)), std::to_string(std::min(high, end))));
      begin = end + 1;
      end = end * 10 + 9;
    }
    return g_.choice(std::move(parts));
  }

  // Digits after a decimal point, at most `room`; `some`: at least one. `floor` and `roof` are digits of a
  // fraction without zeros at their end. At least, at most, between:
  ExprId at_least(std::string_view floor, bool excluded, int room, bool some) {
    if (floor.empty()) return excluded ? not_zero(room) : any(some, std::max<int>(room, some));
    if (room == 0) return g_.never();
    const char digit = floor[0];
    return g_.choice(
        {g_.sequence({range(digit, digit), at_least(floor.substr(1), excluded, room - 1, false)}),
         g_.sequence({range(static_cast<char>(digit + 1), '9'), any(0, room - 1)})});
  }

  ExprId at_most(std::string_view roof, bool excluded, int room, bool some) {
    if (roof.empty())
      return excluded ? g_.never() : g_.repeat(range('0', '0'), some, std::max<int>(room, some));
    if (room == 0) return some ? g_.never() : g_.empty();
    const char digit = roof[0];
    std::vector<ExprId> ways = {
        g_.sequence({range(digit, digit), at_most(roof.substr(1), excluded, room - 1, false)}),
        g_.sequence({range('0', static_cast<char>(digit - 1)), any(0, room - 1)})};
    if (!some) ways.push_back(g_.empty());
    return g_.choice(std::move(ways));
  }

  ExprId between(std::string_view floor, bool floor_excluded, std::string_view roof, bool roof_excluded,
                 int room, bool some) {
    if (floor.empty() && roof.empty())
      return floor_excluded || roof_excluded ? g_.never()
                                             : g_.repeat(range('0', '0'), some, std::max<int>(room, some));
    std::vector<ExprId> ways;
    if (!some && floor.empty() && !floor_excluded) ways.push_back(g_.empty());
    const char low = floor.empty() ? '0' : floor[0], high = roof.empty() ? '0' : roof[0];
    const std::string_view low_rest = floor.empty() ? floor : floor.substr(1);
    const std::string_view high_rest = roof.empty() ? roof : roof.substr(1);
    if (room > 0 && low == high) {
      ways.push_back(g_.sequence(
          {range(low, low), between(low_rest, floor_excluded, high_rest, roof_excluded, room - 1, false)}));
    } else if (room > 0 && low < high) {
      ways.push_back(g_.sequence({range(low, low), at_least(low_rest, floor_excluded, room - 1, false)}));
      ways.push_back(
          g_.sequence({range(static_cast<char>(low + 1), static_cast<char>(high - 1)), any(0, room - 1)}));
      ways.push_back(g_.sequence({range(high, high), at_most(high_rest, roof_excluded, room - 1, false)}));
    }
    return g_.choice(std::move(ways));
  }

 private:
  ExprId not_zero(int room) {
    std::vector<ExprId> ways;
    for (int zeros = 0; zeros < room; ++zeros)
      ways.push_back(g_.sequence({g_.literal(std::string(static_cast<size_t>(zeros), '0')), range('1', '9'),
                                  any(0, room - zeros - 1)}));
    return g_.choice(std::move(ways));
  }

  ExprId same_length(std::string_view low, std::string_view high) {
    if (low.empty()) return g_.empty();
    const auto rest = static_cast<int64_t>(low.size()) - 1;
    if (low.find_first_not_of('0') == low.npos && high.find_first_not_of('9') == high.npos)
      return any(rest + 1, rest + 1);
    if (low[0] == high[0])
      return g_.sequence({range(low[0], low[0]), same_length(low.substr(1), high.substr(1))});
    return g_.choice(
        {g_.sequence({range(low[0], low[0]),
                      same_length(low.substr(1), std::string(static_cast<size_t>(rest), '9'))}),
         g_.sequence({range(static_cast<char>(low[0] + 1), static_cast<char>(high[0] - 1)), any(rest, rest)}),
         g_.sequence({range(high[0], high[0]),
                      same_length(std::string(static_cast<size_t>(rest), '0'), high.substr(1))})});
  }

  Grammar& g_;
};

// A bound of a size, which is not negative.
struct Bound {
  int64_t whole = 0;
  std::string fraction;  // without zeros at its end
  bool excluded = false;
};

class Decimals {
 public:
  explicit Decimals(Grammar& grammar) : g_(grammar), digits_(grammar) {}

  ExprId numbers(const NumberRange& r) {
    std::vector<ExprId> ways;
    if (!r.high || *r.high >= 0) {
      const bool above = r.low && *r.low >= 0;
      ways.push_back(sizes(above ? bound(*r.low, r.low_excluded) : Bound(),
                           r.high ? std::optional(bound(*r.high, r.high_excluded)) : std::nullopt));
    }
    if (!r.low || *r.low < 0) {
      const bool below = r.high && *r.high <= 0;
      ways.push_back(g_.sequence(
          {g_.literal("-"), sizes(below ? bound(-*r.high, r.high_excluded) : Bound(),
                                  r.low ? std::optional(bound(-*r.low, r.low_excluded)) : std::nullopt)}));
    }
    return g_.choice(std::move(ways));
  }

 private:
  Bound bound(double value, bool excluded) {
    Bound out;
    const std::string text = fmt::format("{:.12f}", value);
    const size_t point = text.find('.');
    if (!(value <= static_cast<double>(kMaxExact)) || std::stod(text) != value) {
      g_.fail(unsupported(
          fmt::format("a bound of {} on a number is not supported: too large or too fine", value)));
      return out;
    }
    out.whole = std::stoll(text.substr(0, point));
    out.fraction = text.substr(point + 1);
    while (!out.fraction.empty() && out.fraction.back() == '0') out.fraction.pop_back();
    out.excluded = excluded;
    return out;
  }

  // So many digits after the point that no two numbers of them round to the same double near a bound.
  int room(const Bound& low, const std::optional<Bound>& high) {
    int most = 0, needed = 0;
    for (const Bound* b : {&low, high ? &*high : &low}) {
      most = std::max(most, static_cast<int>(std::to_string(b->whole).size()));
      needed = std::max(needed, static_cast<int>(b->fraction.size()));
    }
    if (most + std::max(needed, 1) > kExactDigits)
      g_.fail(unsupported("bounds on a number with more than 15 digits are not supported"));
    return kExactDigits - most;
  }

  ExprId with_point(ExprId whole, bool alone, ExprId fraction) {
    const ExprId after = g_.sequence({g_.literal("."), fraction});
    return g_.sequence({whole, alone ? g_.optional(after) : after});
  }

  ExprId sizes(const Bound& low, const std::optional<Bound>& high) {
    const int places = room(low, high);
    if (!g_.status().ok()) return g_.never();
    const auto text = [&](const Bound& b) { return g_.literal(std::to_string(b.whole)); };
    if (high && high->whole < low.whole) return g_.never();
    if (high && high->whole == low.whole) {
      const bool alone = low.fraction.empty() && !low.excluded && !(high->fraction.empty() && high->excluded);
      return with_point(
          text(low), alone,
          digits_.between(low.fraction, low.excluded, high->fraction, high->excluded, places, true));
    }
    std::vector<ExprId> ways = {with_point(text(low), low.fraction.empty() && !low.excluded,
                                           digits_.at_least(low.fraction, low.excluded, places, true))};
    if (high) {
      ways.push_back(with_point(text(*high), !(high->fraction.empty() && high->excluded),
                                digits_.at_most(high->fraction, high->excluded, places, true)));
    }
    const int64_t last = high ? high->whole - 1 : kMaxExact;
    if (low.whole + 1 <= last)
      ways.push_back(with_point(digits_.whole(low.whole + 1, last), true, digits_.any(1, places)));
    return g_.choice(std::move(ways));
  }

  Grammar& g_;
  Digits digits_;
};

// The whole numbers in a range; none: nothing on that side within kMaxExact.
int64_t whole_low(const NumberRange& r) {
  if (!r.low || *r.low <= -static_cast<double>(kMaxExact)) return -kMaxExact;
  const double up = std::ceil(*r.low);
  if (up > static_cast<double>(kMaxExact)) return kMaxExact + 1;
  return static_cast<int64_t>(up) + (r.low_excluded && up == *r.low);
}

int64_t whole_high(const NumberRange& r) {
  if (!r.high || *r.high >= static_cast<double>(kMaxExact)) return kMaxExact;
  const double down = std::floor(*r.high);
  if (down < -static_cast<double>(kMaxExact)) return -kMaxExact - 1;
  return static_cast<int64_t>(down) - (r.high_excluded && down == *r.high);
}

}  // namespace

namespace {

// Numbers of at most kExactDigits digits by the remainder of what is written: a rule for each remainder and
// number of digits that may still come.
class Multiples {
 public:
  Multiples(Grammar& grammar, int64_t step) : g_(grammar), step_(step) {}

  // After a first digit that is not 0.
  ExprId positive() { return digits(1, kExactDigits, 0, false); }

 private:
  ExprId digits(int64_t first, int left, int64_t remainder, bool may_end) {
    std::vector<ExprId> ways;
    if (may_end && remainder == 0) ways.push_back(g_.empty());
    for (int64_t digit = first; digit <= 9 && left > 0; ++digit) {
      const auto c = static_cast<char32_t>('0' + digit);
      ways.push_back(g_.sequence({g_.one_of({{c, c}}), rest(left - 1, (remainder * 10 + digit) % step_)}));
    }
    return g_.choice(std::move(ways));
  }

  ExprId rest(int left, int64_t remainder) {
    const auto [at, added] = rules_.try_emplace({left, remainder}, 0);
    if (added) {
      const RuleId rule = at->second = g_.add_rule();
      g_.define(rule, digits(0, left, remainder, true));
      return g_.call(rule);
    }
    return g_.call(at->second);
  }

  Grammar& g_;
  const int64_t step_;
  std::map<std::pair<int, int64_t>, RuleId> rules_;
};

}  // namespace

ExprId JsonText::multiple(int64_t step, const NumberRange& range) {
  constexpr int64_t kListed = 5000, kLargestStep = 100;
  const int64_t low = whole_low(range), high = whole_high(range);
  if (low > high || step > kMaxExact) return low <= 0 && high >= 0 ? g_.literal("0") : g_.never();
  const int64_t first = low > 0 ? (low + step - 1) / step * step : -(-low / step * step);
  if ((high - first) / step < kListed) {
    std::vector<std::string> all;
    for (int64_t value = first; value <= high; value += step) all.push_back(std::to_string(value));
    return g_.any_of(std::move(all));
  }
  if (step > kLargestStep || range.high || (range.low && *range.low != 0)) {
    g_.fail(unsupported(fmt::format(
        "`multipleOf` {} in this range is not supported; give bounds that leave at most {} numbers", step,
        kListed)));
    return g_.never();
  }
  std::vector<ExprId> ways = {Multiples(g_, step).positive()};
  if (low <= 0) ways.push_back(g_.literal("0"));
  if (range.low) return g_.choice(std::move(ways));
  return g_.sequence({g_.optional(g_.literal("-")), g_.choice(std::move(ways))});
}

ExprId JsonText::integer(const NumberRange& range) {
  Digits digits(g_);
  if (!range.low && !range.high) {
    const ExprId whole = g_.sequence({digits.range('1', '9'), digits.any(0, 17)});
    return g_.sequence({g_.optional(g_.literal("-")), g_.choice({g_.literal("0"), whole})});
  }
  const int64_t low = whole_low(range), high = whole_high(range);
  std::vector<ExprId> ways;
  if (low <= high && high >= 0) ways.push_back(digits.whole(std::max<int64_t>(low, 0), high));
  if (low <= high && low < 0)
    ways.push_back(g_.sequence({g_.literal("-"), digits.whole(std::max<int64_t>(-high, 1), -low)}));
  return g_.choice(std::move(ways));
}

ExprId JsonText::number(const NumberRange& range) {
  if (range.low || range.high) return Decimals(g_).numbers(range);
  Digits digits(g_);
  const ExprId whole = g_.choice({g_.literal("0"), g_.sequence({digits.range('1', '9'), digits.any(0, 17)})});
  const ExprId point = g_.optional(g_.sequence({g_.literal("."), digits.any(1, 17)}));
  // Exponents that no reader overflows at.
  const ExprId size = g_.choice({digits.any(1, 2), g_.sequence({digits.range('1', '2'), digits.any(2, 2)})});
  const ExprId exponent = g_.sequence({g_.any_of({"e", "E", "e+", "E+", "e-", "E-"}), size});
  const ExprId scientific = g_.sequence({digits.range('0', '9'), point, exponent});
  return g_.sequence({g_.optional(g_.literal("-")), g_.choice({g_.sequence({whole, point}), scientific})});
}

}  // namespace moebius
