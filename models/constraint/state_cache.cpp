#include "models/constraint/state_cache.h"

#include <algorithm>

namespace moebius {

namespace {

uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
  return hash ^ (hash >> 29);
}

}  // namespace

StateCache::StateCache(std::shared_ptr<const Program> program)
    : program_(std::move(program)), classes_(static_cast<size_t>(program_->classes())), frames_(1) {}

Result<StateCache::StateId> StateCache::start() {
  reach(0, program_->root());
  close();
  const StateId state = intern();
  if (!status_.ok()) return status_;
  return state;
}

StateCache::StateId StateCache::find_step(StateId state, int32_t symbol_class) {
  if (!status_.ok()) return kDead;
  const bool is_byte = symbol_class < program_->byte_classes();
  const unsigned char byte = is_byte ? program_->byte_of(symbol_class) : 0;
  const int32_t symbol = symbol_class - program_->byte_classes();
  const State& from = states_[static_cast<size_t>(state)];
  for (int32_t i = from.configs; i < from.configs_end; ++i) {
    const Config config = configs_[static_cast<size_t>(i)];
    const Program::Node& node = program_->node(config.node);
    for (int32_t e = node.edges; e < node.edges_end; ++e) {
      const Program::Edge& edge = program_->edge(e);
      const bool reads = is_byte
                             ? edge.kind == Program::EdgeKind::kBytes && edge.low <= byte && byte <= edge.high
                             : edge.kind == Program::EdgeKind::kToken && edge.symbol == symbol;
      if (reads) reach(config.stack, edge.target);
    }
  }
  close();
  const StateId next = intern();
  steps_[static_cast<size_t>(state) * classes_ + static_cast<size_t>(symbol_class)] = next;
  return next;
}

int32_t StateCache::push(int32_t below, int32_t edge, int32_t count) {
  const uint64_t hash =
      mix(mix(static_cast<uint64_t>(below), static_cast<uint64_t>(edge)), static_cast<uint64_t>(count));
  const auto [begin, end] = known_frames_.equal_range(hash);
  for (auto at = begin; at != end; ++at) {
    const Frame& f = frames_[static_cast<size_t>(at->second)];
    if (f.below == below && f.edge == edge && f.count == count) return at->second;
  }
  frames_.push_back({below, edge, count, frames_[static_cast<size_t>(below)].depth + 1});
  const auto id = static_cast<int32_t>(frames_.size() - 1);
  known_frames_.emplace(hash, id);
  bytes_ += static_cast<int64_t>(sizeof(Frame)) + 40;
  return id;
}

// A place from which the end cannot be reached within the depth allowed is no place to be.
void StateCache::reach(int32_t stack, int32_t node) {
  if (frames_[static_cast<size_t>(stack)].depth + program_->node(node).need > program_->limits().stack)
    return;
  if (!seen_.insert(static_cast<uint64_t>(stack) << 32 | static_cast<uint32_t>(node)).second) return;
  todo_.push_back({stack, node});
}

void StateCache::close() {
  const int64_t most = program_->limits().configurations;
  while (!todo_.empty() && status_.ok()) {
    const Config config = todo_.back();
    todo_.pop_back();
    ++work_;
    follow(config);
    if (static_cast<int64_t>(seen_.size()) > 8 * most || static_cast<int64_t>(made_.size()) > most)
      status_ = invalid("the constraint is too ambiguous: too many ways to read an answer; make it simpler");
    if (work_ > program_->limits().mask_work)
      status_ = invalid("the constraint takes too long to follow; make it simpler");
  }
  todo_.clear();
  seen_.clear();
}

void StateCache::follow(const Config& config) {
  const Program::Node& node = program_->node(config.node);
  if (node.loop >= 0) note_run(node.loop, INT32_MAX);
  if (node.final) leave(config.stack);
  bool reads = false;
  for (int32_t e = node.edges; e < node.edges_end; ++e) {
    const Program::Edge& edge = program_->edge(e);
    switch (edge.kind) {
      case Program::EdgeKind::kBytes:
      case Program::EdgeKind::kToken:
        reads = true;
        break;
      case Program::EdgeKind::kFree:
        reach(config.stack, edge.target);
        break;
      case Program::EdgeKind::kCall: {
        const Program::Node& then = program_->node(edge.target);
        // A call with nothing left to do after it needs no frame: rules that end in themselves stay flat.
        if (then.returns) {
          reach(config.stack, program_->start(edge.symbol));
        } else if (frames_[static_cast<size_t>(config.stack)].depth + then.need <= program_->limits().stack) {
          reach(push(config.stack, e, 0), program_->start(edge.symbol));
        }
        break;
      }
      case Program::EdgeKind::kCounted:
        follow_counted(config.stack, e, 0);
        break;
    }
  }
  if (reads) made_.push_back(config);
}

