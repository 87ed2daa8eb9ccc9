// The doors of the operations: every shape rule of ops.h, once for all backends.
#include <fmt/format.h>

#include "kernels/ops.h"
#include "kernels/shape_rules.h"

namespace moebius {
namespace {

bool is_cache(const CacheView& cache, int64_t positions) {
  return cache.base && cache.pages &&
         (cache.dtype == DType::kF32 || cache.dtype == DType::kBF16 || cache.dtype == DType::kI8) &&
         cache.page_tokens > 0 && cache.width > 0 && positions <= cache.capacity;
}

std::string describe_cache(const CacheView& cache) {
  return fmt::format("cache {} width {} page {} capacity {}", dtype_name(cache.dtype), cache.width,
                     cache.page_tokens, cache.capacity);
}

}  // namespace

void check_experts(const Tensor& ids, const ExpertWeights* experts, int64_t hidden, const std::string& what) {
  if (ids.space == Space::kDevice) return;
  for (int64_t t = 0; t < ids.shape[0]; ++t) {
    for (int64_t slot = 0; slot < ids.shape[1]; ++slot) {
      const int32_t id = ids.i32()[t * ids.stride[0] + slot];
      if (id < 0 || experts[id].elsewhere()) continue;
      const ExpertWeights& e = experts[id];
      MOEBIUS_CHECK(is_adaptable(e.gate, -1, hidden) && is_adaptable(e.up, e.gate.rows, hidden) &&
                        is_adaptable(e.down, hidden, e.gate.rows),
                    fmt::format("{}: expert {} gate {}, up {}, down {}", what, id, e.gate.describe(),
                                e.up.describe(), e.down.describe()));
    }
  }
}

void check(const EmbedArgs& a) {
  const auto describe = [&] {
    return fmt::format("embed: table {}, ids {}, out {}", a.table.describe(), a.ids.describe(),
                       a.out.describe());
  };
  MOEBIUS_NEED(is_matrix(a.table, -1, -1) && is_ids(a.ids, 1));
  MOEBIUS_NEED(is_f32(a.out, {a.ids.shape[0], a.table.cols}));
  MOEBIUS_NEED(ids_within(a.ids, 0, a.table.rows));
}

void check(const RmsNormArgs& a) {
  const auto describe = [&] {
    return fmt::format("rms_norm: x {}, weight {}, y {}", a.x.describe(), a.weight.describe(),
                       a.y.describe());
  };
  MOEBIUS_NEED(is_f32(a.x, {-1, -1}));
  MOEBIUS_NEED(is_f32(a.weight, {a.x.shape[1]}) && is_f32(a.y, {a.x.shape[0], a.x.shape[1]}));
}

void check(const LinearArgs& a) {
  const auto describe = [&] {
    return fmt::format("linear: w {}, x {}, bias {}, y {}", a.w.describe(), a.x.describe(), a.bias.describe(),
                       a.y.describe());
  };
  MOEBIUS_NEED(is_adaptable(a.w, -1, -1) && is_f32(a.x, {-1, a.w.cols}));
  MOEBIUS_NEED(is_f32(a.y, {a.x.shape[0], a.w.rows}));
  MOEBIUS_NEED(a.bias.empty() || is_f32(a.bias, {a.w.rows}));
}

void check(const AddAdapterArgs& a) {
  const auto describe = [&] {
    return fmt::format("add_adapter: a {}, b {}, x {}, y {}", a.lora.a.describe(), a.lora.b.describe(),
                       a.x.describe(), a.y.describe());
  };
  MOEBIUS_NEED(is_f32(a.x, {-1, -1}) && is_f32(a.y, {a.x.shape[0], -1}));
  MOEBIUS_NEED(fits(a.lora, a.y.shape[1], a.x.shape[1]) && !a.lora.merged);
}

void check(const RotaryArgs& a) {
  const auto describe = [&] {
    return fmt::format("rotary: x {}, cos {}, sin {}", a.x.describe(), a.cos.describe(), a.sin.describe());
  };
  MOEBIUS_NEED(is_f32(a.x, {-1, -1, -1}) && is_f32(a.cos, {a.x.shape[0], -1}));
  MOEBIUS_NEED(is_f32(a.sin, {a.x.shape[0], a.cos.shape[1]}));
  MOEBIUS_NEED(2 * a.cos.shape[1] <= a.x.shape[2]);
}

void check(const CacheWriteArgs& a) {
  const auto describe = [&] {
    return fmt::format("cache_write: x {}, {}, column {}, first {}", a.x.describe(), describe_cache(a.cache),
                       a.column, a.first);
  };
  MOEBIUS_NEED(is_f32(a.x, {-1, -1}) && a.first >= 0 && a.column >= 0);
  MOEBIUS_NEED(is_cache(a.cache, a.first + a.x.shape[0]));
  const int64_t end = a.column + a.x.shape[1];
  MOEBIUS_NEED(end <= a.cache.width);
  const auto is_edge = [&](int64_t column) { return column % kCacheGroup == 0 || column == a.cache.width; };
  MOEBIUS_NEED(a.cache.dtype != DType::kI8 || (is_edge(a.column) && is_edge(end)));
}

void check(const AttentionArgs& a) {
  const auto describe = [&] {
    return fmt::format("attention: q {}, {}, first {}, kv_heads {}, k {}+{}, v {}+{}, out {}", a.q.describe(),
                       describe_cache(a.cache), a.first, a.kv_heads, a.k_column, a.k_dim, a.v_column, a.v_dim,
                       a.out.describe());
  };
  MOEBIUS_NEED(is_f32(a.q, {-1, -1, a.k_dim}) && a.first >= 0);
  MOEBIUS_NEED(is_f32(a.out, {a.q.shape[0], a.q.shape[1], a.v_dim}));
  MOEBIUS_NEED(a.kv_heads > 0 && a.q.shape[1] % a.kv_heads == 0);
  MOEBIUS_NEED(is_cache(a.cache, a.first + a.q.shape[0]));
  MOEBIUS_NEED(a.k_column >= 0 && a.k_dim > 0 && a.k_column + a.kv_heads * a.k_dim <= a.cache.width);
  MOEBIUS_NEED(a.v_column >= 0 && a.v_dim > 0 && a.v_column + a.kv_heads * a.v_dim <= a.cache.width);
}

void check(const MlaPrefillArgs& a) {
  const auto describe = [&] {
    return fmt::format("mla_prefill: q {}, kv_b {}, {}, first {}, nope {}, rope {}, v_dim {}, out {}",
                       a.q.describe(), a.kv_b.describe(), describe_cache(a.cache), a.first, a.nope, a.rope,
                       a.v_dim, a.out.describe());
  };
  MOEBIUS_NEED(a.nope > 0 && a.rope >= 0 && a.v_dim > 0 && a.first >= 0);
  MOEBIUS_NEED(is_f32(a.q, {-1, -1, a.nope + a.rope}));
  MOEBIUS_NEED(is_f32(a.out, {a.q.shape[0], a.q.shape[1], a.v_dim}));
  MOEBIUS_NEED(is_matrix(a.kv_b, a.q.shape[1] * (a.nope + a.v_dim), -1));
  MOEBIUS_NEED(is_cache(a.cache, a.first + a.q.shape[0]) && a.kv_b.cols + a.rope <= a.cache.width);
}

void check(const MlaAbsorbArgs& a) {
  const auto describe = [&] {
    return fmt::format("mla_absorb: q {}, kv_b {}, nope {}, v_dim {}, y {}", a.q.describe(),
                       a.kv_b.describe(), a.nope, a.v_dim, a.y.describe());
  };
  MOEBIUS_NEED(a.nope >= 0 && a.v_dim >= 0 && is_f32(a.q, {-1, -1, -1}) && a.q.shape[2] >= a.nope);
  MOEBIUS_NEED(is_matrix(a.kv_b, a.q.shape[1] * (a.nope + a.v_dim), -1));
  MOEBIUS_NEED(is_f32(a.y, {a.q.shape[0], a.q.shape[1], a.kv_b.cols + a.q.shape[2] - a.nope}));
}

void check(const MlaValueArgs& a) {
  const auto describe = [&] {
    return fmt::format("mla_value: o {}, kv_b {}, nope {}, v_dim {}, out {}", a.o.describe(),
                       a.kv_b.describe(), a.nope, a.v_dim, a.out.describe());
  };
  MOEBIUS_NEED(a.nope >= 0 && a.v_dim >= 0 && is_f32(a.o, {-1, -1, a.kv_b.cols}));
  MOEBIUS_NEED(is_matrix(a.kv_b, a.o.shape[1] * (a.nope + a.v_dim), -1));
  MOEBIUS_NEED(is_f32(a.out, {a.o.shape[0], a.o.shape[1], a.v_dim}));
}

void check(const RouterArgs& a) {
  const auto describe = [&] {
    return fmt::format("router: x {}, gate {}, bias {}, n_experts {}, groups {}/{}, ids {}, weights {}",
                       a.x.describe(), a.gate.describe(), a.bias.describe(), a.n_experts, a.topk_group,
                       a.n_group, a.ids.describe(), a.weights.describe());
  };
  MOEBIUS_NEED(is_f32(a.x, {-1, -1}) && is_matrix(a.gate, -1, a.x.shape[1]));
  MOEBIUS_NEED(a.n_experts >= 0 && a.n_experts <= a.gate.rows);
  MOEBIUS_NEED(a.bias.empty() || is_f32(a.bias, {a.gate.rows}));
  MOEBIUS_NEED(is_ids(a.ids, 2) && a.ids.shape[0] == a.x.shape[0] && a.ids.shape[1] <= a.gate.rows);
  MOEBIUS_NEED(is_f32(a.weights, {a.ids.shape[0], a.ids.shape[1]}));
  MOEBIUS_NEED(a.chosen.empty() || (is_ids(a.chosen, 2) && a.chosen.shape[0] == a.ids.shape[0] &&
                                    a.chosen.shape[1] == a.ids.shape[1]));
  MOEBIUS_NEED(a.forced.empty() ||
               (is_ids(a.forced, 2) && a.forced.shape[0] == a.ids.shape[0] &&
                a.forced.shape[1] == a.ids.shape[1] && ids_within(a.forced, 0, a.gate.rows)));
  MOEBIUS_NEED(a.n_group > 0 && a.topk_group > 0 && a.topk_group <= a.n_group);
  if (a.group_score != GroupScore::kNone) MOEBIUS_NEED(a.gate.rows % a.n_group == 0);
}

void check(const ExpertFfnArgs& a) {
  const auto describe = [&] {
    return fmt::format("expert_ffn: x {}, {} experts, ids {}, slots {}", a.x.describe(), a.n_experts,
                       a.ids.describe(), a.slots.describe());
  };
  MOEBIUS_NEED(is_f32(a.x, {-1, -1}) && is_ids(a.ids, 2) && a.ids.shape[0] == a.x.shape[0]);
  const int64_t hidden = a.x.shape[1];
  MOEBIUS_NEED(is_f32(a.slots, {a.ids.shape[0], a.ids.shape[1], hidden}));
  MOEBIUS_NEED(a.n_experts >= 0 && ids_within(a.ids, -1, a.n_experts));
  check_experts(a.ids, a.experts, hidden, describe());
}

void check(const TakeSlotsArgs& a) {
  const auto describe = [&] {
    return fmt::format("take_slots: from {}, {} experts, ids {}, slots {}", a.from.describe(), a.n_experts,
                       a.ids.describe(), a.slots.describe());
  };
  MOEBIUS_NEED(is_f32(a.from, {-1, -1, -1}) && is_ids(a.ids, 2));
  MOEBIUS_NEED(a.ids.shape[0] == a.from.shape[0] && a.ids.shape[1] == a.from.shape[1]);
  MOEBIUS_NEED(is_f32(a.slots, {a.from.shape[0], a.from.shape[1], a.from.shape[2]}));
  MOEBIUS_NEED(a.n_experts >= 0 && ids_within(a.ids, -1, a.n_experts));
}

void check(const CombineArgs& a) {
  const auto describe = [&] {
    return fmt::format("combine: slots {}, ids {}, weights {}, y {}", a.slots.describe(), a.ids.describe(),
                       a.weights.describe(), a.y.describe());
  };
  MOEBIUS_NEED(is_f32(a.slots, {-1, -1, -1}) && is_ids(a.ids, 2));
  MOEBIUS_NEED(a.ids.shape[0] == a.slots.shape[0] && a.ids.shape[1] == a.slots.shape[1]);
  MOEBIUS_NEED(empty_or_f32(a.weights, {a.ids.shape[0], a.ids.shape[1]}));
  MOEBIUS_NEED(is_f32(a.y, {a.slots.shape[0], a.slots.shape[2]}));
}

void check(const SwigluArgs& a) {
  const auto describe = [&] {
    return fmt::format("swiglu: gate {}, up {}, y {}", a.gate.describe(), a.up.describe(), a.y.describe());
  };
  MOEBIUS_NEED(is_f32(a.gate, {-1, -1}));
  MOEBIUS_NEED(is_f32(a.up, {a.gate.shape[0], a.gate.shape[1]}));
  MOEBIUS_NEED(is_f32(a.y, {a.gate.shape[0], a.gate.shape[1]}));
}

}  // namespace moebius
