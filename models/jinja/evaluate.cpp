// The expressions of a template.
#include <algorithm>

#include <fmt/core.h>

#include "models/jinja/format.h"
#include "models/jinja/interpreter.h"

namespace moebius::jinja {

Value Interpreter::eval(const Expr& expr, const ScopeRef& scope) {
  const Nested nested(heap);
  heap.step();
  heap.line = expr.line;
  switch (expr.kind) {
    case ExprKind::kConst:
      return expr.constant;
    case ExprKind::kName:
      return eval_name(expr, scope);
    case ExprKind::kTuple:
    case ExprKind::kList:
      return eval_sequence(expr, scope);
    case ExprKind::kDict:
      return eval_dict(expr, scope);
    case ExprKind::kAttribute:
      return get_attribute(heap, eval(*expr.items[0], scope), expr.name);
    case ExprKind::kItem: {
      const Value owner = eval(*expr.items[0], scope);
      return get_item(heap, owner, eval(*expr.items[1], scope));
    }
    case ExprKind::kSlice:
      return eval_slice(expr, scope);
    case ExprKind::kCall:
      return eval_call(expr, scope, nullptr);
    case ExprKind::kFilter:
      return eval_filter(expr, scope, nullptr);
    case ExprKind::kTest: {
      const Value input = eval(*expr.items[0], scope);
      const Arguments args = eval_arguments(expr.args, scope);
      heap.line = expr.line;
      return Value(apply_test(expr.name, input, args));
    }
    case ExprKind::kNegate:
    case ExprKind::kPlus:
      return eval_sign(expr, scope);
    case ExprKind::kNot:
      return Value(!truthy(eval(*expr.items[0], scope)));
    case ExprKind::kBinary: {
      const Value a = eval(*expr.items[0], scope);
      const Value b = eval(*expr.items[1], scope);
      heap.line = expr.line;
      return binary(heap, expr.op, a, b);
    }
    case ExprKind::kCompare:
      return eval_compare(expr, scope);
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      Value left = eval(*expr.items[0], scope);
      return truthy(left) == (expr.kind == ExprKind::kAnd) ? eval(*expr.items[1], scope) : left;
    }
    case ExprKind::kConcat:
      return eval_concat(expr, scope);
    case ExprKind::kCondition:
      return eval_condition(expr, scope);
    case ExprKind::kNamespaceRef:
      break;
  }
  return {};
}

Value Interpreter::eval_name(const Expr& expr, const ScopeRef& scope) {
  for (const Scope* at = scope.get(); at != nullptr; at = at->parent.get()) {
    const auto found = at->names.find(expr.name);
    if (found != at->names.end()) return found->second;
  }
  if (const Native native = find_global(expr.name)) {
    auto* function = heap.make<Callable>();
    function->name = expr.name;
    function->native = native;
    return Value(function);
  }
  return undefined(heap, fmt::format("'{}' is undefined", expr.name));
}

Value Interpreter::eval_sequence(const Expr& expr, const ScopeRef& scope) {
  Sequence* result = heap.sequence(expr.kind == ExprKind::kList ? ObjectKind::kList : ObjectKind::kTuple);
  for (const ExprPtr& item : expr.items) heap.push(result, eval(*item, scope));
  return Value(result);
}

Value Interpreter::eval_dict(const Expr& expr, const ScopeRef& scope) {
  auto* result = heap.make<Dict>();
  for (size_t i = 0; i + 1 < expr.items.size(); i += 2) {
    const Value key = eval(*expr.items[i], scope);
    Value value = eval(*expr.items[i + 1], scope);
    check_hashable(key);
    result->set(heap, key, std::move(value));
  }
  return Value(result);
}

Value Interpreter::eval_slice(const Expr& expr, const ScopeRef& scope) {
  const auto part = [&](size_t i) { return expr.items[i] == nullptr ? none() : eval(*expr.items[i], scope); };
  const Value owner = part(0);
  const Value start = part(1);
  const Value stop = part(2);
  const Value step = part(3);
  return get_slice(heap, owner, start, stop, step);
}

