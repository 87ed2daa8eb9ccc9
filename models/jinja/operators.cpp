#include <algorithm>
#include <cmath>

#include <fmt/core.h>

#include "models/jinja/call.h"
#include "models/jinja/format.h"
#include "models/jinja/heap.h"
#include "models/jinja/text.h"

namespace moebius::jinja {
namespace {

constexpr std::string_view kSymbols[] = {"+", "-", "*", "/", "//", "%", "**"};

[[noreturn]] void refuse(Op op, const Value& a, const Value& b) {
  fail(fmt::format("{} {} {} is not defined; convert one side first, for example with |string", type_name(a),
                   kSymbols[static_cast<size_t>(op)], type_name(b)));
}

[[noreturn]] void too_large() { fail("an integer grows beyond 127 bits"); }
[[noreturn]] void by_zero() { fail("division by zero"); }

Int floor_divide(Int a, Int b) {
  if (b == -1) {
    Int result;
    if (__builtin_sub_overflow(static_cast<Int>(0), a, &result)) too_large();
    return result;
  }
  const Int quotient = a / b;
  return quotient - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

Int modulo(Int a, Int b) {
  if (b == -1) return 0;
  const Int rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

Value int_power(Int base, Int exponent) {
  if (exponent < 0) {
    if (base == 0) by_zero();
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  Int result = 1;
  while (true) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) too_large();
    exponent >>= 1;
    if (exponent == 0) return Value(result);
    if (base == 0 || base == 1) continue;
    if (__builtin_mul_overflow(base, base, &base)) too_large();
  }
}

Value int_binary(Op op, Int a, Int b) {
  Int result = 0;
  switch (op) {
    case Op::kAdd:
      if (__builtin_add_overflow(a, b, &result)) too_large();
      return Value(result);
    case Op::kSub:
      if (__builtin_sub_overflow(a, b, &result)) too_large();
      return Value(result);
    case Op::kMul:
      if (__builtin_mul_overflow(a, b, &result)) too_large();
      return Value(result);
    case Op::kPow:
      return int_power(a, b);
    default:
      break;
  }
  if (b == 0) by_zero();
  if (op == Op::kFloorDiv) return Value(floor_divide(a, b));
  if (op == Op::kMod) return Value(modulo(a, b));
  return Value(static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b)));
}

double float_modulo(double a, double b) {
  const double rest = std::fmod(a, b);
  if (rest == 0.0) return std::copysign(0.0, b);
  return (b < 0) != (rest < 0) ? rest + b : rest;
}

double float_floor_divide(double a, double b) {
  const double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0.0 && (b < 0) != (rest < 0)) quotient -= 1.0;
  if (quotient == 0.0) return std::copysign(0.0, a / b);
  const double whole = std::floor(quotient);
  return quotient - whole > 0.5 ? whole + 1.0 : whole;
}

Value float_binary(Op op, double a, double b) {
  switch (op) {
    case Op::kAdd:
      return Value(a + b);
    case Op::kSub:
      return Value(a - b);
    case Op::kMul:
      return Value(a * b);
    case Op::kPow: {
      if (a == 0.0 && b < 0) by_zero();
      const double power = std::pow(a, b);
      if (std::isinf(power) && std::isfinite(a) && std::isfinite(b)) fail("a power is too large for a float");
      if (std::isnan(power) && !std::isnan(a) && !std::isnan(b)) fail("a power is not a real number");
      return Value(power);
    }
    default:
      break;
  }
  if (b == 0.0) by_zero();
  if (op == Op::kDiv) return Value(a / b);
  return Value(op == Op::kMod ? float_modulo(a, b) : float_floor_divide(a, b));
}

Value repeat(Heap& heap, const Value& v, Int count) {
  const int64_t times = std::max<int64_t>(0, clamp_int(count));
  if (v.is_string()) {
    Builder out(heap);
    out.repeat(v.text(), times);
    return out.finish();
  }
  const auto* source = v.as<Sequence>();
  Sequence* result = heap.sequence(source->kind);
  const std::vector<Value> items = source->items;
  if (items.empty()) return Value(result);
  for (int64_t i = 0; i < times; ++i) {
    for (const Value& item : items) heap.push(result, item);
  }
  return Value(result);
}

bool repeatable(const Value& v) {
  return v.is_string() || is_kind(v, ObjectKind::kList) || is_kind(v, ObjectKind::kTuple);
}

Value concatenate(Heap& heap, const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    heap.require(a.text().size() + b.text().size());
    return heap.string(a.text() + b.text());
  }
  const auto* x = a.as<Sequence>();
  const auto* y = b.as<Sequence>();
  if (x == nullptr || y == nullptr || x->kind != y->kind || !repeatable(a)) refuse(Op::kAdd, a, b);
  Sequence* result = heap.sequence(x->kind);
  for (const Value& item : x->items) heap.push(result, item);
  for (const Value& item : y->items) heap.push(result, item);
  return Value(result);
}

}  // namespace

int64_t clamp_int(Int value) {
  constexpr Int kLimit = INT64_MAX / 4;
  return static_cast<int64_t>(std::clamp(value, -kLimit, kLimit));
}

Value binary(Heap& heap, Op op, const Value& a, const Value& b) {
  if (op == Op::kMod && a.is_string()) return percent_format(heap, a.text(), b);
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  const auto x = as_int(a);
  const auto y = as_int(b);
  if (x && y) return int_binary(op, *x, *y);
  const auto p = as_float(a);
  const auto q = as_float(b);
  if (p && q) return float_binary(op, *p, *q);
  if (op == Op::kAdd) return concatenate(heap, a, b);
  if (op == Op::kMul && repeatable(a) && y) return repeat(heap, a, *y);
  if (op == Op::kMul && repeatable(b) && x) return repeat(heap, b, *x);
  refuse(op, a, b);
}

bool contains(Heap& heap, const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) fail(fmt::format("'in' a string needs a string, not {}", type_name(item)));
    heap.touch(container.text().size());
    return find_text(container.text(), item.text()) != std::string::npos;
  }
  if (container.is_undefined()) return false;
  if (Dict* dict = as_dict(container)) {
    check_hashable(item);
    heap.step();
    return dict->find(item) != nullptr;
  }
  auto* sequence = container.as<Sequence>();
  if (sequence == nullptr)
    fail(fmt::format("a value of type {} cannot be searched with 'in'", type_name(container)));
  if (sequence->kind == ObjectKind::kIterator) {
    for (Value read; read_next(*sequence, read);) {
      if (equal(heap, read, item)) return true;
    }
    return false;
  }
  for (const Value& candidate : sequence->items) {
    if (equal(heap, candidate, item)) return true;
  }
  return false;
}

bool compare(Heap& heap, Op op, const Value& a, const Value& b) {
  if (op == Op::kEq) return equal(heap, a, b);
  if (op == Op::kNe) return !equal(heap, a, b);
  if (op == Op::kIn) return contains(heap, b, a);
  if (op == Op::kNotIn) return !contains(heap, b, a);
  if (as_float(a) && as_float(b)) {
    const int order = compare_numbers(a, b);
    if (order == 2) return false;
    return op == Op::kLt ? order < 0
                         : (op == Op::kLe ? order <= 0 : (op == Op::kGt ? order > 0 : order >= 0));
  }
  if (op == Op::kLt) return less(heap, a, b);
  if (op == Op::kGt) return less(heap, b, a);
  return op == Op::kLe ? !less(heap, b, a) : !less(heap, a, b);
}

}  // namespace moebius::jinja
