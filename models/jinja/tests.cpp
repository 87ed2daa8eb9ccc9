// The tests of `x is name`.
#include <fmt/core.h>

#include "models/jinja/format.h"
#include "models/jinja/interpreter.h"
#include "models/jinja/text.h"

namespace moebius::jinja {
namespace {

using In = Interpreter;

Value test_defined(In&, const Value& v, const Arguments&) { return Value(!v.is_undefined()); }
Value test_undefined(In&, const Value& v, const Arguments&) { return Value(v.is_undefined()); }
Value test_none(In&, const Value& v, const Arguments&) { return Value(v.is_none()); }
Value test_boolean(In&, const Value& v, const Arguments&) { return Value(v.is_bool()); }
Value test_true(In&, const Value& v, const Arguments&) { return Value(v.is_bool() && v.boolean()); }
Value test_false(In&, const Value& v, const Arguments&) { return Value(v.is_bool() && !v.boolean()); }
Value test_integer(In&, const Value& v, const Arguments&) { return Value(v.is_int()); }
Value test_float(In&, const Value& v, const Arguments&) { return Value(v.is_float()); }
Value test_number(In&, const Value& v, const Arguments&) { return Value(as_float(v).has_value()); }
Value test_string(In&, const Value& v, const Arguments&) { return Value(v.is_string()); }
Value test_mapping(In&, const Value& v, const Arguments&) { return Value(as_dict(v) != nullptr); }
Value test_escaped(In&, const Value&, const Arguments&) { return Value(false); }

Value test_sequence(In&, const Value& v, const Arguments&) {
  const auto* sequence = v.as<Sequence>();
  if (sequence != nullptr) return Value(sequence->kind <= ObjectKind::kRange);
  return Value(v.is_undefined() || v.is_string() || as_dict(v) != nullptr);
}

Value test_iterable(In&, const Value& v, const Arguments&) {
  const bool loop = is_kind(v, ObjectKind::kLoop);
  return Value(v.is_undefined() || v.is_string() || as_dict(v) != nullptr || v.as<Sequence>() != nullptr ||
               loop);
}

Value test_callable(In&, const Value& v, const Arguments&) {
  return Value(v.is_undefined() || is_kind(v, ObjectKind::kCallable) || is_kind(v, ObjectKind::kLoop));
}

template <int kRest>
Value test_parity(In& in, const Value& v, const Arguments&) {
  return Value(equal(in.heap, binary(in.heap, Op::kMod, v, make_int(2)), make_int(kRest)));
}

Value test_divisible(In& in, const Value& v, const Arguments& args) {
  const Parameters given(args, "divisibleby", {"num"}, 1);
  return Value(equal(in.heap, binary(in.heap, Op::kMod, v, *given[0]), make_int(0)));
}

// Whether there is a letter with a case and all such letters have this one.
Value all_cased(In& in, const Value& v, bool (*wanted)(char32_t), bool (*other)(char32_t)) {
  const Value text = to_str(in.heap, v);
  bool found = false;
  for (size_t at = 0; at < text.text().size();) {
    const char32_t c = next_char(text.text(), at);
    if (other(c)) return Value(false);
    found |= wanted(c);
  }
  return Value(found);
}

Value test_lower(In& in, const Value& v, const Arguments&) { return all_cased(in, v, is_lower, is_upper); }
Value test_upper(In& in, const Value& v, const Arguments&) { return all_cased(in, v, is_upper, is_lower); }

Value test_sameas(In& in, const Value& v, const Arguments& args) {
  const Parameters given(args, "sameas", {"other"}, 1);
  const Value& other = *given[0];
  if (v.is_object() || other.is_object())
    return Value(v.is_object() && other.is_object() && v.object() == other.object());
  return Value(type_name(v) == type_name(other) && equal(in.heap, v, other));
}

template <Op kOp>
Value test_compare(In& in, const Value& v, const Arguments& args) {
  const Parameters given(args, "a comparison", {"other"}, 1);
  return Value(compare(in.heap, kOp, v, *given[0]));
}

Value test_filter(In&, const Value& v, const Arguments&) {
  check_hashable(v);
  return Value(v.is_string() && find_filter(v.text()) != nullptr);
}

Value test_test(In&, const Value& v, const Arguments&) {
  check_hashable(v);
  return Value(v.is_string() && find_test(v.text()) != nullptr);
}

constexpr NativeEntry kTests[] = {
    {"!=", test_compare<Op::kNe>},
    {"<", test_compare<Op::kLt>},
    {"<=", test_compare<Op::kLe>},
    {"==", test_compare<Op::kEq>},
    {">", test_compare<Op::kGt>},
    {">=", test_compare<Op::kGe>},
    {"boolean", bare<test_boolean>},
    {"callable", bare<test_callable>},
    {"defined", bare<test_defined>},
    {"divisibleby", test_divisible},
    {"eq", test_compare<Op::kEq>},
    {"equalto", test_compare<Op::kEq>},
    {"escaped", test_escaped},
    {"even", bare<test_parity<0>>},
    {"false", bare<test_false>},
    {"filter", bare<test_filter>},
    {"float", bare<test_float>},
    {"ge", test_compare<Op::kGe>},
    {"greaterthan", test_compare<Op::kGt>},
    {"gt", test_compare<Op::kGt>},
    {"in", test_compare<Op::kIn>},
    {"integer", bare<test_integer>},
    {"iterable", bare<test_iterable>},
    {"le", test_compare<Op::kLe>},
    {"lessthan", test_compare<Op::kLt>},
    {"lower", bare<test_lower>},
    {"lt", test_compare<Op::kLt>},
    {"mapping", bare<test_mapping>},
    {"ne", test_compare<Op::kNe>},
    {"none", bare<test_none>},
    {"number", bare<test_number>},
    {"odd", bare<test_parity<1>>},
    {"sameas", test_sameas},
    {"sequence", bare<test_sequence>},
    {"string", bare<test_string>},
    {"test", bare<test_test>},
    {"true", bare<test_true>},
    {"undefined", bare<test_undefined>},
    {"upper", bare<test_upper>},
};

}  // namespace

Native find_test(std::string_view name) { return find_native(kTests, name); }

}  // namespace moebius::jinja
