// Conversations with a calculator at hand: one call, its result, the answer; and questions that need no call.
#include <fmt/format.h>

#include "tools/corpus.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kDescriptions[] = {"Computes the value of an arithmetic expression.",
                                              "Evaluates an expression with + - * / and parentheses.",
                                              "A calculator for whole numbers and fractions."};

ordered_json calculator(CorpusRandom& random) {
  return {{"type", "function"},
          {"function",
           {{"name", "calculator"},
            {"description", random.pick(kDescriptions)},
            {"parameters",
             {{"type", "object"},
              {"properties", {{"expression", {{"type", "string"}}}}},
              {"required", ordered_json::array({"expression"})}}}}}};
}

struct Calculation {
  std::string question, expression, problem;
  int64_t value = 0;
};

Calculation one_operation(CorpusRandom& random) {
  int64_t a = random.between(10, 9'999), b = random.between(10, 999);
  const char operation = "+-*/"[random.below(4)];
  int64_t value = a + b;
  if (operation == '-') value = a - b;
  if (operation == '*') value = a * b;
  if (operation == '/') {
    b = random.between(2, 99), value = random.between(10, 9'999), a = b * value;
  }
  constexpr std::string_view kAsk[] = {"What is {0}?",
                                       "Compute {0}.",
                                       "Use the calculator for {0}.",
                                       "How much is {0}?",
                                       "Please work out {0} with the calculator.",
                                       "I need the exact value of {0}."};
  const std::string expression = fmt::format("{} {} {}", a, operation, b);
  return {fill(random.pick(kAsk), {expression}), expression, arithmetic_problem(a, operation, b), value};
}

Calculation several_operations(CorpusRandom& random) {
  const int64_t a = random.between(2, 999), b = random.between(2, 999), c = random.between(2, 99);
  Calculation out;
  switch (random.below(5)) {
    case 0:
      out.expression = fmt::format("({} + {}) * {}", a, b, c), out.value = (a + b) * c;
      break;
    case 1:
      out.expression = fmt::format("{} * {} + {}", a, c, b), out.value = a * c + b;
      break;
    case 2:
      out.expression = fmt::format("{} - {} * {}", a, b, c), out.value = a - b * c;
      break;
    case 3:
      out.expression = fmt::format("({} - {}) * {}", a, b, c), out.value = (a - b) * c;
      break;
    default:
      out.expression = fmt::format("{} + {} + {}", a, b, c), out.value = a + b + c;
  }
  constexpr std::string_view kAsk[] = {"What is {0}?", "Evaluate {0}.", "Give me the value of {0}.",
                                       "Calculate {0}, please."};
  out.question = fill(random.pick(kAsk), {out.expression});
  out.problem = out.expression;
  return out;
}

Calculation told(CorpusRandom& random) {
  const int64_t a = random.between(12, 999), b = random.between(12, 999);
  struct Told {
    std::string_view text;
    char operation;
  };
  constexpr Told kTold[] = {
      {"A box holds {0} jars. How many jars are in {1} boxes?", '*'},
      {"A train has {0} seats, and {1} more are added. How many seats are there?", '+'},
      {"One ticket costs {0} cents. What do {1} tickets cost?", '*'},
      {"A farmer picks {0} apples a day. How many is that in {1} days?", '*'},
      {"There were {0} books in the library and {1} were sold. How many are left?", '-'},
      {"A printer prints {0} pages an hour. How many pages are printed in {1} hours?", '*'},
      {"The first village has {0} people and the second {1}. How many people is that together?", '+'}};
  const Told& story = random.pick(kTold);
  const int64_t x = story.operation == '-' ? std::max(a, b) : a,
                y = story.operation == '-' ? std::min(a, b) : b;
  return {fill(story.text, {fmt::format_int(x).str(), fmt::format_int(y).str()}),
          fmt::format("{} {} {}", x, story.operation, y), arithmetic_problem(x, story.operation, y),
          story.operation == '*'   ? x * y
          : story.operation == '+' ? x + y
                                   : x - y};
}

}  // namespace

Example tool_example(CorpusRandom& random) {
  if (random.chance(30)) {  // tools are there, but the question needs none
    Example example = list_example(random);
    example.task = "tools.unneeded";
    example.tools = ordered_json::array({calculator(random)});
    return example;
  }
  const int64_t kind = random.below(3);
  const Calculation c = kind == 0   ? one_operation(random)
                        : kind == 1 ? told(random)
                                    : several_operations(random);
  const std::string value = fmt::format_int(c.value).str();
  const ordered_json call = {
      {"id", "call_0"},
      {"type", "function"},
      {"function",
       {{"name", "calculator"}, {"arguments", ordered_json({{"expression", c.expression}}).dump()}}}};
  constexpr std::string_view kFinal[] = {"{0} = {1}.\nAnswer: {1}", "The calculator says {1}.\nAnswer: {1}",
                                         "The result is {1}.\nAnswer: {1}", "Answer: {1}"};
  Example example;
  example.task = "tools.calculator";
  example.problem = c.problem;
  example.answer = value;
  example.tools = ordered_json::array({calculator(random)});
  example.messages = {
      {{"role", "user"}, {"content", c.question}},
      {{"role", "assistant"}, {"content", ""}, {"tool_calls", ordered_json::array({call})}},
      {{"role", "tool"}, {"tool_call_id", "call_0"}, {"name", "calculator"}, {"content", value}},
      {{"role", "assistant"}, {"content", fill(random.pick(kFinal), {c.expression, value})}}};
  return example;
}

}  // namespace moebius
