// Interpreter: one rendering of a template.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "models/jinja/ast.h"
#include "models/jinja/call.h"
#include "models/jinja/heap.h"
#include "models/jinja/loop.h"

namespace moebius::jinja {

class Interpreter {
 public:
  explicit Interpreter(const TemplateLimits& limits) : heap(limits) {}

  // Throws Error. variables is an object.
  std::string render(const Body& body, const nlohmann::ordered_json& variables);

  Value call(const Value& callable, const Arguments& args);
  Value apply_filter(const std::string& name, const Value& input, const Arguments& args);
  bool apply_test(const std::string& name, const Value& input, const Arguments& args);
  // Another round of a `recursive` for loop, from loop(items).
  Value recurse(Loop& loop, const Value& items);
  // Binds the target of a for loop to item and says whether the loop's own condition holds.
  bool loop_condition(const Loop& loop, const Value& item);

  Heap heap;

 private:
  enum class Flow { kNext, kBreak, kContinue };

  Flow run(const Body& body, const ScopeRef& scope, Builder& out);
  Flow run(const Stmt& stmt, const ScopeRef& scope, Builder& out);
  Flow run_if(const Stmt& stmt, const ScopeRef& scope, Builder& out);
  Flow run_for(const Stmt& stmt, const Value& items, int depth, const ScopeRef& scope, Builder& out);
  Flow run_set_block(const Stmt& stmt, const ScopeRef& scope);
  Flow run_filter_block(const Stmt& stmt, const ScopeRef& scope, Builder& out);
  Flow run_with(const Stmt& stmt, const ScopeRef& scope, Builder& out);
  void run_call_block(const Stmt& stmt, const ScopeRef& scope, Builder& out);
  void assign(const Expr& target, const Value& value, const ScopeRef& scope);
  Callable* make_macro(const Stmt& stmt, const ScopeRef& scope);

  Value eval(const Expr& expr, const ScopeRef& scope);
  Value eval_name(const Expr& expr, const ScopeRef& scope);
  Value eval_sequence(const Expr& expr, const ScopeRef& scope);
  Value eval_dict(const Expr& expr, const ScopeRef& scope);
  Value eval_slice(const Expr& expr, const ScopeRef& scope);
  Value eval_call(const Expr& expr, const ScopeRef& scope, const Value* caller);
  Value eval_filter(const Expr& expr, const ScopeRef& scope, const Value* input);
  Value eval_sign(const Expr& expr, const ScopeRef& scope);
  Value eval_compare(const Expr& expr, const ScopeRef& scope);
  Value eval_concat(const Expr& expr, const ScopeRef& scope);
  Value eval_condition(const Expr& expr, const ScopeRef& scope);
  Arguments eval_arguments(const CallArguments& args, const ScopeRef& scope);
  Value call_macro(const Callable& macro, const Arguments& args);
  void bind_parameters(const Callable& macro, const Arguments& args, const ScopeRef& scope);
};

}  // namespace moebius::jinja
