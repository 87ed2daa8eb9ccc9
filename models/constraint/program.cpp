#include "models/constraint/program.h"

#include <algorithm>
#include <queue>

#include <fmt/format.h>

#include "models/constraint/program_builder.h"

namespace moebius {

// What must hold before a program may run, and what its reader needs to know of it.
class ProgramChecker {
 public:
  explicit ProgramChecker(Program& program) : p_(program) {}

  Status check() {
    find_returns();
    find_rules();
    find_needs();
    MOEBIUS_TRY(refuse_left_recursion());
    if (p_.node(p_.root()).need > p_.limits_.stack) {
      return invalid("no answer can satisfy the constraint: it contradicts itself or never ends");
    }
    find_plain_ends();
    return {};
  }

 private:
  using Edge = Program::Edge;
  using Kind = Program::EdgeKind;

  std::span<const Edge> edges_of(int32_t node) const {
    const Program::Node& n = p_.node(node);
    return {p_.edges_.data() + n.edges, static_cast<size_t>(n.edges_end - n.edges)};
  }

  // Backwards from the final nodes, over nodes with one free edge and nothing else.
  void find_returns() {
    std::vector<std::vector<int32_t>> free_into(p_.nodes_.size());
    for (size_t i = 0; i < p_.nodes_.size(); ++i) {
      const auto edges = edges_of(static_cast<int32_t>(i));
      if (edges.size() == 1 && edges[0].kind == Kind::kFree && !p_.nodes_[i].final)
        free_into[static_cast<size_t>(edges[0].target)].push_back(static_cast<int32_t>(i));
    }
    std::vector<int32_t> todo;
    for (const int32_t final : p_.finals_) {
      if (edges_of(final).empty()) todo.push_back(final);
    }
    while (!todo.empty()) {
      const int32_t node = todo.back();
      todo.pop_back();
      p_.nodes_[static_cast<size_t>(node)].returns = true;
      for (const int32_t before : free_into[static_cast<size_t>(node)]) todo.push_back(before);
    }
  }

  void find_rules() {
    for (size_t rule = 0; rule < p_.starts_.size(); ++rule)
      start_of_[p_.starts_[rule]] = static_cast<int32_t>(rule);
    into_.resize(p_.nodes_.size());
    calls_.resize(p_.starts_.size());
    for (size_t i = 0; i < p_.nodes_.size(); ++i) {
      for (const Edge& edge : edges_of(static_cast<int32_t>(i))) {
        into_[static_cast<size_t>(edge.target)].push_back({static_cast<int32_t>(i), &edge});
        if (edge.kind == Kind::kCall || edge.kind == Kind::kCounted)
          calls_[static_cast<size_t>(edge.symbol)].push_back({static_cast<int32_t>(i), &edge});
      }
    }
  }

  int32_t need_over(const Edge& edge) const {
    const int32_t then = p_.node(edge.target).need;
    if (edge.kind != Kind::kCall && edge.kind != Kind::kCounted) return then;
    if (edge.kind == Kind::kCounted && edge.min == 0) return then;
    const int32_t callee = p_.node(p_.start(edge.symbol)).need;
    const bool pushes = edge.kind == Kind::kCounted || !p_.node(edge.target).returns;
    return std::max(then, std::min(callee + (pushes ? 1 : 0), Program::kNoWay));
  }

  // The least over all ways of the most frames on a way: Dijkstra's algorithm with max in place of +.
  void find_needs() {
    using Item = std::pair<int32_t, int32_t>;  // need, node
    std::priority_queue<Item, std::vector<Item>, std::greater<>> todo;
    for (Program::Node& node : p_.nodes_) node.need = Program::kNoWay;
    const auto improve = [&](int32_t node, int32_t need) {
      if (need >= p_.node(node).need) return;
      p_.nodes_[static_cast<size_t>(node)].need = need;
      todo.push({need, node});
    };
    for (const int32_t final : p_.finals_) improve(final, 0);
    while (!todo.empty()) {
      const auto [need, node] = todo.top();
      todo.pop();
      if (need > p_.node(node).need) continue;
      for (const auto& [before, edge] : into_[static_cast<size_t>(node)]) improve(before, need_over(*edge));
      const auto rule = start_of_.find(node);
      if (rule == start_of_.end()) continue;
      for (const auto& [caller, edge] : calls_[static_cast<size_t>(rule->second)])
        improve(caller, need_over(*edge));
    }
  }

  // Rules that a rule enters before it has read anything; a cycle of those would be entered for ever.
  Status refuse_left_recursion() {
    const auto nullable = nullable_rules();
    std::vector<std::vector<int32_t>> enters(p_.starts_.size());
    for (size_t rule = 0; rule < p_.starts_.size(); ++rule)
      enters[rule] = entered_at_once(p_.starts_[rule], nullable);
    std::vector<int> colour(p_.starts_.size(), 0);  // 1: on the way, 2: done
    for (size_t root = 0; root < p_.starts_.size(); ++root) {
      std::vector<std::pair<int32_t, size_t>> way;
      if (colour[root] == 0) way.push_back({static_cast<int32_t>(root), 0}), colour[root] = 1;
      while (!way.empty()) {
        auto& [rule, next] = way.back();
        const auto& list = enters[static_cast<size_t>(rule)];
        if (next == list.size()) {
          colour[static_cast<size_t>(rule)] = 2;
          way.pop_back();
          continue;
        }
        const int32_t into = list[next++];
        if (colour[static_cast<size_t>(into)] == 1)
          return invalid(
              "a rule (or `$ref`) leads to itself before anything is written; put something before it");
        if (colour[static_cast<size_t>(into)] == 0) {
          colour[static_cast<size_t>(into)] = 1;
          way.push_back({into, 0});
        }
      }
    }
    return {};
  }

