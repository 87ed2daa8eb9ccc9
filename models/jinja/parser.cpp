#include "models/jinja/parser.h"

#include <algorithm>

#include <fmt/core.h>

namespace moebius::jinja {

namespace {

std::string describe(const Lexeme& lexeme) {
  switch (lexeme.token) {
    case Token::kData:
      return "text";
    case Token::kOpenVariable:
      return "'{{'";
    case Token::kCloseVariable:
      return "'}}'";
    case Token::kOpenBlock:
      return "'{%'";
    case Token::kCloseBlock:
      return "'%}'";
    case Token::kString:
      return "a string";
    case Token::kEnd:
      return "the end of the template";
    default:
      return fmt::format("'{}'", lexeme.text);
  }
}

}  // namespace

Parser::Level::Level(Parser& parser) : parser_(parser) {
  if (++parser.depth_ > parser.depth_limit_) {
    --parser.depth_;
    parser.error(fmt::format("nesting is deeper than {} levels", parser.depth_limit_));
  }
}

void Parser::error(const std::string& message) const { throw Error{Code::kInvalid, current().line, message}; }
void Parser::unexpected() const { error(fmt::format("unexpected {}", describe(current()))); }

const Lexeme& Parser::take() {
  const Lexeme& lexeme = lexemes_[at_];
  if (at_ + 1 < lexemes_.size()) ++at_;
  return lexeme;
}

bool Parser::at_operator(std::string_view op) const {
  return current().token == Token::kOperator && current().text == op;
}

bool Parser::at_name(std::string_view name) const {
  return current().token == Token::kName && current().text == name;
}

bool Parser::skip_operator(std::string_view op) {
  if (!at_operator(op)) return false;
  take();
  return true;
}

bool Parser::skip_name(std::string_view name) {
  if (!at_name(name)) return false;
  take();
  return true;
}

void Parser::expect_operator(std::string_view op) {
  if (!skip_operator(op)) error(fmt::format("expected '{}' in place of {}", op, describe(current())));
}

void Parser::expect_name(std::string_view name) {
  if (!skip_name(name)) error(fmt::format("expected '{}' in place of {}", name, describe(current())));
}

void Parser::expect(Token token) {
  if (current().token != token) {
    error(fmt::format("expected {} in place of {}", describe({token, 0, ""}), describe(current())));
  }
  take();
}

std::string Parser::expect_any_name() {
  if (current().token != Token::kName)
    error(fmt::format("expected a name in place of {}", describe(current())));
  return take().text;
}

std::string Parser::dotted_name() {
  std::string name = expect_any_name();
  while (skip_operator(".")) name += "." + expect_any_name();
  return name;
}

Body Parser::parse() { return statements({}); }

// Up to the block that begins with one of the names; its name is the current lexeme then.
Body Parser::statements(std::initializer_list<std::string_view> ends) {
  const Level level(*this);
  Body body;
  const auto add_statement = [&](StmtKind kind) -> Stmt& {
    body.push_back(std::make_unique<Stmt>());
    body.back()->kind = kind;
    body.back()->line = current().line;
    return *body.back();
  };
  while (current().token != Token::kEnd) {
    if (current().token == Token::kData) {
      add_statement(StmtKind::kText).text = current().text;
      take();
    } else if (current().token == Token::kOpenVariable) {
      Stmt& print = add_statement(StmtKind::kPrint);
      take();
      print.expr = tuple(true);
      expect(Token::kCloseVariable);
    } else {
      expect(Token::kOpenBlock);
      if (std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return at_name(end); }))
        return body;
      body.push_back(statement());
      expect(Token::kCloseBlock);
    }
  }
  if (ends.size() != 0) error(fmt::format("a block is not closed; it needs {{% {} %}}", *(ends.end() - 1)));
  return body;
}

// The body of a block statement, from the end of its head.
Body Parser::block(std::initializer_list<std::string_view> ends) {
  skip_operator(":");
  expect(Token::kCloseBlock);
  return statements(ends);
}

std::unique_ptr<Stmt> Parser::statement() {
  auto stmt = std::make_unique<Stmt>();
  stmt->line = current().line;
  const std::string name = expect_any_name();
  if (name == "for") return for_statement(std::move(stmt));
  if (name == "if") return if_statement(std::move(stmt));
  if (name == "set") return set_statement(std::move(stmt));
  if (name == "macro") return macro_statement(std::move(stmt));
  if (name == "call") return call_statement(std::move(stmt));
  if (name == "filter") return filter_statement(std::move(stmt));
  if (name == "with") return with_statement(std::move(stmt));
  if (name == "print") return print_statement(std::move(stmt));
  if (name == "break") return loop_control(std::move(stmt), StmtKind::kBreak);
  if (name == "continue") return loop_control(std::move(stmt), StmtKind::kContinue);
  if (name == "generation") {
    stmt->kind = StmtKind::kScope;
    Signature ignored;
    stmt->body = function_body(ignored, "endgeneration");
    return stmt;
  }
  static constexpr std::string_view kForeign[] = {"block",  "extends", "include",
                                                  "import", "from",    "autoescape"};
  if (std::find(std::begin(kForeign), std::end(kForeign), name) != std::end(kForeign)) {
    throw Error{Code::kUnsupported, stmt->line,
                fmt::format("the statement '{}' is not supported in chat templates", name)};
  }
  throw Error{Code::kInvalid, stmt->line, fmt::format("unknown or misplaced statement '{}'", name)};
}

