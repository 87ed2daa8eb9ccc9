// Sums, differences, products and quotients, worked in steps that need one digit's table at a time.
#include <algorithm>

#include <fmt/format.h>

#include "tools/corpus.h"

namespace moebius {
namespace {

constexpr std::string_view kPlaces[] = {
    "Ones", "Tens", "Hundreds", "Thousands", "Ten thousands", "Hundred thousands", "Millions"};

constexpr std::string_view kQuestions[] = {"What is {0}?",        "Compute {0}.",
                                           "How much is {0}?",    "{0} = ?",
                                           "Calculate {0}.",      "Work out {0}.",
                                           "Please compute {0}.", "Find {0} and show the steps.",
                                           "Can you solve {0}?",  "What do you get for {0}?"};

constexpr std::string_view kAddStories[] = {
    "{0} has {1} {3} and gets {2} more. How many {3} does {0} have now?",
    "There are {1} {3} in one box and {2} {3} in another. How many {3} are there together?",
    "{0} counted {1} {3} in the morning and {2} {3} in the evening. How many is that in all?",
    "A shop had {1} {3} and bought {2} more. How many {3} does it have?"};
constexpr std::string_view kSubtractStories[] = {
    "{0} has {1} {3} and gives {2} away. How many {3} are left?",
    "There were {1} {3} on the shelf and {0} took {2} of them. How many {3} remain?",
    "{0} needs {1} {3} and already has {2}. How many {3} are missing?"};
constexpr std::string_view kMultiplyStories[] = {
    "{0} has {1} boxes with {2} {3} in each box. How many {3} is that?",
    "There are {1} rows of {2} {3}. How many {3} are there?",
    "{0} buys {2} {3} every day for {1} days. How many {3} is that in all?"};
constexpr std::string_view kDivideStories[] = {
    "{0} shares {1} {3} equally among {2} friends. How many {3} does each friend get?",
    "{1} {3} are packed into {2} equal bags. How many {3} are in each bag?"};

constexpr std::string_view kNames[] = {"Anna", "Ben",   "Clara", "David", "Emma", "Felix", "Grace", "Hugo",
                                       "Iris", "Jonas", "Kate",  "Leo",   "Mia",  "Noah",  "Olga",  "Paul"};
constexpr std::string_view kThings[] = {"apples", "books", "coins",  "shells", "stamps", "marbles", "eggs",
                                        "pens",   "cards", "stones", "nuts",   "roses",  "buttons", "pears"};

std::string number(int64_t value) { return fmt::format_int(value).str(); }

int64_t digit(int64_t value, int place) {
  for (int i = 0; i < place; ++i) value /= 10;
  return value % 10;
}

int digits(int64_t value) {
  int count = 1;
  for (; value >= 10; value /= 10) ++count;
  return count;
}

// Numbers of one digit up to most_digits, each length often enough.
int64_t draw_number(CorpusRandom& random, int most_digits) {
  int64_t limit = 1;
  for (int64_t i = random.between(1, most_digits); i > 0; --i) limit *= 10;
  return random.between(limit == 10 ? 0 : limit / 10, limit - 1);
}

std::string add_steps(int64_t left, int64_t right) {
  std::string out;
  int64_t carry = 0;
  const int places = std::max(digits(left), digits(right));
  for (int place = 0; place < places; ++place) {
    const int64_t a = digit(left, place), b = digit(right, place), sum = a + b + carry;
    out += fmt::format("{}: {} + {}{} = {}", kPlaces[place], a, b, carry != 0 ? " + 1" : "", sum);
    carry = sum / 10;
    out += carry != 0 ? fmt::format(", write {}, carry 1.\n", sum % 10) : fmt::format(", write {}.\n", sum);
  }
  if (carry != 0) out += fmt::format("{}: carry 1, write 1.\n", kPlaces[places]);
  return out;
}

// left >= right
std::string subtract_columns(int64_t left, int64_t right) {
  std::string out;
  int64_t borrow = 0;
  for (int place = 0; place < digits(left); ++place) {
    const int64_t a = digit(left, place), b = digit(right, place), rest = a - b - borrow;
    const std::string taken = borrow != 0 ? fmt::format("{} - 1", b) : number(b);
    if (rest < 0) {
      out += fmt::format("{}: {} - {} is too small, borrow: {} - {} = {}, write {}.\n", kPlaces[place], a,
                         taken, a + 10, taken, rest + 10, rest + 10);
    } else {
      out += fmt::format("{}: {} - {} = {}, write {}.\n", kPlaces[place], a, taken, rest, rest);
    }
    borrow = rest < 0 ? 1 : 0;
  }
  return out;
}

std::string subtract_steps(int64_t left, int64_t right) {
  if (left >= right) return subtract_columns(left, right);
  return fmt::format("{0} is less than {1}, so the result is negative. Compute {1} - {0}.\n", left, right) +
         subtract_columns(right, left);
}

// By one digit, from the right, as it is taught at school: the last place is written whole.
std::string multiply_steps(int64_t left, int64_t right) {
  if (left < right) std::swap(left, right);
  if (left < 10) return fmt::format("{} * {} = {}.\n", left, right, left * right);
  std::string out;
  int64_t carry = 0;
  for (int place = 0; place < digits(left); ++place) {
    const int64_t product = digit(left, place) * right, sum = product + carry;
    out += fmt::format("{}: {} * {} = {}", kPlaces[place], digit(left, place), right, product);
    if (carry != 0) out += fmt::format(", {} + {} = {}", product, carry, sum);
    const bool last = place + 1 == digits(left);
    carry = last ? 0 : sum / 10;
    out += fmt::format(", write {}", last ? sum : sum % 10);
    out += carry != 0 ? fmt::format(", carry {}.\n", carry) : ".\n";
  }
  return out;
}

// Long division by one digit, each place by its product; right divides left.
std::string divide_steps(int64_t left, int64_t right) {
  std::string out;
  int64_t rest = 0;
  bool started = false;
  for (int place = digits(left) - 1; place >= 0; --place) {
    const int64_t part = rest * 10 + digit(left, place);
    rest = part % right;
    started = started || part >= right || place == 0;
    if (!started) continue;
    const int64_t quotient = part / right, product = quotient * right;
    out += fmt::format("{}: {} * {} = {}, {} - {} = {}, write {}.\n", part, right, quotient, product, part,
                       product, rest, quotient);
  }
  return out;
}

constexpr int kMostDigits = 3;  // of the numbers that are added, subtracted and compared

struct Problem {
  char operation = '+';
  int64_t left = 0, right = 0, result = 0;
  std::string steps;
};

Problem draw_problem(CorpusRandom& random) {
  Problem p;
  p.operation = "+++---***//"[random.below(11)];
  switch (p.operation) {
    case '+':
      p.left = draw_number(random, kMostDigits), p.right = draw_number(random, kMostDigits);
      p.result = p.left + p.right;
      p.steps = add_steps(p.left, p.right);
      break;
    case '-':
      p.left = draw_number(random, kMostDigits), p.right = draw_number(random, kMostDigits);
      if (p.left < p.right && random.chance(80)) std::swap(p.left, p.right);
      p.result = p.left - p.right;
      p.steps = subtract_steps(p.left, p.right);
      break;
    case '*':
      p.left = draw_number(random, 2), p.right = draw_number(random, p.left < 10 ? 2 : 1);
      p.result = p.left * p.right;
      p.steps = multiply_steps(p.left, p.right);
      break;
    default:
      p.right = random.between(2, 5), p.result = random.between(1, 99);
      p.left = p.right * p.result;
      p.steps = divide_steps(p.left, p.right);
  }
  return p;
}

std::string draw_question(CorpusRandom& random, const Problem& p) {
  const std::string a = number(p.left), b = number(p.right);
  const bool positive = p.left > 1 && p.right > 1 && p.result > 0;
  if (positive && random.chance(30)) {
    const auto tell = [&](const auto& stories) {
      const std::string_view story = random.pick(stories);
      return fill(story, {random.pick(kNames), a, b, random.pick(kThings)});
    };
    switch (p.operation) {
      case '+':
        return tell(kAddStories);
      case '-':
        return tell(kSubtractStories);
      case '*':
        return tell(kMultiplyStories);
      default:
        return tell(kDivideStories);
    }
  }
  const bool spaced = random.chance(80);
  std::string text = fmt::format("{}{}{}{}{}", a, spaced ? " " : "", p.operation, spaced ? " " : "", b);
  if (random.chance(15)) {
    constexpr std::string_view kWords[] = {"plus", "minus", "times", "divided by"};
    text = fmt::format("{} {} {}", a, kWords[std::string_view("+-*/").find(p.operation)], b);
  }
  return fill(random.pick(kQuestions), {text});
}

std::string_view task_name(char operation) {
  constexpr std::string_view kTasks[] = {"arithmetic.add", "arithmetic.subtract", "arithmetic.multiply",
                                         "arithmetic.divide"};
  return kTasks[std::string_view("+-*/").find(operation)];
}

constexpr int64_t kMostToScale = 10, kMostToAdd = 20;  // larger numbers are reduced

// "Start with 7, add 5, double it": two or three small steps.
Example chain(CorpusRandom& random) {
  int64_t value = random.between(1, 12);
  std::string question = fmt::format("Start with {}", value), steps, problem = "chain " + number(value);
  for (int64_t i = random.between(2, 3); i > 0; --i) {
    const int64_t by = random.between(1, 9), before = value;
    const int64_t kind = value > kMostToAdd ? 1 : random.below(value > kMostToScale ? 2 : 4);
    char operation = '+';
    int64_t with = by;
    if (kind == 0 || (kind == 1 && by > value)) {
      question += fmt::format(", add {}", by);
    } else if (kind == 1) {
      operation = '-';
      question += fmt::format(", subtract {}", by);
    } else {
      operation = '*', with = kind == 2 ? 2 : 3;
      question += with == 2 ? ", double it" : ", multiply by 3";
    }
    value = operation == '+' ? before + with : operation == '-' ? before - with : before * with;
    steps += fmt::format("{} {} {} = {}.\n", before, operation, with, value);
    problem += fmt::format("{}{}", operation, with);
  }
  constexpr std::string_view kEnds[] = {". What is the result?", ". What do you get?",
                                        ". Which number is it now?"};
  return ask("arithmetic.chain", problem, question + std::string(random.pick(kEnds)),
             fmt::format("{}Answer: {}", steps, value), number(value));
}

Example compare(CorpusRandom& random) {
  const int64_t a = draw_number(random, kMostDigits);
  int64_t b = random.chance(50) ? draw_number(random, kMostDigits)
                                : std::max<int64_t>(0, a + random.between(-30, 30));
  if (a == b) ++b;
  const bool larger = random.chance(50);
  constexpr std::string_view kLarger[] = {"Which is larger, {0} or {1}?",
                                          "Which number is greater: {0} or {1}?",
                                          "Name the bigger of {0} and {1}."};
  constexpr std::string_view kSmaller[] = {"Which is smaller, {0} or {1}?",
                                           "Which number is less: {0} or {1}?",
                                           "Name the lesser of {0} and {1}."};
  const int64_t high = std::max(a, b), low = std::min(a, b);
  const std::string why = digits(high) != digits(low)
                              ? fmt::format("{} has more digits than {}.", high, low)
                              : fmt::format("Both have {} digit{}, and {} > {}.", digits(high),
                                            digits(high) == 1 ? "" : "s", high, low);
  const std::string answer = number(larger ? high : low);
  return ask("arithmetic.compare", fmt::format("compare {} {}", low, high),
             fill(larger ? random.pick(kLarger) : random.pick(kSmaller), {number(a), number(b)}),
             fmt::format("{}\nAnswer: {}", why, answer), answer);
}

}  // namespace

std::string arithmetic_problem(int64_t left, char operation, int64_t right) {
  if ((operation == '+' || operation == '*') && left > right) std::swap(left, right);
  return fmt::format("{}{}{}", left, operation, right);
}

Example arithmetic_example(CorpusRandom& random) {
  const int64_t kind = random.below(100);
  if (kind < 12) return chain(random);
  if (kind < 20) return compare(random);
  const Problem p = draw_problem(random);
  std::string question = draw_question(random, p);
  return ask(std::string(task_name(p.operation)), arithmetic_problem(p.left, p.operation, p.right),
             std::move(question), fmt::format("{}Answer: {}", p.steps, p.result), number(p.result));
}

}  // namespace moebius
