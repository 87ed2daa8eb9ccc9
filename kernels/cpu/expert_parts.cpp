#include "kernels/cpu/expert_parts.h"

#include <algorithm>

#include "kernels/cpu/grad_rows.h"

namespace moebius {
namespace {

constexpr int64_t kPartSlots = 1024;
constexpr int64_t kPiece = 16;  // rows that a thread adds at a time

using ExpertSums = std::array<MatrixSums, 3>;

ExpertSums expert_sums(const ExpertFfnBackwardArgs& args, int64_t expert) {
  const ExpertWeights& e = args.experts[expert];
  const ExpertGradients gradients = args.gradients ? args.gradients[expert] : ExpertGradients{};
  const auto sums = [](const Matrix& w, const Tensor& dw) {
    return MatrixSums{dw, w.lora ? w.lora->da : Tensor(), w.lora ? w.lora->db : Tensor()};
  };
  return {sums(e.gate, gradients.gate), sums(e.up, gradients.up), sums(e.down, gradients.down)};
}

// body(tensor of one, tensor of the other) for all nine.
template <class Body>
void for_each_sum(ExpertSums& one, const ExpertSums& other, const Body& body) {
  for (size_t i = 0; i < one.size(); ++i)
    body(one[i].dw, other[i].dw), body(one[i].da, other[i].da), body(one[i].db, other[i].db);
}

ExpertSums own_sums(const ExpertSums& like, Scratch& scratch) {
  ExpertSums own;
  for_each_sum(own, like, [&](Tensor& to, const Tensor& from) {
    if (from.empty()) return;
    to = f32_tensor(scratch.take<float>(from.numel()), {from.shape[0], from.shape[1]});
    std::fill_n(to.f32(), to.numel(), 0.0f);
  });
  return own;
}

// Slots of a part: few enough for threads to share, so many that sums of its own cost less than its tokens.
int64_t part_slots(const ExpertWeights& e) { return std::max(kPartSlots, 3 * e.gate.rows); }

}  // namespace

std::vector<ExpertPart> cut_experts(const ExpertFfnBackwardArgs& args, const SortedSlots& sorted,
                                    Scratch& scratch) {
  std::vector<ExpertPart> parts;
  for (int64_t e = 0; e < args.n_experts; ++e) {
    const int64_t begin = sorted.first[e], end = sorted.first[e + 1];
    if (begin == end) continue;
    const int64_t most = part_slots(args.experts[e]);
    const bool alone = end - begin <= most;
    const ExpertSums sums = expert_sums(args, e);
    for (int64_t first = begin; first < end; first += most)
      parts.push_back({e, first, std::min(most, end - first), alone, alone ? sums : own_sums(sums, scratch)});
  }
  return parts;
}

void add_parts(const ExpertFfnBackwardArgs& args, std::span<const ExpertPart> parts, HostContext& context) {
  for (const ExpertPart& part : parts) {
    if (part.alone) continue;
    ExpertSums sums = expert_sums(args, part.expert);
    for_each_sum(sums, part.sums, [&](Tensor& to, const Tensor& from) {
      parallel_for(context.pool, to.empty() ? 0 : to.shape[0], kPiece, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r)
          add_row(from.f32() + r * from.stride[0], from.shape[1], to.f32() + r * to.stride[0]);
      });
    });
  }
}

}  // namespace moebius
