// Regular expressions in grammars: the subset that is regular and that ECMA-262 and Python's `re` read alike.
//
// Literals, classes, . (no newline), \d \w \s and their negations, groups, |, * + ? {m} {m,} {m,n} (lazy
// forms describe the same texts), ^ and $ at the ends. \d, \w and \s are those of ASCII; what negates \d or
// \w reads ASCII only, where both languages agree. Refused by name: look-around, back references, \b, flags,
// \p.
#pragma once

#include <string_view>

#include "models/constraint/grammar.h"

namespace moebius {

struct RegexOptions {
  bool json = false;    // the text stands within a JSON string and is escaped
  bool search = false;  // the expression may match anywhere, as JSON Schema's `pattern` does; else all of it
};

struct RegexExpr {
  ExprId expr = 0;
  int64_t min = 0, max = 0;  // characters; max kNoMaximum: no limit
  // A repetition of one character class and nothing else: expr is what is repeated, min to max times.
  bool single = false;
};

// kInvalid: not a regular expression, with the place; kUnsupported: outside of the subset.
Result<RegexExpr> add_regex(Grammar& grammar, std::string_view pattern, RegexOptions options);

}  // namespace moebius
