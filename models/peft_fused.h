// ExpertStack: the LoRA factors of one weight of all experts of a layer, packed as peft packs them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace moebius {

// A [experts * rank, in] with the expert slowest, B [out, rank * experts] with the expert fastest.
struct ExpertStack {
  int64_t experts = 0, rank = 0, in = 0, out = 0;
  std::vector<float> a, b;

  ExpertStack() = default;
  ExpertStack(int64_t experts, int64_t rank, int64_t in, int64_t out);  // zeros

  float& a_at(int64_t expert, int64_t r, int64_t i) { return a[a_index(expert, r, i)]; }
  float a_at(int64_t expert, int64_t r, int64_t i) const { return a[a_index(expert, r, i)]; }
  float& b_at(int64_t o, int64_t expert, int64_t r) { return b[b_index(o, expert, r)]; }
  float b_at(int64_t o, int64_t expert, int64_t r) const { return b[b_index(o, expert, r)]; }

  // Sets ranks [first_rank, + rank) and outputs [first_out, + out) of one expert from a [rank, in] and
  // b [out, rank], times b_factor.
  void put(int64_t expert, int64_t first_rank, int64_t part_rank, const float* part_a, int64_t first_out,
           int64_t part_out, const float* part_b, double b_factor);
  // The opposite: a [part_rank, in] and b [part_out, part_rank].
  void take(int64_t expert, int64_t first_rank, int64_t part_rank, int64_t first_out, int64_t part_out,
            std::vector<float>* part_a, std::vector<float>* part_b) const;

  // How a stack over two weights, whose outputs follow one another, separates: the ranks of the first half of
  // the outputs, then those of the second. Both have all of them when some rank feeds both halves.
  struct Halves {
    int64_t first_rank[2] = {0, 0};
    int64_t rank[2] = {0, 0};
  };
  Halves halves() const;

 private:
  size_t a_index(int64_t expert, int64_t r, int64_t i) const {
    return static_cast<size_t>((expert * rank + r) * in + i);
  }
  size_t b_index(int64_t o, int64_t expert, int64_t r) const {
    return static_cast<size_t>((o * rank + r) * experts + expert);
  }
};

// The same weight's factors as peft below 0.19.1 packed them: from A [experts * rank, out] and B [in, rank *
// experts], whose product is the transposed weight.
ExpertStack from_transposed(int64_t experts, int64_t rank, int64_t in, int64_t out,
                            const std::vector<float>& a, const std::vector<float>& b);

}  // namespace moebius
