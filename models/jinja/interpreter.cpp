#include "models/jinja/interpreter.h"

#include <fmt/core.h>

#include "models/jinja/format.h"

namespace moebius::jinja {

std::string Interpreter::render(const Body& body, const nlohmann::ordered_json& variables) {
  const auto globals = std::make_shared<Scope>(nullptr);
  for (const auto& item : variables.items()) globals->names[item.key()] = from_json(heap, item.value());
  Builder out(heap);
  run(body, std::make_shared<Scope>(globals), out);
  return out.text();
}

Interpreter::Flow Interpreter::run(const Body& body, const ScopeRef& scope, Builder& out) {
  const Nested nested(heap);
  for (const auto& stmt : body) {
    const Flow flow = run(*stmt, scope, out);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run(const Stmt& stmt, const ScopeRef& scope, Builder& out) {
  heap.step();
  heap.line = stmt.line;
  switch (stmt.kind) {
    case StmtKind::kText:
      out.add(stmt.text);
      return Flow::kNext;
    case StmtKind::kPrint:
      write_str(out, heap, eval(*stmt.expr, scope));
      return Flow::kNext;
    case StmtKind::kSet:
      assign(*stmt.target, eval(*stmt.expr, scope), scope);
      return Flow::kNext;
    case StmtKind::kIf:
      return run_if(stmt, scope, out);
    case StmtKind::kFor:
      return run_for(stmt, eval(*stmt.expr, scope), 0, scope, out);
    case StmtKind::kSetBlock:
      return run_set_block(stmt, scope);
    case StmtKind::kFilterBlock:
      return run_filter_block(stmt, scope, out);
    case StmtKind::kWith:
      return run_with(stmt, scope, out);
    case StmtKind::kCallBlock:
      run_call_block(stmt, scope, out);
      return Flow::kNext;
    case StmtKind::kMacro:
      scope->names[stmt.macro.name] = Value(make_macro(stmt, scope));
      return Flow::kNext;
    case StmtKind::kScope:
      return run(stmt.body, std::make_shared<Scope>(scope), out);
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_if(const Stmt& stmt, const ScopeRef& scope, Builder& out) {
  for (const auto& [test, body] : stmt.branches) {
    if (truthy(eval(*test, scope))) return run(body, scope, out);
  }
  return run(stmt.otherwise, scope, out);
}

Interpreter::Flow Interpreter::run_for(const Stmt& stmt, const Value& items, int depth, const ScopeRef& scope,
                                       Builder& out) {
  auto* loop = heap.make<Loop>(*this, stmt, items, depth, scope);
  // As in Jinja, a round that ends in break or continue does not count against the else branch.
  bool completed = false;
  Value item;
  while (loop->advance(item)) {
    const auto inner = std::make_shared<Scope>(scope);
    assign(*stmt.target, item, inner);
    inner->names["loop"] = Value(static_cast<Object*>(loop));
    const Flow flow = run(stmt.body, inner, out);
    if (flow == Flow::kBreak) break;
    completed |= flow == Flow::kNext;
  }
  if (completed || stmt.otherwise.empty()) return Flow::kNext;
  return run(stmt.otherwise, std::make_shared<Scope>(scope), out);
}

bool Interpreter::loop_condition(const Loop& loop, const Value& item) {
  const auto scope = std::make_shared<Scope>(loop.scope());
  assign(*loop.stmt().target, item, scope);
  return truthy(eval(*loop.stmt().filter, scope));
}

Value Interpreter::recurse(Loop& loop, const Value& items) {
  if (!loop.stmt().recursive) fail("only a loop marked 'recursive' can be called");
  const Nested nested(heap);
  Builder out(heap);
  run_for(loop.stmt(), items, loop.depth() + 1, loop.scope(), out);
  return out.finish();
}

Interpreter::Flow Interpreter::run_set_block(const Stmt& stmt, const ScopeRef& scope) {
  const auto inner = std::make_shared<Scope>(scope);
  Builder out(heap);
  const Flow flow = run(stmt.body, inner, out);
  if (flow != Flow::kNext) return flow;
  Value text = out.finish();
  if (stmt.filter != nullptr) text = eval_filter(*stmt.filter, inner, &text);
  assign(*stmt.target, text, scope);
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_filter_block(const Stmt& stmt, const ScopeRef& scope, Builder& out) {
  const auto inner = std::make_shared<Scope>(scope);
  Builder body(heap);
  const Flow flow = run(stmt.body, inner, body);
  if (flow != Flow::kNext) return flow;
  const Value text = body.finish();
  const Value filtered = eval_filter(*stmt.filter, inner, &text);
  if (!filtered.is_string()) fail(fmt::format("a filter block must give text, not {}", type_name(filtered)));
  out.add(filtered.text());
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_with(const Stmt& stmt, const ScopeRef& scope, Builder& out) {
  const auto inner = std::make_shared<Scope>(scope);
  for (const auto& [target, value] : stmt.bindings) assign(*target, eval(*value, scope), inner);
  return run(stmt.body, inner, out);
}

void Interpreter::run_call_block(const Stmt& stmt, const ScopeRef& scope, Builder& out) {
  const Value caller(static_cast<Object*>(make_macro(stmt, scope)));
  write_str(out, heap, eval_call(*stmt.expr, scope, &caller));
}

void Interpreter::assign(const Expr& target, const Value& value, const ScopeRef& scope) {
  if (target.kind == ExprKind::kName) {
    scope->names[target.name] = value;
    return;
  }
  if (target.kind == ExprKind::kNamespaceRef) {
    const Value owner = eval_name(target, scope);
    if (!is_kind(owner, ObjectKind::kNamespace)) {
      fail(fmt::format("'{}' is no namespace, so its attributes cannot be set", target.name));
    }
    if (target.attribute.front() == '_') fail("attributes of a namespace cannot begin with an underscore");
    owner.as<Dict>()->set(heap, heap.string(target.attribute), value);
    return;
  }
  const Sequence* items = items_of(heap, value);
  if (items->items.size() != target.items.size()) {
    fail(fmt::format("{} values cannot be assigned to {} names", items->items.size(), target.items.size()));
  }
  const std::vector<Value> values = items->items;
  for (size_t i = 0; i < values.size(); ++i) assign(*target.items[i], values[i], scope);
}

Callable* Interpreter::make_macro(const Stmt& stmt, const ScopeRef& scope) {
  heap.charge(sizeof(Scope) + 64);
  auto* macro = heap.make<Callable>();
  macro->name = stmt.macro.name;
  macro->macro = &stmt;
  macro->scope = scope;
  return macro;
}

}  // namespace moebius::jinja