// `done` iterations of a counted edge are read: another one, or what comes then.
void StateCache::follow_counted(int32_t below, int32_t edge_id, int32_t done) {
  const Program::Edge& edge = program_->edge(edge_id);
  if (done >= edge.min) reach(below, edge.target);
  const int32_t depth = frames_[static_cast<size_t>(below)].depth, stack = program_->limits().stack;
  const int32_t start = program_->start(edge.symbol);
  const bool room =
      depth + program_->node(edge.target).need <= stack && depth + 1 + program_->node(start).need <= stack;
  if (done >= edge.max || !room) return;
  if (edge.loop >= 0) note_run(edge.loop, edge.max - done);
  reach(push(below, edge_id, done), start);
}

void StateCache::leave(int32_t stack) {
  if (stack == 0) {
    accepts_ = true;
    return;
  }
  const Frame frame = frames_[static_cast<size_t>(stack)];
  const Program::Edge& edge = program_->edge(frame.edge);
  if (edge.kind == Program::EdgeKind::kCounted)
    return follow_counted(frame.below, frame.edge, frame.count + 1);
  reach(frame.below, edge.target);
}

// Of several loops the longest run counts, which is enough for a mask together with what a walk finds.
void StateCache::note_run(int32_t loop, int32_t length) {
  if (run_.loop >= 0 && length <= run_.length) return;
  run_.loop = loop;
  run_.length = length;
}

// Whether a place reads no plain characters but those of the run, and none after them.
bool StateCache::is_of_run(const Config& config) const {
  const Program::Node& node = program_->node(config.node);
  bool reads_plain = false;
  for (int32_t e = node.edges; e < node.edges_end && !reads_plain; ++e) {
    const Program::Edge& edge = program_->edge(e);
    if (edge.kind != Program::EdgeKind::kBytes) continue;
    const bool only_special = edge.low == edge.high && (edge.low == '"' || edge.low == '\\');
    reads_plain = edge.high >= 0x20 && !only_special;
  }
  if (!reads_plain) return true;
  if (node.loop >= 0) return node.loop == run_.loop && node.loop_ends;
  if (config.stack == 0) return false;
  const Frame& frame = frames_[static_cast<size_t>(config.stack)];
  const Program::Edge& edge = program_->edge(frame.edge);
  return edge.kind == Program::EdgeKind::kCounted && edge.loop == run_.loop && edge.loop_ends &&
         config.node == program_->start(edge.symbol) && edge.max - frame.count <= run_.length;
}

StateCache::StateId StateCache::intern() {
  if (!status_.ok() || (made_.empty() && !accepts_)) {
    made_.clear();
    accepts_ = false;
    run_ = {};
    return kDead;
  }
  std::sort(made_.begin(), made_.end());
  uint64_t hash = accepts_;
  for (const Config& c : made_)
    hash = mix(hash, static_cast<uint64_t>(c.stack) << 32 | static_cast<uint32_t>(c.node));
  StateId id = -1;
  const auto [begin, end] = known_states_.equal_range(hash);
  for (auto at = begin; at != end && id < 0; ++at) {
    const State& s = states_[static_cast<size_t>(at->second)];
    if (s.accepts == accepts_ && std::equal(made_.begin(), made_.end(), configs_.begin() + s.configs,
                                            configs_.begin() + s.configs_end))
      id = at->second;
  }
  if (id < 0) {
    State state;
    state.configs = static_cast<int32_t>(configs_.size());
    configs_.insert(configs_.end(), made_.begin(), made_.end());
    state.configs_end = static_cast<int32_t>(configs_.size());
    state.accepts = accepts_;
    state.run = run_;
    state.run.is_all = std::all_of(made_.begin(), made_.end(), [&](const Config& c) { return is_of_run(c); });
    id = static_cast<StateId>(states_.size());
    states_.push_back(std::move(state));
    steps_.resize(steps_.size() + classes_, kUnknown);
    known_states_.emplace(hash, id);
    bytes_ += static_cast<int64_t>(sizeof(State) + classes_ * 4 + made_.size() * sizeof(Config)) + 40;
  }
  made_.clear();
  accepts_ = false;
  run_ = {};
  return id;
}

Result<StateCache::StateId> StateCache::move_to(StateCache& other, StateId state) const {
  const State& from = states_[static_cast<size_t>(state)];
  for (int32_t i = from.configs; i < from.configs_end; ++i) {
    const Config config = configs_[static_cast<size_t>(i)];
    std::vector<Frame> way;
    for (int32_t at = config.stack; at != 0; at = frames_[static_cast<size_t>(at)].below)
      way.push_back(frames_[static_cast<size_t>(at)]);
    int32_t stack = 0;
    for (auto frame = way.rbegin(); frame != way.rend(); ++frame)
      stack = other.push(stack, frame->edge, frame->count);
    other.made_.push_back({stack, config.node});
  }
  other.accepts_ = from.accepts;
  other.run_ = from.run;
  const StateId id = other.intern();
  if (!other.status_.ok()) return other.status_;
  return id;
}

void StateCache::keep_mask(StateId state, std::shared_ptr<const TokenMask> mask) {
  bytes_ += static_cast<int64_t>(mask->size() * sizeof(uint64_t));
  states_[static_cast<size_t>(state)].mask = std::move(mask);
}

}  // namespace moebius
