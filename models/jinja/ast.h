// The syntax tree of a template. Immutable after parsing; shared by concurrent renderings.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/jinja/value.h"

namespace moebius::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using Body = std::vector<std::unique_ptr<Stmt>>;

enum class Op { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow, kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

enum class ExprKind {
  kConst,
  kName,
  kTuple,  // items
  kList,
  kDict,       // items: key, value, key, value, ...
  kAttribute,  // items[0].name
  kItem,       // items[0][items[1]]
  kSlice,      // items[0][items[1] : items[2] : items[3]]; the last three may be null
  kCall,       // items[0](args)
  kFilter,     // items[0] | name(args); items[0] is null at the head of a block's filter
  kTest,       // items[0] is name(args)
  kNegate,
  kPlus,
  kNot,
  kBinary,   // op
  kCompare,  // items[0] ops[0] items[1] ops[1] items[2] ...
  kAnd,
  kOr,
  kConcat,
  kCondition,     // items[1] if items[0] else items[2]; items[2] may be null
  kNamespaceRef,  // assignment target name.attribute
};

struct CallArguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr rest;        // *rest
  ExprPtr named_rest;  // **named_rest
};

struct Expr {
  ExprKind kind;
  int line;
  int height = 1;  // of the tree below; bounded by TemplateLimits::depth
  Op op = Op::kAdd;
  std::string name;
  std::string attribute;
  Value constant;
  std::vector<ExprPtr> items;
  std::vector<Op> ops;
  CallArguments args;
};

enum class StmtKind {
  kText,
  kPrint,        // expr
  kIf,           // branches, otherwise
  kFor,          // target in expr if filter: body; otherwise
  kSet,          // target = expr
  kSetBlock,     // target = body | filter
  kMacro,        // macro: body
  kCallBlock,    // expr is the call; macro and body make its caller
  kFilterBlock,  // body | filter
  kWith,         // bindings: body
  kScope,        // body; {% generation %}
  kBreak,
  kContinue,
};

struct Signature {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExprPtr> defaults;  // of the last parameters
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
};

struct Stmt {
  StmtKind kind;
  int line;
  std::string text;
  ExprPtr target, expr, filter;
  Body body, otherwise;
  std::vector<std::pair<ExprPtr, Body>> branches;
  std::vector<std::pair<ExprPtr, ExprPtr>> bindings;
  Signature macro;
  bool recursive = false;
};

}  // namespace moebius::jinja
