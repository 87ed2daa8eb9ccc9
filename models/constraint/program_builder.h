// ProgramBuilder: writes the nodes and edges of a grammar's rules.
#pragma once

#include <unordered_map>
#include <vector>

#include "models/constraint/program.h"

namespace moebius {

class ProgramBuilder {
 public:
  explicit ProgramBuilder(const Grammar& grammar) : grammar_(grammar) {}
  // Everything but Node::need and Node::returns.
  Result<std::shared_ptr<Program>> build();

 private:
  using Edge = Program::Edge;
  int32_t add_node();
  void add_edge(int32_t from, Edge edge);
  // Adds ways from `from` to `to` that read what the expression stands for. They add no edge into `from` and
  // none out of `to`, so that alternatives may share both.
  void emit(ExprId id, int32_t from, int32_t to);
  void emit_literals(const std::vector<std::string>& literals, int32_t from, int32_t to);
  void emit_set(const CharSet& set, int32_t from, int32_t to);
  void emit_repeat(const Grammar::Expr& repeat, int32_t from, int32_t to);
  void emit_counted(ExprId what, int64_t min, int64_t max, int32_t from, int32_t to);
  bool nullable(ExprId id) const;
  // The plain characters that the expression reads one of; false where it reads other things that begin with
  // a plain character.
  bool reads_one_of(ExprId id, CharSet& set) const;
  int32_t loop_of(ExprId id);     // an index into Program::loops(), or -1
  int64_t size(ExprId id) const;  // nodes it takes, roughly
  void find_nullable_rules();
  void lay_out();
  void find_classes();

  const Grammar& grammar_;
  std::shared_ptr<Program> program_;
  std::vector<std::vector<Edge>> edges_;  // of each node
  std::vector<bool> nullable_rules_;
  std::unordered_map<ExprId, RuleId> counted_rules_;
  std::vector<std::pair<RuleId, ExprId>> waiting_;  // rules made for repeated expressions
  std::unordered_map<int32_t, int32_t> symbols_;    // of token ids
  Status status_;
};

}  // namespace moebius
