// What a request says its answer must be: response_format, the guided_* fields of vLLM, grammar and
// json_schema of llama.cpp, and tools with tool_choice.
#pragma once

#include <string>
#include <vector>

#include "models/markup/call_grammar.h"
#include "server/errors.h"

namespace moebius {

class Fields;
struct RequestLimits;

struct ConstraintRequest {
  enum class Kind : uint8_t { kNone, kJsonObject, kJsonSchema, kRegex, kChoice, kGrammar };
  Kind kind = Kind::kNone;
  std::string field;                 // that asked for it
  Json schema;                       // kJsonSchema
  std::string text;                  // kRegex, kGrammar
  std::vector<std::string> choices;  // kChoice
};

// The functions that may be called; none: no calls.
struct ToolRequest {
  CallRules rules;
  bool required = false;  // the answer is a call
};

// At most one of the fields may be there.
void read_constraint(Fields& in, const RequestLimits& limits, ConstraintRequest& request);

// Reads tools, tool_choice and parallel_tool_calls. True when the tools are to be shown to the model.
bool read_tools(Fields& in, const RequestLimits& limits, ToolRequest& request);

}  // namespace moebius
