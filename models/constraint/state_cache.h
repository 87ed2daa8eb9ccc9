// StateCache: the states of a program that were met, found on demand.
//
// A state stands for all ways to have read what was read: pairs of a node and a stack of frames, both shared.
// Steps between states are remembered, so that reading a byte again is one look-up. One thread at a time.
#pragma once

#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "models/constraint/program.h"

namespace moebius {

// One bit per token id.
using TokenMask = std::vector<uint64_t>;

class StateCache {
 public:
  static constexpr int32_t kDead = -1;  // nothing can be read
  using StateId = int32_t;

  explicit StateCache(std::shared_ptr<const Program> program);

  // kInvalid: the grammar stands for too many ways at once, or a mask took too long.
  Result<StateId> start();
  // The state after a class of bytes or a token; kDead where none follows. Failures: see status().
  StateId step(StateId state, int32_t symbol_class) {
    const StateId known = steps_[static_cast<size_t>(state) * classes_ + static_cast<size_t>(symbol_class)];
    return known != kUnknown ? known : find_step(state, symbol_class);
  }
  const Status& status() const { return status_; }
  void begin_mask() { work_ = 0; }  // the limit of work counts from here

  bool accepts(StateId state) const { return states_[static_cast<size_t>(state)].accepts; }
  // Plain characters of a loop of the program that can be read from here, whichever they are.
  struct Run {
    int32_t loop = -1;    // -1: none
    int32_t length = 0;   // at most so many; INT32_MAX: any number
    bool is_all = false;  // no other text of plain characters can be read
  };
  Run run(StateId state) const { return states_[static_cast<size_t>(state)].run; }

  const Program& program() const { return *program_; }
  bool full() const { return bytes_ > program_->limits().cache_bytes; }
  // The same state in an empty cache.
  Result<StateId> move_to(StateCache& other, StateId state) const;

  std::shared_ptr<const TokenMask> mask(StateId state) const {
    return states_[static_cast<size_t>(state)].mask;
  }
  void keep_mask(StateId state, std::shared_ptr<const TokenMask> mask);

 private:
  static constexpr int32_t kUnknown = -2;
  struct Config {
    int32_t stack = 0, node = 0;
    bool operator==(const Config&) const = default;
    auto operator<=>(const Config&) const = default;
  };
  // The frame below the first is none (0). count: iterations done, of a counted edge.
  struct Frame {
    int32_t below = 0, edge = 0, count = 0, depth = 0;
  };
  struct State {
    int32_t configs = 0, configs_end = 0;
    Run run;
    bool accepts = false;
    std::shared_ptr<const TokenMask> mask;
  };

  StateId find_step(StateId state, int32_t symbol_class);
  int32_t push(int32_t below, int32_t edge, int32_t count);
  void reach(int32_t stack, int32_t node);
  void follow(const Config& config);
  void follow_counted(int32_t below, int32_t edge, int32_t done);
  void leave(int32_t stack);
  void close();  // follows everything in todo_ that reads nothing
  StateId intern();
  void note_run(int32_t loop, int32_t length);
  bool is_of_run(const Config& config) const;

  const std::shared_ptr<const Program> program_;
  const size_t classes_;
  std::vector<State> states_;
  std::vector<Config> configs_;
  std::vector<int32_t> steps_;  // [state, class]
  std::vector<Frame> frames_;
  std::unordered_multimap<uint64_t, int32_t> known_frames_, known_states_;
  int64_t bytes_ = 0, work_ = 0;
  Status status_;

  // Of the state that is being made.
  std::vector<Config> todo_, made_;
  std::unordered_set<uint64_t> seen_;
  bool accepts_ = false;
  Run run_;
};

}  // namespace moebius