  // Rules share no nodes, so that all of them together look at each node once.
  std::vector<int32_t> entered_at_once(int32_t start, const std::vector<bool>& nullable) {
    std::vector<int32_t> out, todo = {start};
    seen_.resize(p_.nodes_.size(), false);
    while (!todo.empty()) {
      const int32_t node = todo.back();
      todo.pop_back();
      if (seen_[static_cast<size_t>(node)]) continue;
      seen_[static_cast<size_t>(node)] = true;
      for (const Edge& edge : edges_of(node)) {
        const bool call = edge.kind == Kind::kCall || edge.kind == Kind::kCounted;
        if (call) out.push_back(edge.symbol);
        const bool passes = edge.kind == Kind::kFree || (edge.kind == Kind::kCounted && edge.min == 0) ||
                            (call && nullable[static_cast<size_t>(edge.symbol)]);
        if (passes) todo.push_back(edge.target);
      }
    }
    return out;
  }

  std::vector<bool> nullable_rules() const {
    std::vector<bool> node(p_.nodes_.size(), false), rule(p_.starts_.size(), false);
    std::vector<int32_t> todo;
    const auto mark = [&](int32_t id) {
      if (!node[static_cast<size_t>(id)]) node[static_cast<size_t>(id)] = true, todo.push_back(id);
    };
    for (const int32_t final : p_.finals_) mark(final);
    while (!todo.empty()) {
      const int32_t id = todo.back();
      todo.pop_back();
      const auto passes = [&](const Edge& edge) {
        if (edge.kind == Kind::kFree) return true;
        if (edge.kind == Kind::kCounted && edge.min == 0) return true;
        return (edge.kind == Kind::kCall || edge.kind == Kind::kCounted) &&
               rule[static_cast<size_t>(edge.symbol)];
      };
      for (const auto& [before, edge] : into_[static_cast<size_t>(id)]) {
        if (passes(*edge)) mark(before);
      }
      const auto found = start_of_.find(id);
      if (found == start_of_.end()) continue;
      rule[static_cast<size_t>(found->second)] = true;
      for (const auto& [caller, edge] : calls_[static_cast<size_t>(found->second)]) {
        if (node[static_cast<size_t>(edge->target)]) mark(caller);
      }
    }
    return rule;
  }

  // Whether nothing that begins with a plain character can follow at a node, `but` one apart.
  bool ends_plain(int32_t node, int32_t but) const {
    std::vector<int32_t> todo = {node}, seen;
    while (!todo.empty()) {
      const int32_t at = todo.back();
      todo.pop_back();
      if (at == but || std::find(seen.begin(), seen.end(), at) != seen.end()) continue;
      if (seen.size() > 16) return false;
      seen.push_back(at);
      if (p_.node(at).final && at != p_.finals_.back()) return false;  // whatever comes after the rule
      for (const Edge& e : edges_of(at)) {
        if (e.kind == Kind::kFree) todo.push_back(e.target);
        const bool special = e.kind == Kind::kToken || (e.kind == Kind::kBytes && e.low == e.high &&
                                                        (e.low == '"' || e.low == '\\' || e.low < 0x20));
        if (e.kind != Kind::kFree && !special) return false;
      }
    }
    return true;
  }

  void find_plain_ends() {
    for (Edge& edge : p_.edges_) {
      if (edge.loop >= 0) edge.loop_ends = ends_plain(edge.target, -1);
    }
    for (size_t i = 0; i < p_.nodes_.size(); ++i) {
      Program::Node& node = p_.nodes_[i];
      if (node.loop < 0) continue;
      // The one free edge into a body comes from the node that its iterations come back to.
      const auto& before = into_[i];
      node.loop_ends = before.size() == 1 && ends_plain(before[0].first, static_cast<int32_t>(i));
    }
  }

  Program& p_;
  std::unordered_map<int32_t, int32_t> start_of_;  // node -> the rule that starts there
  std::vector<std::vector<std::pair<int32_t, const Edge*>>> into_, calls_;
  std::vector<bool> seen_;
};

Result<std::shared_ptr<const Program>> Program::compile(const Grammar& grammar) {
  MOEBIUS_TRY(grammar.status());
  MOEBIUS_CHECK(grammar.root() >= 0, "a grammar has a root");
  MOEBIUS_ASSIGN(std::shared_ptr<Program> program, ProgramBuilder(grammar).build());
  MOEBIUS_TRY(ProgramChecker(*program).check());
  return std::shared_ptr<const Program>(std::move(program));
}

}  // namespace moebius
