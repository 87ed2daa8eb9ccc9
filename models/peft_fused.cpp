#include "models/peft_fused.h"

#include <algorithm>

namespace moebius {

ExpertStack::ExpertStack(int64_t experts_, int64_t rank_, int64_t in_, int64_t out_)
    : experts(experts_), rank(rank_), in(in_), out(out_) {
  a.resize(static_cast<size_t>(experts * rank * in));
  b.resize(static_cast<size_t>(experts * rank * out));
}

void ExpertStack::put(int64_t expert, int64_t first_rank, int64_t part_rank, const float* part_a,
                      int64_t first_out, int64_t part_out, const float* part_b, double b_factor) {
  std::copy_n(part_a, part_rank * in, &a_at(expert, first_rank, 0));
  for (int64_t o = 0; o < part_out; ++o) {
    for (int64_t r = 0; r < part_rank; ++r) {
      const double value = part_b[o * part_rank + r];
      b_at(first_out + o, expert, first_rank + r) = static_cast<float>(value * b_factor);
    }
  }
}

void ExpertStack::take(int64_t expert, int64_t first_rank, int64_t part_rank, int64_t first_out,
                       int64_t part_out, std::vector<float>* part_a, std::vector<float>* part_b) const {
  const auto begin = a.begin() + static_cast<std::ptrdiff_t>(a_index(expert, first_rank, 0));
  part_a->assign(begin, begin + part_rank * in);
  part_b->resize(static_cast<size_t>(part_out * part_rank));
  float* to = part_b->data();
  for (int64_t o = 0; o < part_out; ++o) {
    for (int64_t r = 0; r < part_rank; ++r) *to++ = b_at(first_out + o, expert, first_rank + r);
  }
}

ExpertStack::Halves ExpertStack::halves() const {
  int64_t last[2] = {-1, -1}, first[2] = {rank, rank};  // ranks that feed a half
  for (int64_t o = 0; o < out; ++o) {
    const int half = o < out / 2 ? 0 : 1;
    for (int64_t r = 0; r < rank; ++r) {
      const auto row = b.begin() + static_cast<std::ptrdiff_t>(b_index(o, 0, r));
      if (std::all_of(row, row + experts, [](float value) { return value == 0; })) continue;
      last[half] = std::max(last[half], r);
      first[half] = std::min(first[half], r);
    }
  }
  // Any cut in [low, high] separates them; the middle where it does, since writers give both the same rank.
  const int64_t low = last[0] + 1, high = first[1];
  if (low > high) return {{0, 0}, {rank, rank}};
  const int64_t middle = rank / 2;
  const int64_t cut = rank % 2 == 0 && low <= middle && middle <= high ? middle : low;
  return {{0, cut}, {cut, rank - cut}};
}

ExpertStack from_transposed(int64_t experts, int64_t rank, int64_t in, int64_t out,
                            const std::vector<float>& a, const std::vector<float>& b) {
  ExpertStack stack(experts, rank, in, out);
  for (int64_t e = 0; e < experts; ++e) {
    for (int64_t r = 0; r < rank; ++r) {
      const size_t a_row = static_cast<size_t>((e * rank + r) * out);
      for (int64_t o = 0; o < out; ++o) stack.b_at(o, e, r) = a[a_row + static_cast<size_t>(o)];
      for (int64_t i = 0; i < in; ++i) {
        stack.a_at(e, r, i) = b[static_cast<size_t>((i * rank + r) * experts + e)];
      }
    }
  }
  return stack;
}

}  // namespace moebius
