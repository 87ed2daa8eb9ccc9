// Program: a grammar as a pushdown automaton over bytes and tokens.
//
// A rule is a nondeterministic automaton from its start to its final node; a call edge pushes the node to
// return to. Every node knows how many more frames the easiest way to its rule's end takes, so that a reader
// with a bounded stack can tell at once where no end can be reached any more: it never runs into a dead end.
// Immutable.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "models/constraint/grammar.h"

namespace moebius {

class Program {
 public:
  // kInvalid: a limit of the grammar is exceeded, a rule calls itself before anything is read, or no text at
  // all satisfies the grammar.
  static Result<std::shared_ptr<const Program>> compile(const Grammar& grammar);

  enum class EdgeKind : uint8_t {
    kBytes,    // low..high
    kToken,    // symbol
    kFree,     // nothing is read
    kCall,     // rule, then the target
    kCounted,  // rule, min to max times, then the target
  };
  struct Edge {
    EdgeKind kind = EdgeKind::kFree;
    unsigned char low = 0, high = 0;
    int32_t target = 0;
    int32_t symbol = 0;  // an index into tokens(), or a rule
    int32_t min = 0, max = 0;
    // kCounted: the rule reads one plain character of loops()[loop], or something that begins with none; -1:
    // otherwise. loop_ends: after the last one no plain character can follow at once.
    int32_t loop = -1;
    bool loop_ends = false;
  };
  struct Node {
    int32_t edges = 0, edges_end = 0;
    int32_t need = 0;      // frames that the easiest way to the end pushes; kNoWay: there is none
    bool final = false;    // of its rule
    bool returns = false;  // has no other way than to the end, at once
    int32_t loop = -1;     // as an edge's: it reads any number of them
    bool loop_ends = false;
  };
  static constexpr int32_t kNoWay = INT32_MAX / 2;

  const Node& node(int32_t id) const { return nodes_[static_cast<size_t>(id)]; }
  const Edge& edge(int32_t id) const { return edges_[static_cast<size_t>(id)]; }
  int32_t start(RuleId rule) const { return starts_[static_cast<size_t>(rule)]; }
  int32_t root() const { return starts_.back(); }  // the start of the root, which is the last rule
  const GrammarLimits& limits() const { return limits_; }

  // Bytes that no edge tells apart are one class; token i is class byte_classes() + i.
  int32_t byte_classes() const { return byte_classes_; }
  int32_t classes() const { return byte_classes_ + static_cast<int32_t>(tokens_.size()); }
  int32_t class_of(unsigned char byte) const { return class_of_[byte]; }
  unsigned char byte_of(int32_t byte_class) const { return byte_of_[static_cast<size_t>(byte_class)]; }
  const std::vector<int32_t>& tokens() const { return tokens_; }  // ids
  // The sets of plain characters that are read one after the other, any number of them or counted.
  const std::vector<CharSet>& loops() const { return loops_; }

 private:
  friend class ProgramBuilder;
  friend class ProgramChecker;
  GrammarLimits limits_;
  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
  std::vector<int32_t> starts_, finals_;  // of rules
  std::vector<int32_t> tokens_;
  std::vector<CharSet> loops_;
  std::array<int32_t, 256> class_of_{};
  std::vector<unsigned char> byte_of_;
  int32_t byte_classes_ = 0;
};

// Characters that stand for themselves within a JSON string. A token of nothing else is a plain token.
const CharSet& plain_characters();

}  // namespace moebius
