// The texts of JSON as expressions of a grammar.
//
// What is written: at most one space or a line break with its indentation between parts, strings with the
// escapes of RFC 8259 (surrogates in pairs only), numbers of bounded length.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "models/constraint/grammar.h"

namespace moebius {

// One character of the set within a JSON string: itself where it can stand there, else its shortest escape.
ExprId json_characters(Grammar& grammar, const CharSet& set);

// Numbers from low to high; a bound may be left out (nothing) or excluded.
struct NumberRange {
  std::optional<double> low, high;
  bool low_excluded = false, high_excluded = false;
};

class JsonText {
 public:
  explicit JsonText(Grammar& grammar) : g_(grammar) {}
  Grammar& grammar() { return g_; }

  ExprId space();  // between parts, may be empty
  ExprId value();  // any JSON value
  ExprId object();
  ExprId array();
  ExprId string();
  ExprId string(int64_t min, int64_t max);                       // characters; max kNoMaximum: no limit
  ExprId quoted(ExprId inside);                                  // in quotation marks
  ExprId key_other_than(const std::vector<std::string>& names);  // without escapes
  ExprId literal(std::string_view json) { return g_.literal(json); }
  ExprId integer(const NumberRange& range = {});
  ExprId number(const NumberRange& range = {});
  // Whole multiples of `step`, from 1 on: any number of them for a step of 100 at most and a range open above
  // and, unless it begins at 0, below; else at most 5000. Otherwise kUnsupported in the grammar's status.
  ExprId multiple(int64_t step, const NumberRange& range);
  ExprId member(ExprId key, ExprId value);  // "key": value
  // open [first (, more){min - 1, max - 1}] close, with spaces; min may be 0
  ExprId list(char open, ExprId item, int64_t min, int64_t max, char close);
  ExprId comma();

 private:
  ExprId call(RuleId& rule, ExprId (JsonText::*make)());
  ExprId make_space();
  ExprId make_value();
  ExprId make_string();
  ExprId make_character();
  ExprId any_character();
  ExprId key_from(const std::vector<const std::u32string*>& names, size_t depth);

  Grammar& g_;
  RuleId space_ = -1, value_ = -1, string_ = -1, character_ = -1;
};

}  // namespace moebius