Arguments Interpreter::eval_arguments(const CallArguments& args, const ScopeRef& scope) {
  Arguments out;
  for (const ExprPtr& value : args.positional) out.positional.push_back(eval(*value, scope));
  for (const auto& [name, value] : args.named) {
    for (const auto& other : out.named) {
      if (other.first == name) fail(fmt::format("the argument '{}' is given twice", name));
    }
    out.named.emplace_back(name, eval(*value, scope));
  }
  if (args.rest != nullptr) {
    const Sequence* rest = items_of(heap, eval(*args.rest, scope));
    out.positional.insert(out.positional.end(), rest->items.begin(), rest->items.end());
  }
  if (args.named_rest != nullptr) {
    const Value rest = eval(*args.named_rest, scope);
    const Dict* dict = as_dict(rest);
    if (dict == nullptr) fail(fmt::format("'**' needs a dict, not {}", type_name(rest)));
    for (const auto& [key, value] : dict->entries) {
      if (!key.is_string()) fail("the names of arguments must be strings");
      for (const auto& other : args.named) {
        if (other.first == key.text()) fail(fmt::format("the argument '{}' is given twice", other.first));
      }
      heap.step();
      out.named.emplace_back(key.text(), value);
    }
  }
  return out;
}

// Methods are called where they stand, without an object for the bound method.
Value Interpreter::eval_call(const Expr& expr, const ScopeRef& scope, const Value* caller) {
  const Expr& callee = *expr.items[0];
  Native method = nullptr;
  Value owner;
  if (callee.kind == ExprKind::kAttribute) {
    owner = eval(*callee.items[0], scope);
    method = find_method(owner, callee.name);
    if (method == nullptr) owner = get_attribute(heap, owner, callee.name);
  } else {
    owner = eval(callee, scope);
  }
  Arguments args = eval_arguments(expr.args, scope);
  if (caller != nullptr) args.named.emplace_back("caller", *caller);
  heap.line = expr.line;
  return method != nullptr ? method(*this, owner, args) : call(owner, args);
}

Value Interpreter::call(const Value& callable, const Arguments& args) {
  if (callable.is_undefined()) fail_undefined(callable);
  if (auto* loop = callable.as<Loop>()) {
    const Parameters given(args, "loop", {"items"}, 1);
    return recurse(*loop, *given[0]);
  }
  const auto* function = callable.as<Callable>();
  if (function == nullptr) fail(fmt::format("a value of type {} cannot be called", type_name(callable)));
  if (function->macro != nullptr) return call_macro(*function, args);
  return function->native(*this, function->self, args);
}

Value Interpreter::call_macro(const Callable& macro, const Arguments& args) {
  const Nested nested(heap);
  const auto scope = std::make_shared<Scope>(macro.scope);
  bind_parameters(macro, args, scope);
  Builder out(heap);
  run(macro.macro->body, scope, out);
  return out.finish();
}

