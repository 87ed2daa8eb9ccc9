// Slots are sorted by expert and fall into parts of one expert each, a task of one thread. A task goes
// through its slots in chunks whose numbers stay in a core's cache. Gradients of weights are added by the
// chunk; where an expert has several parts, each part has sums of its own, which are added in their order.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/grad_slots.h"
#include "kernels/cpu/workers.h"

namespace moebius {
namespace {

constexpr int64_t kPartSlots = 1024;
constexpr int64_t kPiece = 16;  // rows that a thread adds at a time

struct Part {
  int64_t expert, first, count;  // slots in the sorted order
  bool alone;                    // the expert has no other
  ExpertSums sums;
};

// Slots of a part: few enough for threads to share, so many that sums of its own cost less than its tokens.
int64_t part_slots(const ExpertWeights& e) { return std::max(kPartSlots, 3 * e.gate.rows); }

std::vector<Part> make_parts(const ExpertFfnBackwardArgs& args, const SortedSlots& sorted, Scratch& scratch) {
  std::vector<Part> parts;
  for (int64_t e = 0; e < args.n_experts; ++e) {
    const int64_t begin = sorted.first[e], end = sorted.first[e + 1];
    if (begin == end) continue;
    const int64_t most = part_slots(args.experts[e]);
    const bool alone = end - begin <= most;
    const ExpertSums sums =
        expert_sums(args.experts[e], args.gradients ? args.gradients[e] : ExpertGradients{});
    for (int64_t first = begin; first < end; first += most)
      parts.push_back({e, first, std::min(most, end - first), alone, alone ? sums : own_sums(sums, scratch)});
  }
  return parts;
}

// What the parts of one expert summed, to where it belongs.
void add_parts(const ExpertFfnBackwardArgs& args, const std::vector<Part>& parts, HostContext& context) {
  for (size_t begin = 0, end; begin < parts.size(); begin = end) {
    for (end = begin; end < parts.size() && parts[end].expert == parts[begin].expert;) ++end;
    if (parts[begin].alone) continue;
    const int64_t e = parts[begin].expert;
    const ExpertSums sums =
        expert_sums(args.experts[e], args.gradients ? args.gradients[e] : ExpertGradients{});
    for (size_t i = 0; i < sums.size(); ++i) {
      if (sums[i].empty()) continue;
      parallel_for(context.pool, sums[i].shape[0], kPiece, [&](int64_t first, int64_t last) {
        for (size_t part = begin; part < end; ++part)
          for (int64_t r = first; r < last; ++r) {
            const Tensor& own = parts[part].sums[i];
            add_row(own.f32() + r * own.stride[0], own.shape[1], sums[i].f32() + r * sums[i].stride[0]);
          }
      });
    }
  }
}

// dx[t] += what its slots gave, ascending.
void add_dx(const ExpertFfnBackwardArgs& args, const SortedSlots& sorted, const float* slot_dx,
            HostContext& context) {
  const int64_t k = args.ids.shape[1], hidden = args.x.shape[1];
  parallel_for(context.pool, args.x.shape[0], kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * k; i < end * k; ++i)
      if (sorted.place[i] >= 0)
        add_row(slot_dx + sorted.place[i] * hidden, hidden, args.dx.f32() + i / k * args.dx.stride[0]);
  });
}

void clear_unused(const ExpertFfnBackwardArgs& args) {
  for (int64_t t = 0; t < args.ids.shape[0] && !args.dweights.empty(); ++t)
    for (int64_t s = 0; s < args.ids.shape[1]; ++s)
      if (args.ids.i32()[t * args.ids.stride[0] + s] < 0)
        args.dweights.f32()[t * args.dweights.stride[0] + s] = 0;
}

void expert_ffn_backward_gemm(const ExpertFfnBackwardArgs& args, HostContext& context) {
  const Scratch::Frame frame(context.scratch);
  clear_unused(args);
  const SortedSlots sorted = sort_slots(args, context.scratch);
  const int64_t hidden = args.x.shape[1], slots = sorted.first[args.n_experts];
  if (slots == 0) return;
  float* slot_dx = args.dx.empty() ? nullptr : context.scratch.take<float>(slots * hidden);
  const std::vector<Part> parts = make_parts(args, sorted, context.scratch);
  std::vector<ChunkMemory> memory;
  for (int i = 0; i < worker_count(context, static_cast<int64_t>(parts.size())); ++i)
    memory.emplace_back(sorted, hidden, context.scratch);
  for_each_unit(context, static_cast<int64_t>(parts.size()), [&](int64_t i, int64_t worker) {
    const Part& part = parts[static_cast<size_t>(i)];
    run_slots(args, part.expert, sorted.slot + part.first, part.count, part.sums,
              slot_dx ? slot_dx + part.first * hidden : nullptr, memory[static_cast<size_t>(worker)],
              context);
  });
  add_parts(args, parts, context);
  if (slot_dx) add_dx(args, sorted, slot_dx, context);
}

}  // namespace

std::span<const Candidate<ExpertFfnBackwardArgs>> host_expert_ffn_backward() {
  static constexpr Candidate<ExpertFfnBackwardArgs> kCandidates[] = {
      {"expert_ffn_backward_gemm", declines_nothing<ExpertFfnBackwardArgs>, expert_ffn_backward_gemm},
      grad_reference<ExpertFfnBackwardArgs, ref::expert_ffn_backward>("expert_ffn_backward_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
