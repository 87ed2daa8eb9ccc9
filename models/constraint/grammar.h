// Grammar: what an answer may be, as rules over bytes and tokens. The compilers of JSON Schema, regular
// expressions and GBNF write one; Program::compile turns it into an automaton.
//
// Expressions form a graph without cycles; recursion goes through rules. Building is bounded: what breaks a
// limit is remembered in status(), and the rest is built on from never().
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/status.h"
#include "models/constraint/char_set.h"

namespace moebius {

struct GrammarLimits {
  int nesting = 64;             // of groups, schemas, alternatives in what a user wrote
  int expression_depth = 1000;  // of the graph that is made of it
  int64_t rules = 10'000;
  int64_t expressions = 300'000;
  int64_t literal_bytes = 1 << 20;  // in all
  int64_t nodes = 200'000;          // of the automaton
  int repeat = 1000;                // m and n of {m,n} where a user writes them
  int stack = 64;                   // rules within rules while an answer is written: nesting of its JSON
  int64_t configurations = 2'000;   // that one state of the automaton may stand for
  int64_t mask_work = 3'000'000;    // configurations visited for one mask
  int64_t cache_bytes = 32 << 20;   // states and masks kept, per constraint
};

using ExprId = int32_t;
using RuleId = int32_t;
inline constexpr int64_t kNoMaximum = -1;

class Grammar {
 public:
  explicit Grammar(GrammarLimits limits = {}) : limits_(limits) {}
  const GrammarLimits& limits() const { return limits_; }

  ExprId empty();  // ""
  ExprId never();  // nothing at all
  ExprId literal(std::string_view bytes);
  ExprId any_of(std::vector<std::string> literals);  // never() of none
  ExprId one_of(const CharSet& characters);          // one character, in UTF-8
  ExprId any_byte();                                 // also where it is no UTF-8
  ExprId token(int32_t id);                          // one token that has no text of its own: markup
  ExprId sequence(std::vector<ExprId> parts);
  ExprId choice(std::vector<ExprId> parts);  // never() of none
  ExprId repeat(ExprId what, int64_t min, int64_t max);
  ExprId optional(ExprId what) { return repeat(what, 0, 1); }
  ExprId call(RuleId rule);

  RuleId add_rule();  // define() it later; until then it is never()
  void define(RuleId rule, ExprId body);
  RuleId add_rule(ExprId body);
  void set_root(ExprId body) { root_ = body; }

  void fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  const Status& status() const { return status_; }

  // For Program::compile.
  enum class Kind : uint8_t {
    kEmpty,
    kNever,
    kLiterals,
    kSet,
    kAnyByte,
    kToken,
    kSequence,
    kChoice,
    kRepeat,
    kCall
  };
  struct Expr {
    Kind kind = Kind::kNever;
    int32_t index = 0;  // of literals, set, token id, rule; of the first part
    int32_t parts = 0;
    int64_t min = 0, max = 0;  // of kRepeat
    int32_t depth = 1;
  };
  const Expr& expr(ExprId id) const { return exprs_[static_cast<size_t>(id)]; }
  ExprId part(const Expr& expr, int32_t i) const { return parts_[static_cast<size_t>(expr.index + i)]; }
  const std::vector<std::string>& literals(const Expr& e) const {
    return literals_[static_cast<size_t>(e.index)];
  }
  const CharSet& set(const Expr& e) const { return sets_[static_cast<size_t>(e.index)]; }
  ExprId rule(RuleId id) const { return rules_[static_cast<size_t>(id)]; }
  RuleId rules() const { return static_cast<RuleId>(rules_.size()); }
  ExprId root() const { return root_; }

 private:
  ExprId add(Expr expr);
  ExprId add_parts(Kind kind, const std::vector<ExprId>& parts);

  GrammarLimits limits_;
  Status status_;
  std::vector<Expr> exprs_;
  std::vector<ExprId> parts_;
  std::vector<std::vector<std::string>> literals_;
  std::vector<CharSet> sets_;
  std::vector<ExprId> rules_;
  int64_t literal_bytes_ = 0;
  ExprId root_ = -1;
};

}  // namespace moebius
