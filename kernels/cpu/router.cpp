// Routing: logits in pieces of (kTokens tokens, kRows rows of the gate) by row kernels, whose bits do not
// depend on the company of a token, then each token on its own.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/workers.h"

namespace moebius {
namespace {

constexpr int64_t kRows = 32;
constexpr int64_t kTokens = 16;  // that use the same rows of the gate while these are close

struct Chosen {
  float key;
  int64_t index;
};

// The `count` largest of n values into best, descending, ties by lower index; NaN counts as -infinity.
void choose_largest(const float* values, int64_t n, int64_t count, Chosen* best) {
  int64_t have = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float key = std::isnan(values[i]) ? -INFINITY : values[i];
    if (have == count && (count == 0 || !(key > best[count - 1].key))) continue;
    int64_t at = have < count ? have++ : count - 1;
    for (; at > 0 && key > best[at - 1].key; --at) best[at] = best[at - 1];
    best[at] = {key, i};
  }
}

void score(float* logits, int64_t n, Scoring scoring) {
  if (scoring == Scoring::kSigmoid) {
    for (int64_t i = 0; i < n; ++i) logits[i] = 1.0f / (1.0f + std::exp(-logits[i]));
    return;
  }
  float highest = logits[0], sum = 0;
  for (int64_t i = 1; i < n; ++i) highest = std::max(highest, logits[i]);
  for (int64_t i = 0; i < n; ++i) sum += logits[i] = std::exp(logits[i] - highest);
  for (int64_t i = 0; i < n; ++i) logits[i] /= sum;
}

struct Workspace {
  float* selection;  // [rows]
  float* groups;     // [n_group]
  Chosen* best;      // [max(k, topk_group, 2)]
};

void mask_groups(const RouterArgs& args, const Workspace& work) {
  const int64_t size = args.gate.rows / args.n_group;
  const bool two = args.group_score == GroupScore::kTop2Sum && size > 1;
  for (int64_t g = 0; g < args.n_group; ++g) {
    choose_largest(work.selection + g * size, size, two ? 2 : 1, work.best);
    const float* members = work.selection + g * size;
    work.groups[g] = members[work.best[0].index] + (two ? members[work.best[1].index] : 0.0f);
  }
  choose_largest(work.groups, args.n_group, args.topk_group, work.best);
  std::sort(work.best, work.best + args.topk_group,
            [](const Chosen& a, const Chosen& b) { return a.index < b.index; });
  const float masked = args.group_score == GroupScore::kMax ? 0.0f : -INFINITY;
  for (int64_t g = 0, kept = 0; g < args.n_group; ++g) {
    if (kept < args.topk_group && work.best[kept].index == g)
      ++kept;
    else
      std::fill_n(work.selection + g * size, size, masked);
  }
}

void route(const RouterArgs& args, int64_t token, float* scores, const Workspace& work) {
  const int64_t rows = args.gate.rows, k = args.ids.shape[1];
  score(scores, rows, args.scoring);
  for (int64_t e = 0; e < rows; ++e)
    work.selection[e] = args.bias.empty() ? scores[e] : scores[e] + args.bias.f32()[e];
  if (args.group_score != GroupScore::kNone) mask_groups(args, work);
  choose_largest(work.selection, rows, k, work.best);
  for (int64_t s = 0; s < k && !args.forced.empty(); ++s)
    work.best[s].index = args.forced.i32()[token * args.forced.stride[0] + s];

  int32_t* ids = args.ids.i32() + token * args.ids.stride[0];
  int32_t* chosen = args.chosen.empty() ? nullptr : args.chosen.i32() + token * args.chosen.stride[0];
  float* weights = args.weights.f32() + token * args.weights.stride[0];
  float sum = 0;
  for (int64_t s = 0; s < k; ++s) sum += scores[work.best[s].index];
  for (int64_t s = 0; s < k; ++s) {
    const int64_t e = work.best[s].index;
    const float below = e % 2 == 1 ? std::max(args.skip_below, args.skip_odd_below) : args.skip_below;
    const bool zero = e >= args.n_experts || scores[e] / (sum + 1e-20f) < below;
    ids[s] = zero ? -1 : static_cast<int32_t>(e);
    if (chosen) chosen[s] = static_cast<int32_t>(e);
    weights[s] = zero ? 0.0f : (args.normalize ? scores[e] / (sum + 1e-20f) : scores[e]) * args.scale;
  }
}

void compute_logits(const RouterArgs& args, float* logits, HostContext& context) {
  const int64_t n = args.x.shape[0], rows = args.gate.rows;
  const int64_t row_pieces = (rows + kRows - 1) / kRows, token_pieces = (n + kTokens - 1) / kTokens;
  const FormatKernels& kernels = context.kernels(args.gate.format);
  parallel_for(context.pool, row_pieces * token_pieces, 1, [&](int64_t unit, int64_t) {
    const int64_t row = unit % row_pieces * kRows, token = unit / row_pieces * kTokens;
    Activations x;
    x.x = args.x.f32() + token * args.x.stride[0], x.ld = args.x.stride[0], x.cols = args.gate.cols;
    kernels.dot_rows(args.gate, row, std::min(rows, row + kRows), x, nullptr, std::min(kTokens, n - token),
                     logits + token * rows + row, rows);
  });
}

void router_host(const RouterArgs& args, HostContext& context) {
  const int64_t n = args.x.shape[0], rows = args.gate.rows;
  if (n == 0 || rows == 0) return;
  const int64_t best = std::max({args.ids.shape[1], args.topk_group, int64_t{2}});
  const int workers = worker_count(context, n);
  float* logits = context.scratch.take<float>(n * rows);
  float* floats = context.scratch.take<float>(workers * (rows + args.n_group));
  Chosen* chosen = context.scratch.take<Chosen>(workers * best);
  compute_logits(args, logits, context);
  const auto route_one = [&](int64_t token, int64_t worker) {
    float* own = floats + worker * (rows + args.n_group);
    route(args, token, logits + token * rows, {own, own + rows, chosen + worker * best});
  };
  for_each_unit(context, n, route_one);
}

}  // namespace

std::span<const Candidate<RouterArgs>> host_router() {
  static constexpr Candidate<RouterArgs> kCandidates[] = {
      {"router_host", declines_nothing<RouterArgs>, router_host},
      reference_candidate<RouterArgs, ref::router>("router_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