std::unique_ptr<Stmt> Parser::for_statement(std::unique_ptr<Stmt> stmt) {
  stmt->kind = StmtKind::kFor;
  stmt->target = target(false, "in");
  expect_name("in");
  stmt->expr = tuple(false, "recursive");
  if (skip_name("if")) stmt->filter = expression();
  stmt->recursive = skip_name("recursive");
  ++loops_;
  ++all_loops_;
  check_target(*stmt->target);
  stmt->body = block({"else", "endfor"});
  --loops_;
  --all_loops_;
  if (take().text == "else") {
    stmt->otherwise = block({"endfor"});
    take();
  }
  return stmt;
}

std::unique_ptr<Stmt> Parser::if_statement(std::unique_ptr<Stmt> stmt) {
  stmt->kind = StmtKind::kIf;
  while (true) {
    ExprPtr test_expr = tuple(false);
    Body body = block({"elif", "else", "endif"});
    stmt->branches.emplace_back(std::move(test_expr), std::move(body));
    const std::string end = take().text;
    if (end == "elif") continue;
    if (end == "else") {
      stmt->otherwise = block({"endif"});
      take();
    }
    return stmt;
  }
}

std::unique_ptr<Stmt> Parser::set_statement(std::unique_ptr<Stmt> stmt) {
  stmt->target = target(true);
  if (skip_operator("=")) {
    stmt->kind = StmtKind::kSet;
    stmt->expr = tuple(true);
    return stmt;
  }
  stmt->kind = StmtKind::kSetBlock;
  while (skip_operator("|")) stmt->filter = filter(std::move(stmt->filter));
  stmt->body = block({"endset"});
  take();
  return stmt;
}

void Parser::signature(Signature& macro) {
  expect_operator("(");
  while (!at_operator(")")) {
    if (!macro.parameters.empty()) expect_operator(",");
    macro.parameters.push_back(expect_any_name());
    if (skip_operator("=")) {
      macro.defaults.push_back(expression());
    } else if (!macro.defaults.empty()) {
      error("a parameter without a default follows one with a default");
    }
  }
  expect_operator(")");
}

// A body that runs as a function of its own: loops outside cannot be left from inside.
Body Parser::function_body(Signature& macro, std::string_view end) {
  functions_.push_back(&macro);
  const int loops = loops_;
  loops_ = 0;
  Body body = block({end});
  take();
  loops_ = loops;
  functions_.pop_back();
  return body;
}

std::unique_ptr<Stmt> Parser::macro_statement(std::unique_ptr<Stmt> stmt) {
  stmt->kind = StmtKind::kMacro;
  stmt->macro.name = expect_any_name();
  signature(stmt->macro);
  stmt->body = function_body(stmt->macro, "endmacro");
  return stmt;
}

std::unique_ptr<Stmt> Parser::call_statement(std::unique_ptr<Stmt> stmt) {
  stmt->kind = StmtKind::kCallBlock;
  stmt->macro.name = "caller";
  if (at_operator("(")) signature(stmt->macro);
  stmt->expr = expression();
  if (stmt->expr->kind != ExprKind::kCall) error("a call block needs a call");
  stmt->body = function_body(stmt->macro, "endcall");
  return stmt;
}

std::unique_ptr<Stmt> Parser::filter_statement(std::unique_ptr<Stmt> stmt) {
  stmt->kind = StmtKind::kFilterBlock;
  stmt->filter = filter(nullptr);
  while (skip_operator("|")) stmt->filter = filter(std::move(stmt->filter));
  stmt->body = block({"endfilter"});
  take();
  return stmt;
}

std::unique_ptr<Stmt> Parser::with_statement(std::unique_ptr<Stmt> stmt) {
  stmt->kind = StmtKind::kWith;
  while (current().token != Token::kCloseBlock) {
    if (!stmt->bindings.empty()) expect_operator(",");
    ExprPtr name = target(false);
    expect_operator("=");
    ExprPtr value = expression();
    stmt->bindings.emplace_back(std::move(name), std::move(value));
  }
  stmt->body = block({"endwith"});
  take();
  return stmt;
}

std::unique_ptr<Stmt> Parser::print_statement(std::unique_ptr<Stmt> stmt) {
  stmt->kind = StmtKind::kScope;
  while (current().token != Token::kCloseBlock) {
    if (!stmt->body.empty()) expect_operator(",");
    auto print = std::make_unique<Stmt>();
    print->kind = StmtKind::kPrint;
    print->line = current().line;
    print->expr = expression();
    stmt->body.push_back(std::move(print));
  }
  return stmt;
}

std::unique_ptr<Stmt> Parser::loop_control(std::unique_ptr<Stmt> stmt, StmtKind kind) {
  if (loops_ == 0) error("break and continue belong inside a for loop");
  stmt->kind = kind;
  return stmt;
}

ExprPtr Parser::target(bool namespaces, std::string_view end_name) {
  const int line = current().line;
  std::vector<ExprPtr> items;
  bool several = false;
  while (true) {
    if (!items.empty()) expect_operator(",");
    if (tuple_ends(end_name)) break;
    items.push_back(primary(namespaces));
    if (!at_operator(",")) break;
    several = true;
  }
  if (items.empty()) unexpected();
  ExprPtr node;
  if (several) {
    node = make(ExprKind::kTuple, line);
    for (ExprPtr& item : items) add(*node, std::move(item));
  } else {
    node = std::move(items.front());
  }
  check_target(*node);
  return node;
}

void Parser::check_target(const Expr& expr) const {
  if (expr.kind == ExprKind::kTuple) {
    for (const ExprPtr& item : expr.items) check_target(*item);
  } else if (expr.kind != ExprKind::kName && expr.kind != ExprKind::kNamespaceRef) {
    error("only names and attributes of a namespace can be assigned to");
  } else if (expr.kind == ExprKind::kName && expr.name == "loop" && all_loops_ > 0) {
    error("'loop' cannot be assigned to inside a for loop");
  }
}

}  // namespace moebius::jinja