void Interpreter::bind_parameters(const Callable& macro, const Arguments& args, const ScopeRef& scope) {
  const Signature& signature = macro.macro->macro;
  const size_t count = signature.parameters.size();
  std::vector<bool> used(args.named.size(), false);
  const auto take_named = [&](std::string_view name) -> const Value* {
    for (size_t i = 0; i < args.named.size(); ++i) {
      if (used[i] || args.named[i].first != name) continue;
      used[i] = true;
      return &args.named[i].second;
    }
    return nullptr;
  };
  std::vector<const Value*> given(count, nullptr);
  bool has_caller = false;
  for (size_t i = 0; i < count; ++i) {
    const std::string& name = signature.parameters[i];
    has_caller |= name == "caller";
    given[i] = i < args.positional.size() ? &args.positional[i] : take_named(name);
  }
  const Value* caller = signature.uses_caller && !has_caller ? take_named("caller") : nullptr;
  if (signature.uses_caller && !has_caller) {
    scope->names["caller"] =
        caller != nullptr ? *caller : undefined(heap, "the macro was not called with a block");
  }
  if (signature.uses_kwargs) {
    auto* kwargs = heap.make<Dict>();
    for (size_t i = 0; i < used.size(); ++i) {
      if (!used[i]) kwargs->set(heap, heap.string(args.named[i].first), args.named[i].second);
    }
    scope->names["kwargs"] = Value(kwargs);
  } else if (const auto extra = std::find(used.begin(), used.end(), false); extra != used.end()) {
    fail(fmt::format("the macro '{}' has no parameter '{}'", macro.name,
                     args.named[static_cast<size_t>(extra - used.begin())].first));
  }
  if (signature.uses_varargs) {
    Sequence* varargs = heap.sequence(ObjectKind::kTuple);
    for (size_t i = count; i < args.positional.size(); ++i) heap.push(varargs, args.positional[i]);
    scope->names["varargs"] = Value(varargs);
  } else if (args.positional.size() > count) {
    fail(fmt::format("the macro '{}' takes no more than {} arguments", macro.name, count));
  }
  const size_t first_default = count - signature.defaults.size();
  for (size_t i = 0; i < count; ++i) {
    const std::string& name = signature.parameters[i];
    if (given[i] != nullptr) {
      scope->names[name] = *given[i];
    } else if (i >= first_default) {
      scope->names[name] = eval(*signature.defaults[i - first_default], scope);
    } else {
      scope->names[name] = undefined(heap, fmt::format("the parameter '{}' was not given", name));
    }
  }
}

Value Interpreter::eval_filter(const Expr& expr, const ScopeRef& scope, const Value* input) {
  const Nested nested(heap);
  Value value;
  if (expr.items[0] == nullptr) {
    value = *input;
  } else if (input != nullptr && expr.items[0]->kind == ExprKind::kFilter) {
    value = eval_filter(*expr.items[0], scope, input);
  } else {
    value = eval(*expr.items[0], scope);
  }
  const Arguments args = eval_arguments(expr.args, scope);
  heap.line = expr.line;
  return apply_filter(expr.name, value, args);
}

Value Interpreter::apply_filter(const std::string& name, const Value& input, const Arguments& args) {
  const Native filter = find_filter(name);
  if (filter == nullptr) fail_unsupported(fmt::format("the filter '{}' is not known", name));
  return filter(*this, input, args);
}

bool Interpreter::apply_test(const std::string& name, const Value& input, const Arguments& args) {
  const Native test = find_test(name);
  if (test == nullptr) fail_unsupported(fmt::format("the test '{}' is not known", name));
  return truthy(test(*this, input, args));
}

Value Interpreter::eval_sign(const Expr& expr, const ScopeRef& scope) {
  const Value value = eval(*expr.items[0], scope);
  if (value.is_undefined()) fail_undefined(value);
  const bool negative = expr.kind == ExprKind::kNegate;
  if (value.is_float()) return Value(negative ? -value.real() : value.real());
  const auto integer = as_int(value);
  if (!integer) fail(fmt::format("a value of type {} has no sign", type_name(value)));
  return negative ? binary(heap, Op::kSub, make_int(0), Value(*integer)) : Value(*integer);
}

Value Interpreter::eval_compare(const Expr& expr, const ScopeRef& scope) {
  Value left = eval(*expr.items[0], scope);
  for (size_t i = 0; i < expr.ops.size(); ++i) {
    Value right = eval(*expr.items[i + 1], scope);
    heap.line = expr.line;
    if (!compare(heap, expr.ops[i], left, right)) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Value Interpreter::eval_concat(const Expr& expr, const ScopeRef& scope) {
  Builder out(heap);
  for (const ExprPtr& item : expr.items) write_str(out, heap, eval(*item, scope));
  return out.finish();
}

Value Interpreter::eval_condition(const Expr& expr, const ScopeRef& scope) {
  if (truthy(eval(*expr.items[0], scope))) return eval(*expr.items[1], scope);
  if (expr.items[2] != nullptr) return eval(*expr.items[2], scope);
  return undefined(heap, "an inline if without else was false");
}

}  // namespace moebius::jinja
