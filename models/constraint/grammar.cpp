#include "models/constraint/grammar.h"

#include <algorithm>

#include <fmt/format.h>

namespace moebius {

ExprId Grammar::add(Expr expr) {
  if (!exprs_.empty() && !status_.ok()) return 0;
  if (static_cast<int64_t>(exprs_.size()) >= limits_.expressions) {
    fail(invalid("the grammar is too large; make it simpler"));
  } else if (expr.depth > limits_.expression_depth) {
    fail(invalid("the grammar nests too deep; make it simpler"));
  } else {
    exprs_.push_back(expr);
    return static_cast<ExprId>(exprs_.size() - 1);
  }
  if (exprs_.empty()) exprs_.emplace_back();
  return 0;
}

ExprId Grammar::empty() { return add({.kind = Kind::kEmpty}); }
ExprId Grammar::never() { return add({.kind = Kind::kNever}); }
ExprId Grammar::any_byte() { return add({.kind = Kind::kAnyByte}); }
ExprId Grammar::token(int32_t id) { return add({.kind = Kind::kToken, .index = id}); }

ExprId Grammar::literal(std::string_view bytes) {
  return bytes.empty() ? empty() : any_of({std::string(bytes)});
}

ExprId Grammar::any_of(std::vector<std::string> literals) {
  if (literals.empty()) return never();
  for (const std::string& text : literals) literal_bytes_ += static_cast<int64_t>(text.size());
  if (literal_bytes_ > limits_.literal_bytes) {
    fail(invalid(fmt::format("the fixed texts of the grammar exceed {} bytes", limits_.literal_bytes)));
    return never();
  }
  literals_.push_back(std::move(literals));
  return add({.kind = Kind::kLiterals, .index = static_cast<int32_t>(literals_.size() - 1)});
}

ExprId Grammar::one_of(const CharSet& characters) {
  if (characters.empty()) return never();
  sets_.push_back(characters);
  return add({.kind = Kind::kSet, .index = static_cast<int32_t>(sets_.size() - 1)});
}

ExprId Grammar::add_parts(Kind kind, const std::vector<ExprId>& parts) {
  Expr out{.kind = kind,
           .index = static_cast<int32_t>(parts_.size()),
           .parts = static_cast<int32_t>(parts.size())};
  for (const ExprId part : parts) out.depth = std::max(out.depth, expr(part).depth + 1);
  if (static_cast<int64_t>(parts_.size() + parts.size()) > 4 * limits_.expressions) {
    fail(invalid("the grammar is too large; make it simpler"));
    return never();
  }
  parts_.insert(parts_.end(), parts.begin(), parts.end());
  return add(out);
}

ExprId Grammar::sequence(std::vector<ExprId> parts) {
  if (parts.empty()) return empty();
  return parts.size() == 1 ? parts[0] : add_parts(Kind::kSequence, parts);
}

ExprId Grammar::choice(std::vector<ExprId> parts) {
  if (parts.empty()) return never();
  return parts.size() == 1 ? parts[0] : add_parts(Kind::kChoice, parts);
}

ExprId Grammar::repeat(ExprId what, int64_t min, int64_t max) {
  if (max != kNoMaximum && max < min) return never();
  if (max == 0) return empty();
  if (min == 1 && max == 1) return what;
  const ExprId id = add_parts(Kind::kRepeat, {what});
  exprs_[static_cast<size_t>(id)].min = min;
  exprs_[static_cast<size_t>(id)].max = max;
  return id;
}

ExprId Grammar::call(RuleId rule) { return add({.kind = Kind::kCall, .index = rule}); }

RuleId Grammar::add_rule() {
  if (static_cast<int64_t>(rules_.size()) >= limits_.rules) {
    fail(invalid(fmt::format("the grammar has more than {} rules", limits_.rules)));
    return 0;
  }
  rules_.push_back(never());
  return static_cast<RuleId>(rules_.size() - 1);
}

void Grammar::define(RuleId rule, ExprId body) { rules_[static_cast<size_t>(rule)] = body; }

RuleId Grammar::add_rule(ExprId body) {
  const RuleId rule = add_rule();
  if (status_.ok()) define(rule, body);
  return rule;
}

}  // namespace moebius
