// The doors of the backward operations. A backward has the shapes of its forward, so what its forward's door
// knows is asked there.
#include <algorithm>

#include <fmt/format.h>

#include "kernels/grad_ops.h"
#include "kernels/shape_rules.h"

namespace moebius {
namespace {

// I32 [n, k] or [n], each in [lowest, limit).
bool are_ids(const Tensor& t, std::initializer_list<int64_t> dims, int32_t lowest, int64_t limit) {
  if (!is_ids(t, static_cast<int>(dims.size()))) return false;
  int i = 0;
  for (const int64_t dim : dims)
    if (t.shape[i++] != dim) return false;
  return ids_within(t, lowest, limit);
}

// Ascending from 0 to n.
bool are_starts(std::span<const int64_t> starts, int64_t n) {
  if (starts.empty() || starts.front() != 0 || starts.back() != n) return false;
  return std::is_sorted(starts.begin(), starts.end());
}

}  // namespace

void check(const RmsNormBackwardArgs& a) {
  const auto describe = [&] {
    return fmt::format("rms_norm_backward: x {}, dx {}, dweight {}", a.x.describe(), a.dx.describe(),
                       a.dweight.describe());
  };
  check(RmsNormArgs{a.x, a.weight, a.eps, a.dy});
  MOEBIUS_NEED(empty_or_f32(a.dx, {a.x.shape[0], a.x.shape[1]}));
  MOEBIUS_NEED(empty_or_f32(a.dweight, {a.x.shape[1]}));
}

void check(const LinearBackwardArgs& a) {
  const auto describe = [&] {
    return fmt::format("linear_backward: w {}, x {}, dy {}, dx {}, dw {}, dbias {}", a.w.describe(),
                       a.x.describe(), a.dy.describe(), a.dx.describe(), a.dw.describe(), a.dbias.describe());
  };
  const int64_t n = a.dy.shape[0], rows = a.dy.shape[1];
  MOEBIUS_NEED(is_f32(a.dy, {n, rows}));
  if (!a.dx.empty()) check(LinearArgs{a.w, a.dx, {}, a.dy});
  const Lora* lora = a.w.lora;
  if (lora) MOEBIUS_NEED(is_adaptable(a.w, rows, -1));
  if (!a.dw.empty()) {
    const int64_t cols = a.dw.shape[1];
    MOEBIUS_NEED(is_f32(a.dw, {rows, cols}) && is_f32(a.x, {n, cols}));
    MOEBIUS_NEED((a.dx.empty() && !lora) || a.w.cols == cols);
  }
  if (lora && (!lora->da.empty() || !lora->db.empty())) MOEBIUS_NEED(is_f32(a.x, {n, a.w.cols}));
  MOEBIUS_NEED(empty_or_f32(a.dbias, {rows}));
}

void check(const SwigluBackwardArgs& a) {
  const auto describe = [&] {
    return fmt::format("swiglu_backward: gate {}, dgate {}, dup {}", a.gate.describe(), a.dgate.describe(),
                       a.dup.describe());
  };
  check(SwigluArgs{a.gate, a.up, a.dy});
  MOEBIUS_NEED(empty_or_f32(a.dgate, {a.gate.shape[0], a.gate.shape[1]}));
  MOEBIUS_NEED(empty_or_f32(a.dup, {a.gate.shape[0], a.gate.shape[1]}));
  MOEBIUS_NEED(a.dgate.empty() || a.dgate.data != a.dup.data);
}

void check(const AttentionBackwardArgs& a) {
  const auto describe = [&] {
    return fmt::format(
        "attention_backward: q {}, k {}, shared {}, v {}, {} starts, out {}, dout {}, dq {}, dk {}, "
        "dshared {}, dv {}, highest {}",
        a.q.describe(), a.k.describe(), a.shared.describe(), a.v.describe(), a.starts.size(),
        a.out.describe(), a.dout.describe(), a.dq.describe(), a.dk.describe(), a.dshared.describe(),
        a.dv.describe(), a.highest.describe());
  };
  const int64_t n = a.q.shape[0], heads = a.q.shape[1], kv_heads = a.k.shape[1], own = a.k.shape[2];
  const int64_t rest = a.q.shape[2] - own, v_dim = a.v.shape[2];
  MOEBIUS_NEED(is_f32(a.q, {n, heads, own + rest}) && rest >= 0 && own + rest > 0);
  MOEBIUS_NEED(kv_heads > 0 && heads % kv_heads == 0);
  MOEBIUS_NEED(is_f32(a.k, {n, kv_heads, own}) && is_f32(a.v, {n, kv_heads, v_dim}));
  MOEBIUS_NEED(n == 0 || a.shared.empty() == (rest == 0));
  MOEBIUS_NEED(empty_or_f32(a.shared, {n, rest}));
  MOEBIUS_NEED(is_f32(a.out, {n, heads, v_dim}) && is_f32(a.dout, {n, heads, v_dim}));
  MOEBIUS_NEED(empty_or_f32(a.dq, {n, heads, own + rest}) && empty_or_f32(a.dk, {n, kv_heads, own}));
  MOEBIUS_NEED(empty_or_f32(a.dshared, {n, rest}) && empty_or_f32(a.dv, {n, kv_heads, v_dim}));
  MOEBIUS_NEED(are_starts(a.starts, n) && empty_or_f32(a.highest, {heads}));
}

void check(const RouterBackwardArgs& a) {
  const auto describe = [&] {
    return fmt::format("router_backward: logits {}, ids {}, dweights {}, n_experts {}, dlogits {}",
                       a.logits.describe(), a.ids.describe(), a.dweights.describe(), a.n_experts,
                       a.dlogits.describe());
  };
  const int64_t n = a.logits.shape[0], rows = a.logits.shape[1], k = a.ids.shape[1];
  MOEBIUS_NEED(is_f32(a.logits, {n, rows}) && is_f32(a.dlogits, {n, rows}));
  MOEBIUS_NEED(a.n_experts >= 0 && a.n_experts <= rows && k <= rows);
  MOEBIUS_NEED(are_ids(a.ids, {n, k}, 0, rows) && is_f32(a.dweights, {n, k}));
}

void check(const BalanceBackwardArgs& a) {
  const auto describe = [&] {
    return fmt::format("balance_backward: logits {}, ids {}, {} starts, dlogits {}", a.logits.describe(),
                       a.ids.describe(), a.starts.size(), a.dlogits.describe());
  };
  const int64_t n = a.logits.shape[0], rows = a.logits.shape[1];
  MOEBIUS_NEED(is_f32(a.logits, {n, rows}) && is_f32(a.dlogits, {n, rows}));
  MOEBIUS_NEED(a.ids.shape[1] >= 1 && are_ids(a.ids, {n, a.ids.shape[1]}, 0, rows));
  MOEBIUS_NEED(are_starts(a.starts, n));
  MOEBIUS_NEED(a.zero_weight == 0 || (a.zero_weight > 0 && a.n_experts > 0 && a.n_experts < rows));
}

void check(const ExpertFfnBackwardArgs& a) {
  const auto describe = [&] {
    return fmt::format(
        "expert_ffn_backward: x {}, {} experts, ids {}, weights {}, dy {}, dslots {}, dweights {}",
        a.x.describe(), a.n_experts, a.ids.describe(), a.weights.describe(), a.dy.describe(),
        a.dslots.describe(), a.dweights.describe());
  };
  MOEBIUS_NEED(is_f32(a.x, {-1, -1}) && is_ids(a.ids, 2) && a.ids.shape[0] == a.x.shape[0]);
  const int64_t n = a.x.shape[0], hidden = a.x.shape[1], k = a.ids.shape[1];
  MOEBIUS_NEED(is_f32(a.weights, {n, k}) && is_f32(a.dy, {n, hidden}));
  MOEBIUS_NEED(empty_or_f32(a.dslots, {n, k, hidden}) && empty_or_f32(a.dweights, {n, k}));
  MOEBIUS_NEED(a.n_experts >= 0 && ids_within(a.ids, -1, a.n_experts));
  check_experts(a.ids, a.experts, hidden, describe());
  for (int64_t e = 0; e < a.n_experts && a.gradients; ++e) {
    if (a.experts[e].elsewhere()) continue;
    const ExpertGradients& g = a.gradients[e];
    const int64_t width = a.experts[e].gate.rows;
    MOEBIUS_CHECK(empty_or_f32(g.gate, {width, hidden}) && empty_or_f32(g.up, {width, hidden}) &&
                      empty_or_f32(g.down, {hidden, width}),
                  fmt::format("{}: expert {} of width {}: dgate {}, dup {}, ddown {}", describe(), e, width,
                              g.gate.describe(), g.up.describe(), g.down.describe()));
  }
}

void check(const CrossEntropyArgs& a) {
  const auto describe = [&] {
    return fmt::format("cross_entropy: logits {}, targets {}, weights {}, loss {}, hits {}",
                       a.logits.describe(), a.targets.describe(), a.weights.describe(), a.loss.describe(),
                       a.hits.describe());
  };
  const int64_t n = a.logits.shape[0], vocab = a.logits.shape[1];
  MOEBIUS_NEED(is_f32(a.logits, {n, vocab}) && are_ids(a.targets, {n}, -1, vocab));
  MOEBIUS_NEED(empty_or_f32(a.weights, {n}) && is_f32(a.loss, {n}));
  MOEBIUS_NEED(a.hits.empty() || (is_ids(a.hits, 1) && a.hits.shape[0] == n));
}

void check(const EmbedBackwardArgs& a) {
  const auto describe = [&] {
    return fmt::format("embed_backward: ids {}, dy {}, dtable {}", a.ids.describe(), a.dy.describe(),
                       a.dtable.describe());
  };
  const int64_t n = a.dy.shape[0], vocab = a.dtable.shape[0], hidden = a.dtable.shape[1];
  MOEBIUS_NEED(is_f32(a.dy, {n, hidden}) && is_f32(a.dtable, {vocab, hidden}));
  MOEBIUS_NEED(are_ids(a.ids, {n}, 0, vocab));
}

}  // namespace moebius
