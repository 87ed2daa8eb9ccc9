// The parser: tokens to the syntax tree, with the grammar of Jinja 3.1.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "models/jinja/ast.h"
#include "models/jinja/lexer.h"

namespace moebius::jinja {

class Parser {
 public:
  // depth bounds the nesting of the tree, and with it every later recursion over it.
  Parser(std::vector<Lexeme> lexemes, int depth) : lexemes_(std::move(lexemes)), depth_limit_(depth) {}
  Body parse();  // throws Error

 private:
  class Level;  // one level of recursion

  // parser.cpp
  Body statements(std::initializer_list<std::string_view> ends);
  Body block(std::initializer_list<std::string_view> ends);
  std::unique_ptr<Stmt> statement();
  std::unique_ptr<Stmt> for_statement(std::unique_ptr<Stmt> stmt);
  std::unique_ptr<Stmt> if_statement(std::unique_ptr<Stmt> stmt);
  std::unique_ptr<Stmt> set_statement(std::unique_ptr<Stmt> stmt);
  std::unique_ptr<Stmt> macro_statement(std::unique_ptr<Stmt> stmt);
  std::unique_ptr<Stmt> call_statement(std::unique_ptr<Stmt> stmt);
  std::unique_ptr<Stmt> filter_statement(std::unique_ptr<Stmt> stmt);
  std::unique_ptr<Stmt> with_statement(std::unique_ptr<Stmt> stmt);
  std::unique_ptr<Stmt> loop_control(std::unique_ptr<Stmt> stmt, StmtKind kind);
  std::unique_ptr<Stmt> print_statement(std::unique_ptr<Stmt> stmt);
  void signature(Signature& macro);
  Body function_body(Signature& macro, std::string_view end);
  ExprPtr target(bool namespaces, std::string_view end_name = {});
  void check_target(const Expr& expr) const;

  // parser_expression.cpp
  ExprPtr tuple(bool conditions, std::string_view end_name = {}, bool parenthesised = false);
  bool tuple_ends(std::string_view end_name) const;
  ExprPtr expression(bool conditions = true);
  ExprPtr condition();
  ExprPtr either(), both(), negation(), comparison();
  ExprPtr sum(), concatenation(), product(), power();
  ExprPtr unary(bool filters = true);
  ExprPtr primary(bool namespaces = false);
  Value integer();
  ExprPtr list(), dict();
  ExprPtr postfix(ExprPtr node), filters(ExprPtr node);
  ExprPtr subscript(ExprPtr node), subscript_index(ExprPtr node);
  ExprPtr test(ExprPtr node), filter(ExprPtr node);
  ExprPtr call(ExprPtr node);
  void call_arguments(Expr& node);
  ExprPtr name_expression(const Lexeme& lexeme);
  bool comparison_operator(Op& op);
  bool test_argument_begins() const;

  ExprPtr make(ExprKind kind, int line) const;
  void add(Expr& node, ExprPtr child) const;  // null children are kept
  void grow(Expr& node, const Expr& child) const;

  const Lexeme& current() const { return lexemes_[at_]; }
  const Lexeme& following() const { return lexemes_[at_ + 1 < lexemes_.size() ? at_ + 1 : at_]; }
  const Lexeme& take();
  bool at_operator(std::string_view op) const;
  bool at_name(std::string_view name) const;
  bool skip_operator(std::string_view op);
  bool skip_name(std::string_view name);
  void expect_operator(std::string_view op);
  void expect_name(std::string_view name);
  void expect(Token token);
  std::string expect_any_name();
  std::string dotted_name();
  [[noreturn]] void error(const std::string& message) const;
  [[noreturn]] void unexpected() const;

  std::vector<Lexeme> lexemes_;
  size_t at_ = 0;
  int depth_limit_;
  int depth_ = 0;
  int loops_ = 0;                      // open loops of this function
  int all_loops_ = 0;                  // open loops of all enclosing functions
  std::vector<Signature*> functions_;  // enclosing macros and call blocks
};

class Parser::Level {
 public:
  explicit Level(Parser& parser);
  ~Level() { --parser_.depth_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  Parser& parser_;
};

}  // namespace moebius::jinja
