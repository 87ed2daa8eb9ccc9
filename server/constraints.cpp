#include "server/constraints.h"

#include <algorithm>

#include <fmt/format.h>

#include "models/constraint/gbnf.h"
#include "models/constraint/regex.h"

namespace moebius {

namespace {

using Kind = ConstraintRequest::Kind;

constexpr size_t kKept = 16;  // each with as many states and masks as GrammarLimits allows

std::string key_of(const ConstraintRequest& asked, const ToolRequest& tools) {
  Json key = {static_cast<int>(asked.kind), asked.schema, asked.text, asked.choices, tools.required,
              tools.rules.parallel};
  for (const CallableFunction& f : tools.rules.functions) key.push_back({f.name, f.parameters, f.strict});
  return ApiError::to_text(key);
}

// What the answer's content must be.
Result<ExprId> add_content(const ConstraintRequest& asked, JsonText& text) {
  Grammar& grammar = text.grammar();
  switch (asked.kind) {
    case Kind::kJsonObject:
      return text.object();
    case Kind::kJsonSchema:
      return add_json_schema(text, asked.schema);
    case Kind::kRegex: {
      MOEBIUS_ASSIGN(const RegexExpr regex, add_regex(grammar, asked.text, {}));
      return regex.single ? grammar.repeat(regex.expr, regex.min, regex.max) : regex.expr;
    }
    case Kind::kChoice:
      return grammar.any_of(asked.choices);
    case Kind::kGrammar:
      return add_gbnf(grammar, asked.text);
    case Kind::kNone:
      break;
  }
  return grammar.repeat(grammar.any_byte(), 0, kNoMaximum);
}

}  // namespace

Result<std::shared_ptr<const Constraint>> Constraints::compile(const ConstraintRequest& asked,
                                                               const ToolRequest& tools) const {
  Grammar grammar;
  JsonText text(grammar);
  std::vector<ExprId> ways;
  const bool has_tools = !tools.rules.functions.empty();
  if (has_tools) {
    MOEBIUS_ASSIGN(const ExprId calls, add_calls(text, engine_.markup(), tools.rules));
    // Plain text may come before a call, but not a constrained one.
    const ExprId before = asked.kind == Kind::kNone && !tools.required
                              ? grammar.repeat(grammar.any_byte(), 0, kNoMaximum)
                              : grammar.empty();
    ways.push_back(grammar.sequence({before, calls}));
  }
  if (!tools.required) {
    MOEBIUS_ASSIGN(const ExprId content, add_content(asked, text));
    ways.push_back(content);
  }
  grammar.set_root(grammar.choice(std::move(ways)));
  return engine_.constrain(grammar);
}

std::optional<ApiError> Constraints::find(const ConstraintRequest& asked, const ToolRequest& tools,
                                          std::shared_ptr<const Constraint>& out) {
  const bool has_tools = !tools.rules.functions.empty();
  if (asked.kind == Kind::kNone && !has_tools) return {};
  if (has_tools && engine_.markup().calls == CallForm::kNone)
    return bad_request("this model has no markup for tool calls; leave `tools` out", "tools",
                       "unsupported_parameter");
  const std::string key = key_of(asked, tools);
  if ((out = kept(key))) return {};
  Result<std::shared_ptr<const Constraint>> made = compile(asked, tools);
  if (!made.ok()) {
    const bool strict = std::any_of(tools.rules.functions.begin(), tools.rules.functions.end(),
                                    [](const CallableFunction& f) { return f.strict; });
    // Nobody asked for more than that the model may call.
    if (asked.kind == Kind::kNone && !tools.required && !strict) return {};
    const std::string field = asked.kind == Kind::kNone ? "tools" : asked.field;
    return bad_request(fmt::format("`{}` cannot be kept: {}", field, made.status().message()), field,
                       "unsupported_constraint");
  }
  out = *made;
  keep(key, out);
  return {};
}

std::shared_ptr<const Constraint> Constraints::kept(const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& k) { return k.key == key; });
  if (found == kept_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, found);
  return found->constraint;
}

void Constraints::keep(const std::string& key, std::shared_ptr<const Constraint> constraint) {
  const std::lock_guard lock(mutex_);
  kept_.push_front({key, std::move(constraint)});
  if (kept_.size() > kKept) kept_.pop_back();
}

}  // namespace moebius
