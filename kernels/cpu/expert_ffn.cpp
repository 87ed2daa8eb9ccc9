// The MoE feed-forward on the host, once for all formats.
//
// Slots are sorted by expert, so that an expert's weights are read once for all its tokens. Experts with few
// tokens, of integer formats, or that meet their tokens in parts share two parallel regions of tasks (expert,
// block of rows): gate and up into h, then down into the slots. Other experts with many tokens of a float
// format go by expert_products.
#include <cmath>
#include <cstring>

#include "kernels/cpu/adapter.h"
#include "kernels/cpu/expert_products.h"
#include "kernels/cpu/swiglu.h"
#include "kernels/rows.h"

namespace moebius {
namespace {

struct Group : ExpertGroup {
  Blocks up_blocks, down_blocks;
  int64_t up_task, down_task, part_task;  // of the first block
  Activations x, h;
  Adapter gate, up, down;
};

struct Sorted {  // all slots in use, by expert, then by token
  int64_t pairs = 0;
  int32_t* token;  // [pairs]
  float** slot;    // [pairs], where the result goes
  int64_t widest = 0;
};

// Of integer formats, whose bits are those of the reference.
void swiglu(const float* gate, const float* up, int64_t n, float* h) {
  for (int64_t i = 0; i < n; ++i) h[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

// The task is block `block` of gate and up of a group: h = silu(gate x) * up x for its rows.
void up_block(const Sorted& sorted, const Group& group, int64_t block, float* h, const HostContext& context) {
  const ExpertWeights& e = *group.expert;
  const int64_t begin = block * group.up_blocks.rows,
                end = std::min(begin + group.up_blocks.rows, e.gate.rows);
  const int64_t rows = end - begin;
  Tile gate, up;
  const int64_t some = tokens_at_once(group.n, context);
  for (int64_t first = 0; first < group.n; first += some) {
    const int64_t count = std::min(some, group.n - first);
    const int32_t* tokens = sorted.token + group.first + first;
    const Activations x = parts_from(group.x, first);
    context.kernels(e.gate.format).dot_rows(e.gate, begin, end, x, tokens, count, gate.values, rows);
    context.kernels(e.up.format).dot_rows(e.up, begin, end, x, tokens, count, up.values, rows);
    add_adapter(group.gate, begin, end, first, count, gate.values, context);
    add_adapter(group.up, begin, end, first, count, up.values, context);
    for (int64_t i = 0; i < count; ++i) {
      float* to = h + (group.first + first + i) * sorted.widest + begin;
      if (is_integer(e.down.format))
        swiglu(gate.values + i * rows, up.values + i * rows, rows, to);
      else
        swiglu_row(gate.values + i * rows, up.values + i * rows, rows, to, context.avx2());
    }
  }
}

void down_block(const Sorted& sorted, const Group& group, int64_t block, const HostContext& context) {
  const Matrix& w = group.expert->down;
  const int64_t begin = block * group.down_blocks.rows,
                end = std::min(begin + group.down_blocks.rows, w.rows), rows = end - begin;
  Tile tile;
  const int64_t some = tokens_at_once(group.n, context);
  for (int64_t first = 0; first < group.n; first += some) {
    const int64_t count = std::min(some, group.n - first);
    context.kernels(w.format).dot_rows(w, begin, end, tokens_from(group.h, first), nullptr, count,
                                       tile.values, rows);
    add_adapter(group.down, begin, end, first, count, tile.values, context);
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(sorted.slot[group.first + first + i] + begin, tile.values + i * rows,
                  static_cast<size_t>(rows) * sizeof(float));
  }
}

// The group whose tasks, numbered from start(group) on, contain `task`.
template <class Start>
const Group& group_of(const Group* groups, int64_t count, int64_t task, Start start) {
  const Group* after = std::upper_bound(
      groups, groups + count, task, [&](int64_t value, const Group& group) { return value < start(group); });
  return after[-1];
}

// h of every group as its down projection reads it.
void round_h(const Sorted& sorted, Group* groups, int64_t count, const float* h, HostContext& context) {
  bool any = false;
  for (int64_t i = 0; i < count; ++i) {
    Group& group = groups[i];
    group.h.x = h + group.first * sorted.widest;
    group.h.ld = sorted.widest;
    group.h.cols = group.expert->gate.rows;
    any = any || is_integer(group.expert->down.format);
  }
  if (!any || exact_activations(context)) return;
  const int64_t groups_wide = (sorted.widest + kActivationGroup - 1) / kActivationGroup;
  int8_t* q = context.scratch.take<int8_t>(sorted.pairs * groups_wide * kActivationGroup);
  float* scale = context.scratch.take<float>(sorted.pairs * groups_wide);
  int32_t* sum = context.scratch.take<int32_t>(sorted.pairs * groups_wide);
  constexpr int64_t kFew = 8;  // pairs that one thread rounds faster than a team gathers
  parallel_for(context.pool, count, sorted.pairs > kFew ? 1 : count, [&](int64_t begin, int64_t end) {
    for (Group* group = groups + begin; group < groups + end; ++group) {
      if (!is_integer(group->expert->down.format)) continue;
      const int64_t at = group->first * groups_wide;
      round_tokens(group->h, 0, group->n, q + at * kActivationGroup, scale + at, sum + at, context);
      group->h.q = q + at * kActivationGroup, group->h.scale = scale + at, group->h.sum = sum + at;
    }
  });
}

// The parts of every group's tokens, or of its h, where these meet gate and up, or down, in parts.
void fill_parts(const Sorted& sorted, Group* groups, int64_t count, bool down, HostContext& context) {
  int64_t tasks = 0;
  for (Group* group = groups; group < groups + count; ++group) {
    const ExpertWeights& e = *group->expert;
    group->part_task = tasks;
    if (!goes_by_parts(down ? e.down : e.gate, group->n, group->all, context) &&
        (down || !goes_by_parts(e.up, group->n, group->all, context)))
      continue;
    (down ? group->h : group->x).parts = take_parts(down ? e.down : e.gate, group->n, context.scratch);
    tasks += (group->n + kPartTokens - 1) / kPartTokens;
  }
  parallel_for(context.pool, tasks, 1, [&](int64_t task, int64_t) {
    const Group& group = group_of(groups, count, task, [](const Group& g) { return g.part_task; });
    const int64_t first = (task - group.part_task) * kPartTokens, n = std::min(kPartTokens, group.n - first);
    const Activations& x = down ? group.h : group.x;
    uint16_t* parts = const_cast<uint16_t*>(x.parts) + first / kPartTokens * parts_block(x.cols);
    if (down) return split_tokens_amx(x.x + first * x.ld, x.ld, nullptr, n, x.cols, parts);
    split_tokens_amx(x.x, x.ld, sorted.token + group.first + first, n, x.cols, parts);
  });
}

Sorted locate(const ExpertFfnArgs& args, const SortedSlots& slots, const std::vector<Group>& groups,
              Scratch& scratch) {
  Sorted sorted;
  sorted.pairs = slots.count, sorted.token = slots.token;
  sorted.slot = scratch.take<float*>(slots.count);
  for (int64_t i = 0; i < slots.count; ++i)
    sorted.slot[i] =
        args.slots.f32() + slots.token[i] * args.slots.stride[0] + slots.k[i] * args.slots.stride[1];
  for (const Group& group : groups) sorted.widest = std::max(sorted.widest, group.expert->gate.rows);
  return sorted;
}

// Adapters of gate and up, or of down once h is there: what they make of every group's tokens.
void fill_adapters(const Sorted& sorted, Group* groups, int64_t count, bool down, HostContext& context) {
  bool any = false;
  for (Group* group = groups; group < groups + count; ++group) {
    const ExpertWeights& e = *group->expert;
    if (down) {
      group->down = take_adapter(e.down, group->n, context.scratch);
    } else {
      group->gate = take_adapter(e.gate, group->n, context.scratch);
      group->up = take_adapter(e.up, group->n, context.scratch);
    }
    any = any || !group->gate.empty() || !group->up.empty() || !group->down.empty();
  }
  parallel_for(context.pool, any ? count : 0, 1, [&](int64_t i, int64_t) {
    const Group& group = groups[i];
    const int32_t* tokens = sorted.token + group.first;
    if (down) return fill_adapter(group.expert->down, group.down, group.h, nullptr, 0, group.n, context);
    fill_adapter(group.expert->gate, group.gate, group.x, tokens, 0, group.n, context);
    fill_adapter(group.expert->up, group.up, group.x, tokens, 0, group.n, context);
  });
}

// Row kernels for these groups, of all slots.
void run_by_rows(const ExpertFfnArgs& args, const SortedSlots& slots, std::vector<Group>& chosen,
                 HostContext& context) {
  const Sorted sorted = locate(args, slots, chosen, context.scratch);
  Group* groups = chosen.data();
  const int64_t count = static_cast<int64_t>(chosen.size());
  const Matrix* rounds = nullptr;  // a matrix that wants rounded tokens
  int64_t up_tasks = 0, down_tasks = 0;
  for (int64_t i = 0; i < count; ++i) {
    const ExpertWeights& e = *groups[i].expert;
    groups[i].up_blocks = blocks_of(e.gate, groups[i].n, context);
    groups[i].down_blocks = blocks_of(e.down, groups[i].n, context);
    groups[i].up_task = up_tasks, groups[i].down_task = down_tasks;
    up_tasks += groups[i].up_blocks.count, down_tasks += groups[i].down_blocks.count;
    for (const Matrix* w : {&e.gate, &e.up})
      if (!rounds || is_integer(w->format)) rounds = w;
  }
  const Activations x = prepare_tokens(*rounds, args.x.f32(), args.x.shape[0], args.x.stride[0], context);
  for (int64_t i = 0; i < count; ++i) groups[i].x = x;
  fill_parts(sorted, groups, count, false, context);
  fill_adapters(sorted, groups, count, false, context);
  float* h = context.scratch.take<float>(sorted.pairs * sorted.widest);
  parallel_for(context.pool, up_tasks, 1, [&](int64_t task, int64_t) {
    const Group& group = group_of(groups, count, task, [](const Group& g) { return g.up_task; });
    up_block(sorted, group, task - group.up_task, h, context);
  });
  round_h(sorted, groups, count, h, context);
  fill_parts(sorted, groups, count, true, context);
  fill_adapters(sorted, groups, count, true, context);
  parallel_for(context.pool, down_tasks, 1, [&](int64_t task, int64_t) {
    const Group& group = group_of(groups, count, task, [](const Group& g) { return g.down_task; });
    down_block(sorted, group, task - group.down_task, context);
  });
}

// What the parts of its tokens, or of its h, take.
int64_t parts_bytes(const Group& group, const HostContext& context) {
  int64_t most = 0;
  for (const Matrix* w : {&group.expert->gate, &group.expert->up, &group.expert->down})
    if (goes_by_parts(*w, group.n, group.all, context))
      most = std::max(most, (group.n + kPartTokens - 1) / kPartTokens * parts_block(w->cols) * 2);
  return most;
}

// In waves, so that parts do not take more memory than they must.
void run_in_waves(const ExpertFfnArgs& args, const SortedSlots& slots, std::vector<Group>& groups,
                  HostContext& context) {
  constexpr int64_t kWaveBytes = int64_t{32} << 20;
  std::vector<Group> wave;
  int64_t bytes = 0;
  for (size_t i = 0; i < groups.size(); ++i) {
    wave.push_back(groups[i]);
    bytes += parts_bytes(groups[i], context);
    if (bytes < kWaveBytes && i + 1 < groups.size()) continue;
    const Scratch::Frame frame(context.scratch);
    run_by_rows(args, slots, wave, context);
    wave.clear(), bytes = 0;
  }
}

// products: whether groups may go by them.
void run(const ExpertFfnArgs& args, bool products, HostContext& context) {
  const SortedSlots slots = sort_slots(args.ids, args.experts, args.n_experts, context.scratch);
  std::vector<ExpertGroup> many;
  std::vector<Group> few;
  for (int64_t e = 0; e < args.n_experts; ++e) {
    const ExpertGroup group{args.experts + e, slots.first[e], slots.first[e + 1] - slots.first[e],
                            args.x.shape[0]};
    if (group.n == 0) continue;
    if (products && goes_by_products(group, context))
      many.push_back(group);
    else
      few.push_back({group, {}, {}, 0, 0, 0, {}, {}, {}, {}, {}});
  }
  if (!many.empty()) run_by_products(args, slots, many, context);
  run_in_waves(args, slots, few, context);
}

void expert_ffn_rows(const ExpertFfnArgs& args, HostContext& context) { run(args, false, context); }
void expert_ffn_onednn(const ExpertFfnArgs& args, HostContext& context) { run(args, true, context); }

}  // namespace

std::span<const Candidate<ExpertFfnArgs>> host_expert_ffn() {
  static constexpr Candidate<ExpertFfnArgs> kCandidates[] = {
      {"expert_ffn_onednn",
       [](const ExpertFfnArgs& args, const HostContext& context) {
         return declines_panels(args.ids.shape[0], context);
       },
       expert_ffn_onednn},
      {"expert_ffn_rows", declines_nothing<ExpertFfnArgs>, expert_ffn_rows},
      {"expert_ffn_ref", declines_nothing<ExpertFfnArgs>,
       [](const ExpertFfnArgs& args, HostContext& context) {
         ref::expert_ffn(args, exact_activations(context));
       }},
  };
  return kCandidates;
}

}  // namespace moebius
