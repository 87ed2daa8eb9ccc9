// The tool calls of a family of models as a grammar.
#pragma once

#include <string>
#include <vector>

#include "models/constraint/json_schema.h"
#include "models/markup/answer_parser.h"

namespace moebius {

struct CallableFunction {
  std::string name;
  Schema parameters;  // null: none
  bool strict =
      false;  // the arguments must satisfy them; else, where they cannot be kept, any arguments may come
};

struct CallRules {
  std::vector<CallableFunction> functions;  // at least one
  bool parallel = true;                     // more than one call
};

// One call or several, as the family's template writes them, with arguments that satisfy the function's
// parameters. kUnsupported: a strict function's parameters, or a name that the markup cannot hold.
Result<ExprId> add_calls(JsonText& text, const ChatMarkup& markup, const CallRules& rules);

// The arguments that are texts, by the functions' parameters.
std::shared_ptr<const TextArguments> text_arguments(const CallRules& rules);

}  // namespace moebius
