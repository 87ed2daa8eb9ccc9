// The backward of attention over whole sequences, in tiles of 64 queries by 64 keys that live in registers
// and shared memory alone: no matrix of queries by keys is stored.
//
// First the softmax of every (query, head) is found again: its largest score, its sum, and the mean of the
// gradients of its weights. Then queries' gradients go tile by tile of queries over the keys they see, and
// those of keys and values tile by tile of keys over the queries that see them; each makes the scores anew,
// so that nothing is added up across blocks. All products are those of grad_tile.h. A block holds up to kHeld
// blocks of 64 columns of gradients; more columns take more launches.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cuda/attention_gradient.h"

namespace moebius::cuda {
namespace {

using gradient::Gradient;
using gradient::HeldColumns;
using gradient::kHeld;
using gradient::What;

// Columns of a gradient with this many, in blocks.
void append(std::vector<gradient::Columns>& all, What what, const Tensor& wanted, int64_t columns) {
  for (int64_t first = 0; first < columns && !wanted.empty(); first += kGradLines)
    all.push_back({what, static_cast<int32_t>(first)});
}

template <class Launch>
void in_groups(const std::vector<gradient::Columns>& all, const Launch& launch_group) {
  for (size_t first = 0; first < all.size(); first += kHeld) {
    HeldColumns held;
    held.count = static_cast<int>(std::min<size_t>(kHeld, all.size() - first));
    std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(first), held.count, held.at);
    launch_group(held);
  }
}

gradient::Rows rows_of(const Tensor& t) {
  gradient::Rows rows;
  if (t.empty()) return rows;
  rows.at = t.f32(), rows.token = t.stride[0];
  rows.head = t.ndim == 3 ? t.stride[1] : 0;
  rows.columns = static_cast<int32_t>(t.shape[t.ndim - 1]);
  rows.wide = aligned16(t.data) && rows.token % 4 == 0 && rows.head % 4 == 0;
  return rows;
}

// Of each token: where its sequence begins and ends.
bool upload_bounds(Context& context, const AttentionBackwardArgs& args, Gradient& g) {
  std::vector<int32_t> bounds(static_cast<size_t>(2 * g.n));
  for (size_t i = 0; i + 1 < args.starts.size(); ++i) {
    for (int64_t t = args.starts[i]; t < args.starts[i + 1]; ++t) {
      bounds[static_cast<size_t>(t)] = static_cast<int32_t>(args.starts[i]);
      bounds[static_cast<size_t>(g.n + t)] = static_cast<int32_t>(args.starts[i + 1]);
    }
  }
  g.begin = context.upload(bounds.data(), 2 * g.n), g.end = g.begin + g.n;
  return g.begin != nullptr;
}

}  // namespace

// With p pairs of a query and a key that it sees, and d columns of keys or values: (8 d_k + 5 d_v) p heads
// products of numbers, six of the matrix units each. Moves q, k, v, dout and gradients once for every tile of
// 64 that meets them, all but the first from the cache.
void attention_backward(Context& context, const AttentionBackwardArgs& args) {
  Gradient g;
  MOEBIUS_CHECK(args.q.shape[0] <= INT32_MAX / 2 && args.q.shape[1] <= INT32_MAX, args.q.describe());
  g.n = static_cast<int32_t>(args.q.shape[0]), g.heads = static_cast<int32_t>(args.q.shape[1]);
  g.kv_heads = static_cast<int32_t>(args.k.shape[1]);
  if (g.n == 0 || g.heads == 0) return;
  const int64_t own = args.k.shape[2], rest = args.q.shape[2] - own, v_dim = args.v.shape[2];
  g.scale = args.scale;
  g.q = rows_of(args.q.slice(2, 0, own)), g.k = rows_of(args.k), g.v = rows_of(args.v);
  if (rest > 0) g.q_rest = rows_of(args.q.slice(2, own, rest)), g.shared = rows_of(args.shared);
  g.out = rows_of(args.out), g.dout = rows_of(args.dout);
  g.dq = rows_of(args.dq), g.dk = rows_of(args.dk), g.dv = rows_of(args.dv);
  g.stats = static_cast<gradient::Stats*>(
      context.scratch(int64_t{g.heads} * g.n * static_cast<int64_t>(sizeof(gradient::Stats))));
  if (!g.stats || !upload_bounds(context, args, g)) return;
  gradient::find_stats(context, g);
  if (!args.highest.empty()) gradient::raise_highest(context, g, args.highest.f32());

  std::vector<gradient::Columns> of_queries, of_keys;
  append(of_queries, What::kOwn, args.dq, own), append(of_queries, What::kRest, args.dq, rest);
  append(of_keys, What::kOwn, args.dk, own), append(of_keys, What::kRest, args.dshared, rest);
  append(of_keys, What::kValue, args.dv, v_dim);
  if (!args.dshared.empty()) {
    g.dshared = static_cast<float*>(
        context.scratch(int64_t{g.kv_heads} * g.n * rest * static_cast<int64_t>(sizeof(float))));
    if (!g.dshared) return;
  }
  in_groups(of_queries, [&](const HeldColumns& held) { gradient::pass_to_queries(context, g, held); });
  in_groups(of_keys, [&](const HeldColumns& held) { gradient::pass_to_keys(context, g, held); });
  if (!args.dshared.empty()) gradient::add_shared(context, g, args.dshared.f32(), args.dshared.stride[0]);
}

}  // namespace moebius::cuda
