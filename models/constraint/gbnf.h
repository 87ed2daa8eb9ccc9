// Grammars in GBNF, the notation of llama.cpp (grammars/README.md there): `root ::= ...`, rules of literals
// "..." with \n \r \t \" \\ \xHH \uHHHH \UHHHHHHHH, classes [a-z] and [^a-z], `.`, groups, |, and the
// repetitions * + ? {m} {m,} {m,n}; comments from # on. A rule ends where the next one begins.
#pragma once

#include <string_view>

#include "models/constraint/grammar.h"

namespace moebius {

// Adds the rules; returns what `root` stands for. kInvalid: with line and place.
Result<ExprId> add_gbnf(Grammar& grammar, std::string_view text);

}  // namespace moebius
