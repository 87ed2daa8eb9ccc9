// Checkers: whether a reply solves a task of the corpus. Replies are untrusted text.
#pragma once

#include <string>
#include <string_view>

#include "kernels/status.h"

namespace moebius {

// The value of an arithmetic expression: numbers, + - * / and parentheses, 1000 characters and 50 levels at
// most. kInvalid: anything else, or a division by zero.
Result<double> evaluate_expression(std::string_view text);

// Whether reply solves a task. By the name of the task:
//   story...          answer lists words; the reply is 3 to 30 sentences that hold them all
//   tools.calculator  the reply holds {"name": "calculator", "arguments": {"expression": E}}, E's value the
//                     answer
//   tools.unneeded    no such call, and the final answer is right
//   about.command     a line of the reply is the answer
//   about.fact, talk...  the reply, at most 800 bytes, mentions the answer; case does not matter
//   all others        the last line "Answer: X", or without one the whole reply, is the answer
// Runs of white space count as one space.
bool check_reply(std::string_view task, std::string_view answer, std::string_view reply);

}  // namespace moebius
