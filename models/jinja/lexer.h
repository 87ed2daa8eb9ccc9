// The lexer: template text to tokens, with Jinja's rules of white space control, trim_blocks and
// lstrip_blocks.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/jinja/value.h"

namespace moebius::jinja {

enum class Token : char {
  kData,
  kOpenVariable,   // {{
  kCloseVariable,  // }}
  kOpenBlock,      // {%
  kCloseBlock,     // %}
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Lexeme {
  Token token;
  int line;
  std::string text;  // data, name, decoded string, operator, or the digits of a number without underscores
};

// The source must be valid UTF-8. Throws Error. The last lexeme is kEnd.
std::vector<Lexeme> tokenize(std::string_view source);

}  // namespace moebius::jinja
