// ExpertCache: those routed experts of a mapped model that memory holds when it cannot hold all.
//
// The page cache could hold them, too, but page by page: to bring and to drop an expert's thousand small
// pages costs the processor more time than the disk takes, and large pages bring what lies around an expert.
// So experts are read whole, past the page cache, into memory of the process in large pages, which a disk may
// fill twice as fast as small ones. Whoever uses an expert that is not held reads it from the mapped
// file, only later: what is held does not change results.
//
// Who leaves for another: the longest unused. What a prompt brought leaves before what decoding uses, since a
// prompt goes through all experts, and would find nothing of what it brought itself.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "models/weights.h"

namespace moebius {

// A run of an expert's bytes: a matrix's numbers, or its scales.
struct ExpertPart {
  const char* data = nullptr;
  int64_t bytes = 0;
};
std::vector<ExpertPart> expert_parts(const ExpertWeights& expert);  // by address

class ExpertCache {
 public:
  struct Options {
    int64_t capacity = 0;  // bytes; every expert takes as many as the largest
    // With less memory than this left for the program (available_memory()) experts leave and none comes
    // besides them: what is in the page cache and read by every token, and a reserve.
    int64_t spared = 0;
  };
  enum class For : uint8_t { kDecoding, kPrompt };

  // Experts of a layer that stay where they are as long as it lives; from any thread. Not beyond the cache.
  class Hold {
   public:
    Hold() = default;
    Hold(Hold&& other) noexcept { *this = std::move(other); }
    Hold& operator=(Hold&& other) noexcept {
      std::swap(cache_, other.cache_), std::swap(layer_, other.layer_), experts_.swap(other.experts_);
      return *this;
    }
    ~Hold() {
      if (cache_) cache_->let_go(*this);
    }

   private:
    friend class ExpertCache;
    ExpertCache* cache_ = nullptr;
    size_t layer_ = 0;
    std::vector<int32_t> experts_;
  };

  // files: what the weights are mapped from, and outlive this; an expert that is not in them is never held.
  ExpertCache(const Weights& weights, const std::vector<MappedFile>& files, const Options& options);
  ~ExpertCache();
  ExpertCache(const ExpertCache&) = delete;
  ExpertCache& operator=(const ExpertCache&) = delete;

  int64_t slots() const { return slots_; }  // experts that there is room for
  // Starts to bring distinct experts of a layer, in this order, as far as others may leave for them. ahead:
  // for a guess, after all that is needed now.
  Hold ask(int64_t layer, std::span<const int32_t> experts, For use, bool ahead = false);
  struct Missing {
    std::vector<int32_t> coming, refused;  // on their way; not held, for want of room or of a file
  };
  Missing missing(const Hold& hold) const;
  void wait(const Hold& hold);  // until none is
  // Points those of the layer's experts that are held, and have come, at where they are.
  void place(const Hold& hold, std::vector<ExpertWeights>& experts) const;
  bool here(int64_t layer, int64_t expert) const;

 private:
  struct Piece {  // whole pages of a file
    int file = -1, direct = -1;
    int64_t offset = 0, bytes = 0;
    const char* data = nullptr;  // where it is mapped
    int64_t in_file = 0;         // bytes that there are
  };
  enum class State : uint8_t { kOnDisk, kComing, kHere };
  struct Expert {
    std::vector<Piece> pieces;  // one behind the other in its slot
    State state = State::kOnDisk;
    For use = For::kDecoding;
    int holds = 0;
    int64_t slot = -1;
    std::list<Expert*>::iterator place;  // in here_ while kHere, otherwise in elsewhere_
  };
  struct Arena;
  // The expert's bytes in the files; none, if some are in none of them.
  void find_pieces(const ExpertWeights& weights, const std::vector<MappedFile>& files, Expert& expert);
  void let_go(const Hold& hold);
  int64_t find_slot();
  int64_t longest_unused();
  void settle(Expert& expert, bool came);
  void read();
  bool fill(const Expert& expert) const noexcept;
  static void point(Matrix& w, const Expert& expert, const char* slot);

  const Options options_;
  std::vector<int> direct_;  // other openings of the files, past the page cache; -1: no such
  int64_t slot_bytes_ = 0, slots_ = 0;
  std::unique_ptr<Arena> arena_;
  mutable std::mutex mutex_;  // of all below
  std::condition_variable work_, settled_;
  std::deque<std::deque<Expert>> experts_;  // [layer][expert]
  std::list<Expert*> here_, elsewhere_;     // here_: the next to leave last
  std::vector<int64_t> free_;               // slots that nobody has
  std::vector<Expert*> jobs_;               // with room for all: what is asked for is asked for
  int64_t coming_ = 0;                      // experts
  uint64_t found_ = 0;                      // slots
  bool ends_ = false;
  std::vector<std::jthread> readers_;
};

// A reserve, of so much memory in all.
inline int64_t spared_ram(int64_t ram) { return std::min(ram / 32, int64_t{256} << 20); }

}  // namespace moebius
