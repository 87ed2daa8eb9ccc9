#include "models/constraint/program_builder.h"

#include <algorithm>

#include <fmt/format.h>

namespace moebius {

namespace {

constexpr int64_t kUnrolled = 24;  // nodes that a repetition may take before it is counted instead

Status too_large() { return invalid("the grammar is too large; make it simpler"); }

}  // namespace

const CharSet& plain_characters() {
  static const CharSet set = CharSet({{0x00, 0x1F}, {'"', '"'}, {'\\', '\\'}}).negated();
  return set;
}

int32_t ProgramBuilder::add_node() {
  if (static_cast<int64_t>(edges_.size()) >= grammar_.limits().nodes) {
    if (status_.ok()) status_ = too_large();
    return 0;
  }
  program_->nodes_.emplace_back();
  edges_.emplace_back();
  return static_cast<int32_t>(edges_.size() - 1);
}

void ProgramBuilder::add_edge(int32_t from, Edge edge) {
  if (status_.ok()) edges_[static_cast<size_t>(from)].push_back(edge);
}

void ProgramBuilder::emit(ExprId id, int32_t from, int32_t to) {
  if (!status_.ok()) return;
  const Grammar::Expr& e = grammar_.expr(id);
  switch (e.kind) {
    case Grammar::Kind::kNever:
      return;
    case Grammar::Kind::kEmpty:
      return add_edge(from, {.kind = Program::EdgeKind::kFree, .target = to});
    case Grammar::Kind::kLiterals:
      return emit_literals(grammar_.literals(e), from, to);
    case Grammar::Kind::kSet:
      return emit_set(grammar_.set(e), from, to);
    case Grammar::Kind::kAnyByte:
      return add_edge(from, {.kind = Program::EdgeKind::kBytes, .low = 0, .high = 255, .target = to});
    case Grammar::Kind::kToken: {
      const auto [at, added] = symbols_.try_emplace(e.index, static_cast<int32_t>(program_->tokens_.size()));
      if (added) program_->tokens_.push_back(e.index);
      return add_edge(from, {.kind = Program::EdgeKind::kToken, .target = to, .symbol = at->second});
    }
    case Grammar::Kind::kSequence: {
      int32_t at = from;
      for (int32_t i = 0; i < e.parts; ++i) {
        const int32_t next = i + 1 == e.parts ? to : add_node();
        emit(grammar_.part(e, i), at, next);
        at = next;
      }
      return;
    }
    case Grammar::Kind::kChoice:
      for (int32_t i = 0; i < e.parts; ++i) emit(grammar_.part(e, i), from, to);
      return;
    case Grammar::Kind::kRepeat:
      return emit_repeat(e, from, to);
    case Grammar::Kind::kCall:
      return add_edge(from, {.kind = Program::EdgeKind::kCall, .target = to, .symbol = e.index});
  }
}

void ProgramBuilder::emit_literals(const std::vector<std::string>& literals, int32_t from, int32_t to) {
  std::unordered_map<uint64_t, int32_t> tree;  // node << 8 | byte -> node
  for (const std::string& text : literals) {
    int32_t at = from;
    for (const char c : text) {
      if (!status_.ok()) return;
      const auto byte = static_cast<unsigned char>(c);
      const auto [found, added] = tree.try_emplace(static_cast<uint64_t>(at) << 8 | byte, 0);
      if (added) {
        found->second = add_node();
        const int32_t next = found->second;
        add_edge(at, {.kind = Program::EdgeKind::kBytes, .low = byte, .high = byte, .target = next});
      }
      at = found->second;
    }
    add_edge(at, {.kind = Program::EdgeKind::kFree, .target = to});
  }
}

void ProgramBuilder::emit_set(const CharSet& set, int32_t from, int32_t to) {
  for (const Utf8Sequence& sequence : utf8_sequences(set)) {
    int32_t at = from;
    for (int i = 0; i < sequence.length; ++i) {
      const int32_t next = i + 1 == sequence.length ? to : add_node();
      add_edge(at, {.kind = Program::EdgeKind::kBytes,
                    .low = sequence.bytes[i].first,
                    .high = sequence.bytes[i].second,
                    .target = next});
      at = next;
    }
  }
}

void ProgramBuilder::emit_repeat(const Grammar::Expr& repeat, int32_t from, int32_t to) {
  const ExprId what = grammar_.part(repeat, 0);
  const bool endless = repeat.max == kNoMaximum;
  const int64_t times = endless ? repeat.min : repeat.max;
  // What may be empty is written out: an iteration that reads nothing must not count.
  if (times > 1 && times * size(what) > kUnrolled && !nullable(what)) {
    if (!endless) return emit_counted(what, repeat.min, repeat.max, from, to);
    const int32_t then = add_node();
    emit_counted(what, repeat.min, repeat.min, from, then);
    from = then;
  } else {
    for (int64_t i = 0; i < times && status_.ok(); ++i) {
      const bool may_end = i >= repeat.min;
      if (may_end) add_edge(from, {.kind = Program::EdgeKind::kFree, .target = to});
      const int32_t next = !endless && i + 1 == times ? to : add_node();
      emit(what, from, next);
      from = next;
    }
    if (!endless) return;
  }
  const int32_t loop = add_node();
  add_edge(from, {.kind = Program::EdgeKind::kFree, .target = loop});
  const int32_t begin = add_node();
  program_->nodes_[static_cast<size_t>(begin)].loop = loop_of(what);
  add_edge(loop, {.kind = Program::EdgeKind::kFree, .target = begin});
  emit(what, begin, loop);
  add_edge(loop, {.kind = Program::EdgeKind::kFree, .target = to});
}

void ProgramBuilder::emit_counted(ExprId what, int64_t min, int64_t max, int32_t from, int32_t to) {
  constexpr int64_t kMost = 1 << 30;
  if (min > kMost || max > kMost) {
    if (status_.ok()) status_ = invalid(fmt::format("a repetition may count to {} at most", kMost));
    return;
  }
  const Grammar::Expr& e = grammar_.expr(what);
  const bool is_rule = e.kind == Grammar::Kind::kCall;
  RuleId rule = e.index;
  if (!is_rule) {
    const auto [at, added] = counted_rules_.try_emplace(what, static_cast<RuleId>(program_->starts_.size()));
    if (added) {
      program_->starts_.push_back(add_node());
      program_->finals_.push_back(add_node());
      waiting_.push_back({at->second, what});
    }
    rule = at->second;
  }
  add_edge(from, {.kind = Program::EdgeKind::kCounted,
                  .target = to,
                  .symbol = rule,
                  .min = static_cast<int32_t>(min),
                  .max = static_cast<int32_t>(max),
                  .loop = loop_of(is_rule ? grammar_.rule(e.index) : what)});
}

bool ProgramBuilder::nullable(ExprId id) const {
  const Grammar::Expr& e = grammar_.expr(id);
  switch (e.kind) {
    case Grammar::Kind::kEmpty:
      return true;
    case Grammar::Kind::kLiterals: {
      const auto& all = grammar_.literals(e);
      return std::any_of(all.begin(), all.end(), [](const std::string& text) { return text.empty(); });
    }
    case Grammar::Kind::kSequence:
      for (int32_t i = 0; i < e.parts; ++i) {
        if (!nullable(grammar_.part(e, i))) return false;
      }
      return true;
    case Grammar::Kind::kChoice:
      for (int32_t i = 0; i < e.parts; ++i) {
        if (nullable(grammar_.part(e, i))) return true;
      }
      return false;
    case Grammar::Kind::kRepeat:
      return e.min == 0 || nullable(grammar_.part(e, 0));
    case Grammar::Kind::kCall:
      return nullable_rules_[static_cast<size_t>(e.index)];
    default:
      return false;
  }
}

bool ProgramBuilder::reads_one_of(ExprId id, CharSet& set) const {
  const Grammar::Expr& e = grammar_.expr(id);
  const auto is_special = [](const std::string& text) {
    return !text.empty() && !plain_characters().contains(static_cast<unsigned char>(text[0])) &&
           static_cast<unsigned char>(text[0]) < 0x80;
  };
  switch (e.kind) {
    case Grammar::Kind::kSet:
      set.add(grammar_.set(e).intersected(plain_characters()));
      return true;
    case Grammar::Kind::kAnyByte:  // and so any character, byte by byte
      set.add(plain_characters());
      return true;
    case Grammar::Kind::kLiterals:
      return std::all_of(grammar_.literals(e).begin(), grammar_.literals(e).end(), is_special);
    case Grammar::Kind::kSequence: {
      const Grammar::Expr& first = grammar_.expr(grammar_.part(e, 0));
      return first.kind == Grammar::Kind::kLiterals &&
             std::all_of(grammar_.literals(first).begin(), grammar_.literals(first).end(), is_special);
    }
    case Grammar::Kind::kChoice:
      for (int32_t i = 0; i < e.parts; ++i) {
        if (!reads_one_of(grammar_.part(e, i), set)) return false;
      }
      return true;
    default:
      return false;
  }
}

int32_t ProgramBuilder::loop_of(ExprId id) {
  constexpr size_t kMost = 16;  // each costs a list of tokens
  constexpr size_t kMostRanges = 64;
  CharSet set;
  if (!reads_one_of(id, set) || set.empty() || set.ranges().size() > kMostRanges) return -1;
  std::vector<CharSet>& loops = program_->loops_;
  const auto known =
      std::find_if(loops.begin(), loops.end(), [&](const CharSet& s) { return s.ranges() == set.ranges(); });
  if (known != loops.end()) return static_cast<int32_t>(known - loops.begin());
  if (loops.size() >= kMost) return -1;
  loops.push_back(set);
  return static_cast<int32_t>(loops.size() - 1);
}

int64_t ProgramBuilder::size(ExprId id) const {
  constexpr int64_t kMany = 1 << 20;
  const Grammar::Expr& e = grammar_.expr(id);
  int64_t sum = 1;
  switch (e.kind) {
    case Grammar::Kind::kLiterals:
      for (const std::string& text : grammar_.literals(e)) sum += static_cast<int64_t>(text.size());
      break;
    case Grammar::Kind::kSet:
      for (const Utf8Sequence& sequence : utf8_sequences(grammar_.set(e))) sum += sequence.length - 1;
      break;
    case Grammar::Kind::kSequence:
    case Grammar::Kind::kChoice:
      for (int32_t i = 0; i < e.parts && sum < kMany; ++i) sum += size(grammar_.part(e, i));
      break;
    case Grammar::Kind::kRepeat:
      sum = size(grammar_.part(e, 0)) * std::clamp<int64_t>(e.max, 1, kMany);
      break;
    default:
      break;
  }
  return std::min(sum, kMany);
}

void ProgramBuilder::find_nullable_rules() {
  nullable_rules_.assign(static_cast<size_t>(grammar_.rules()), false);
  for (bool changed = true; changed;) {
    changed = false;
    for (RuleId rule = grammar_.rules() - 1; rule >= 0; --rule) {
      if (nullable_rules_[static_cast<size_t>(rule)] || !nullable(grammar_.rule(rule))) continue;
      nullable_rules_[static_cast<size_t>(rule)] = changed = true;
    }
  }
}

Result<std::shared_ptr<Program>> ProgramBuilder::build() {
  program_ = std::make_shared<Program>();
  program_->limits_ = grammar_.limits();
  find_nullable_rules();
  for (RuleId rule = 0; rule < grammar_.rules(); ++rule) {
    program_->starts_.push_back(add_node());
    program_->finals_.push_back(add_node());
    waiting_.push_back({rule, grammar_.rule(rule)});
  }
  const int32_t start = add_node(), final = add_node();
  emit(grammar_.root(), start, final);
  while (!waiting_.empty() && status_.ok()) {
    const auto [rule, body] = waiting_.back();
    waiting_.pop_back();
    emit(body, program_->starts_[static_cast<size_t>(rule)], program_->finals_[static_cast<size_t>(rule)]);
  }
  if (!status_.ok()) return status_;
  program_->starts_.push_back(start);
  program_->finals_.push_back(final);
  for (const int32_t node : program_->finals_) program_->nodes_[static_cast<size_t>(node)].final = true;
  lay_out();
  find_classes();
  return program_;
}

void ProgramBuilder::lay_out() {
  for (size_t i = 0; i < edges_.size(); ++i) {
    program_->nodes_[i].edges = static_cast<int32_t>(program_->edges_.size());
    program_->edges_.insert(program_->edges_.end(), edges_[i].begin(), edges_[i].end());
    program_->nodes_[i].edges_end = static_cast<int32_t>(program_->edges_.size());
  }
}

void ProgramBuilder::find_classes() {
  std::array<bool, 257> begins{};
  begins[0] = true;
  for (const Edge& edge : program_->edges_) {
    if (edge.kind != Program::EdgeKind::kBytes) continue;
    begins[edge.low] = begins[edge.high + 1u] = true;
  }
  int32_t at = -1;
  for (int byte = 0; byte < 256; ++byte) {
    if (begins[static_cast<size_t>(byte)]) {
      ++at;
      program_->byte_of_.push_back(static_cast<unsigned char>(byte));
    }
    program_->class_of_[static_cast<size_t>(byte)] = at;
  }
  program_->byte_classes_ = at + 1;
}

}  // namespace moebius
