#include <algorithm>
#include <charconv>

#include <fmt/core.h>

#include "models/jinja/parser.h"

namespace moebius::jinja {
namespace {

std::optional<Value> integer_constant(const std::string& text) {
  int base = 10;
  size_t from = 0;
  if (text.size() > 2 && text[0] == '0') {
    const char mark = static_cast<char>(text[1] | 32);
    base = mark == 'x' ? 16 : (mark == 'o' ? 8 : (mark == 'b' ? 2 : 10));
    if (base != 10) from = 2;
  }
  Int value = 0;
  for (const char c : text.substr(from)) {
    const int digit = c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
    if (__builtin_mul_overflow(value, static_cast<Int>(base), &value) ||
        __builtin_add_overflow(value, static_cast<Int>(digit), &value)) {
      return std::nullopt;
    }
  }
  return Value(value);
}

Value float_constant(const std::string& text) { return Value(std::strtod(text.c_str(), nullptr)); }

Value string_constant(std::string text) {
  return Value(StrRef(std::make_shared<Str>(std::move(text), nullptr)));
}

}  // namespace

ExprPtr Parser::make(ExprKind kind, int line) const {
  auto node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = line;
  return node;
}

// Chains such as a + b + c + ... grow without recursion of the parser, so the height is bounded here too.
void Parser::grow(Expr& node, const Expr& child) const {
  node.height = std::max(node.height, child.height + 1);
  if (node.height > depth_limit_) error(fmt::format("an expression is deeper than {} levels", depth_limit_));
}

void Parser::add(Expr& node, ExprPtr child) const {
  if (child != nullptr) grow(node, *child);
  node.items.push_back(std::move(child));
}

bool Parser::tuple_ends(std::string_view end_name) const {
  const Token token = current().token;
  if (token == Token::kCloseVariable || token == Token::kCloseBlock || at_operator(")")) return true;
  return !end_name.empty() && at_name(end_name);
}

ExprPtr Parser::tuple(bool conditions, std::string_view end_name, bool parenthesised) {
  const int line = current().line;
  std::vector<ExprPtr> items;
  bool several = false;
  while (true) {
    if (!items.empty()) expect_operator(",");
    if (tuple_ends(end_name)) break;
    items.push_back(expression(conditions));
    if (!at_operator(",")) break;
    several = true;
  }
  if (!several && !items.empty()) return std::move(items.front());
  if (!several && !parenthesised) unexpected();
  ExprPtr node = make(ExprKind::kTuple, line);
  for (ExprPtr& item : items) add(*node, std::move(item));
  return node;
}

ExprPtr Parser::expression(bool conditions) {
  const Level level(*this);
  return conditions ? condition() : either();
}

ExprPtr Parser::condition() {
  ExprPtr value = either();
  while (at_name("if")) {
    ExprPtr node = make(ExprKind::kCondition, take().line);
    add(*node, either());
    add(*node, std::move(value));
    add(*node, skip_name("else") ? expression() : nullptr);
    value = std::move(node);
  }
  return value;
}

ExprPtr Parser::either() {
  ExprPtr left = both();
  while (at_name("or")) {
    ExprPtr node = make(ExprKind::kOr, take().line);
    add(*node, std::move(left));
    add(*node, both());
    left = std::move(node);
  }
  return left;
}

ExprPtr Parser::both() {
  ExprPtr left = negation();
  while (at_name("and")) {
    ExprPtr node = make(ExprKind::kAnd, take().line);
    add(*node, std::move(left));
    add(*node, negation());
    left = std::move(node);
  }
  return left;
}

ExprPtr Parser::negation() {
  if (!at_name("not")) return comparison();
  const Level level(*this);
  ExprPtr node = make(ExprKind::kNot, take().line);
  add(*node, negation());
  return node;
}

bool Parser::comparison_operator(Op& op) {
  static constexpr std::pair<std::string_view, Op> kOperators[] = {
      {"==", Op::kEq}, {"!=", Op::kNe}, {"<", Op::kLt}, {"<=", Op::kLe}, {">", Op::kGt}, {">=", Op::kGe}};
  for (const auto& [text, found] : kOperators) {
    if (skip_operator(text)) {
      op = found;
      return true;
    }
  }
  op = Op::kIn;
  if (skip_name("in")) return true;
  const Lexeme& next = following();
  if (!at_name("not") || next.token != Token::kName || next.text != "in") return false;
  take();
  take();
  op = Op::kNotIn;
  return true;
}

ExprPtr Parser::comparison() {
  const int line = current().line;
  ExprPtr left = sum();
  Op op;
  if (!comparison_operator(op)) return left;
  ExprPtr node = make(ExprKind::kCompare, line);
  add(*node, std::move(left));
  do {
    node->ops.push_back(op);
    add(*node, sum());
  } while (comparison_operator(op));
  return node;
}

ExprPtr Parser::sum() {
  ExprPtr left = concatenation();
  while (at_operator("+") || at_operator("-")) {
    ExprPtr node = make(ExprKind::kBinary, current().line);
    node->op = take().text == "+" ? Op::kAdd : Op::kSub;
    add(*node, std::move(left));
    add(*node, concatenation());
    left = std::move(node);
  }
  return left;
}

ExprPtr Parser::concatenation() {
  ExprPtr left = product();
  if (!at_operator("~")) return left;
  ExprPtr node = make(ExprKind::kConcat, current().line);
  add(*node, std::move(left));
  while (skip_operator("~")) add(*node, product());
  return node;
}

ExprPtr Parser::product() {
  ExprPtr left = power();
  while (at_operator("*") || at_operator("/") || at_operator("//") || at_operator("%")) {
    ExprPtr node = make(ExprKind::kBinary, current().line);
    const std::string& op = take().text;
    node->op = op == "*" ? Op::kMul : (op == "/" ? Op::kDiv : (op == "//" ? Op::kFloorDiv : Op::kMod));
    add(*node, std::move(left));
    add(*node, power());
    left = std::move(node);
  }
  return left;
}

ExprPtr Parser::power() {
  ExprPtr left = unary();
  while (at_operator("**")) {
    ExprPtr node = make(ExprKind::kBinary, take().line);
    node->op = Op::kPow;
    add(*node, std::move(left));
    add(*node, unary());
    left = std::move(node);
  }
  return left;
}

ExprPtr Parser::unary(bool with_filters) {
  ExprPtr node;
  if (at_operator("-") || at_operator("+")) {
    const Level level(*this);
    const Lexeme& sign = take();
    node = make(sign.text == "-" ? ExprKind::kNegate : ExprKind::kPlus, sign.line);
    add(*node, unary(false));
  } else {
    node = primary();
  }
  node = postfix(std::move(node));
  return with_filters ? filters(std::move(node)) : std::move(node);
}

ExprPtr Parser::name_expression(const Lexeme& lexeme) {
  const std::string& name = lexeme.text;
  ExprPtr node = make(ExprKind::kConst, lexeme.line);
  if (name == "true" || name == "True" || name == "false" || name == "False") {
    node->constant = Value(name == "true" || name == "True");
  } else if (name == "none" || name == "None") {
    node->constant = none();
  } else {
    node->kind = ExprKind::kName;
    node->name = name;
    for (Signature* function : functions_) {
      function->uses_caller |= name == "caller";
      function->uses_varargs |= name == "varargs";
      function->uses_kwargs |= name == "kwargs";
    }
  }
  return node;
}

ExprPtr Parser::primary(bool namespaces) {
  const Lexeme& lexeme = current();
  ExprPtr node = make(ExprKind::kConst, lexeme.line);
  switch (lexeme.token) {
    case Token::kName:
      take();
      node = name_expression(lexeme);
      if (namespaces && node->kind == ExprKind::kName && skip_operator(".")) {
        node->kind = ExprKind::kNamespaceRef;
        node->attribute = expect_any_name();
      }
      return node;
    case Token::kString: {
      std::string text;
      while (current().token == Token::kString) text += take().text;
      node->constant = string_constant(std::move(text));
      return node;
    }
    case Token::kInteger:
      node->constant = integer();
      return node;
    case Token::kFloat:
      node->constant = float_constant(take().text);
      return node;
    default:
      break;
  }
  if (at_operator("[")) return list();
  if (at_operator("{")) return dict();
  if (!skip_operator("(")) unexpected();
  node = tuple(true, {}, true);
  expect_operator(")");
  return node;
}

Value Parser::integer() {
  const auto value = integer_constant(current().text);
  if (!value) error("an integer is larger than 127 bits");
  take();
  return *value;
}

ExprPtr Parser::list() {
  ExprPtr node = make(ExprKind::kList, take().line);
  while (!at_operator("]")) {
    if (!node->items.empty()) expect_operator(",");
    if (at_operator("]")) break;
    add(*node, expression());
  }
  expect_operator("]");
  return node;
}

ExprPtr Parser::dict() {
  ExprPtr node = make(ExprKind::kDict, take().line);
  while (!at_operator("}")) {
    if (!node->items.empty()) expect_operator(",");
    if (at_operator("}")) break;
    add(*node, expression());
    expect_operator(":");
    add(*node, expression());
  }
  expect_operator("}");
  return node;
}

ExprPtr Parser::postfix(ExprPtr node) {
  while (true) {
    if (at_operator(".") || at_operator("[")) {
      node = subscript(std::move(node));
    } else if (at_operator("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

ExprPtr Parser::filters(ExprPtr node) {
  while (true) {
    if (skip_operator("|")) {
      node = filter(std::move(node));
    } else if (at_name("is")) {
      node = test(std::move(node));
    } else if (at_operator("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

ExprPtr Parser::subscript(ExprPtr node) {
  const Lexeme& begin = take();
  if (begin.text == "[") return subscript_index(std::move(node));
  const bool number = current().token == Token::kInteger;
  ExprPtr result = make(number ? ExprKind::kItem : ExprKind::kAttribute, begin.line);
  add(*result, std::move(node));
  if (number) {
    ExprPtr index = make(ExprKind::kConst, begin.line);
    index->constant = integer();
    add(*result, std::move(index));
  } else {
    result->name = expect_any_name();
  }
  return result;
}

ExprPtr Parser::subscript_index(ExprPtr node) {
  ExprPtr result = make(ExprKind::kItem, current().line);
  add(*result, std::move(node));
  if (at_operator("]")) {
    add(*result, make(ExprKind::kTuple, current().line));
    take();
    return result;
  }
  add(*result, at_operator(":") ? nullptr : expression());
  if (at_operator(":")) {
    result->kind = ExprKind::kSlice;
    for (int part = 0; part < 2; ++part) {
      const bool given = skip_operator(":") && !at_operator(":") && !at_operator("]") && !at_operator(",");
      add(*result, given ? expression() : nullptr);
    }
  } else if (at_operator(",")) {
    ExprPtr key = make(ExprKind::kTuple, current().line);
    add(*key, std::move(result->items.back()));
    result->items.pop_back();
    while (skip_operator(",")) {
      if (!at_operator("]")) add(*key, expression());
    }
    add(*result, std::move(key));
  }
  expect_operator("]");
  return result;
}

ExprPtr Parser::call(ExprPtr node) {
  ExprPtr result = make(ExprKind::kCall, current().line);
  add(*result, std::move(node));
  call_arguments(*result);
  return result;
}

void Parser::call_arguments(Expr& node) {
  CallArguments& args = node.args;
  const auto argument = [&]() {
    ExprPtr value = expression();
    grow(node, *value);
    return value;
  };
  const auto ensure = [&](bool valid) {
    if (!valid) error("the arguments of a call are in the wrong order");
  };
  expect_operator("(");
  bool first = true;
  while (!at_operator(")")) {
    if (!first) expect_operator(",");
    if (!first && at_operator(")")) break;
    first = false;
    if (skip_operator("*")) {
      ensure(args.rest == nullptr && args.named_rest == nullptr);
      args.rest = argument();
    } else if (skip_operator("**")) {
      ensure(args.named_rest == nullptr);
      args.named_rest = argument();
    } else if (current().token == Token::kName && following().token == Token::kOperator &&
               following().text == "=") {
      ensure(args.named_rest == nullptr);
      std::string name = take().text;
      take();
      args.named.emplace_back(std::move(name), argument());
    } else {
      ensure(args.rest == nullptr && args.named_rest == nullptr && args.named.empty());
      args.positional.push_back(argument());
    }
  }
  expect_operator(")");
}

// node may be null: the filter of a block, whose input is the block's text.
ExprPtr Parser::filter(ExprPtr node) {
  ExprPtr result = make(ExprKind::kFilter, current().line);
  result->name = dotted_name();
  add(*result, std::move(node));
  if (at_operator("(")) call_arguments(*result);
  return result;
}

bool Parser::test_argument_begins() const {
  const Lexeme& next = current();
  switch (next.token) {
    case Token::kName:
      return next.text != "else" && next.text != "or" && next.text != "and";
    case Token::kString:
    case Token::kInteger:
    case Token::kFloat:
      return true;
    default:
      return at_operator("[") || at_operator("{");
  }
}

ExprPtr Parser::test(ExprPtr node) {
  ExprPtr result = make(ExprKind::kTest, take().line);
  const bool negated = skip_name("not");
  result->name = dotted_name();
  add(*result, std::move(node));
  if (at_operator("(")) {
    call_arguments(*result);
  } else if (test_argument_begins()) {
    if (at_name("is")) error("tests cannot be chained with 'is'");
    ExprPtr argument = postfix(primary());
    grow(*result, *argument);
    result->args.positional.push_back(std::move(argument));
  }
  if (!negated) return result;
  ExprPtr inverse = make(ExprKind::kNot, result->line);
  add(*inverse, std::move(result));
  return inverse;
}

}  // namespace moebius::jinja
