// Cases of the router, the routed experts and what adds them up.
#pragma once

#include "tests/op_cases_attention.h"
#include "tests/op_cases_matrix.h"

namespace moebius::test {

// ---- expert_ffn ----

struct ExpertShape {
  Format up = Format::kF32, down = Format::kF32;
  int64_t n = 1, k = 1, experts = 1, hidden = 1, width = 1;
  double masked = 0;    // share of slots that are -1
  bool ragged = false;  // widths from 0 to `width`
  bool exact = false;
  int64_t rank = 0;        // of adapters on most matrices
  bool elsewhere = false;  // every other expert is on another device
  std::string name() const {
    return fmt::format("{}/{} n={} k={} experts={} hidden={} width={} rank={}{}{}{}{}", format_name(up),
                       format_name(down), n, k, experts, hidden, width, rank, masked > 0 ? " masked" : "",
                       ragged ? " ragged" : "", exact ? " exact" : "", elsewhere ? " elsewhere" : "");
  }
};

inline double silu(double x) { return x / (1 + std::exp(-x)); }

// Bounds of one slot. gate and up err as any product; |silu'| <= 1.1; exp, sum, quotient and product round
// within 4 units on either side; down errs as any product, and carries h's error. rounded: h is to int8, and
// an error may move it by a step.
inline void expert_bound(const ExpertWeights& e, const float* x, bool rounded, double* bound) {
  const int64_t width = e.gate.rows;
  std::vector<double> h(static_cast<size_t>(width)), error(h);
  for (int64_t i = 0; i < width; ++i) {
    const Product gate = adapted_dot(e.gate, i, x), up = adapted_dot(e.up, i, x);
    const double gate_error = gate.error, up_error = up.error;
    const double s = std::fabs(silu(gate.value)), u = std::fabs(up.value);
    h[static_cast<size_t>(i)] = s * u;
    error[static_cast<size_t>(i)] = 1.1 * gate_error * (u + up_error) + s * up_error +
                                    2 * gamma(8) * (s + 1.1 * gate_error) * (u + up_error);
  }
  for (int64_t first = 0; first < width && rounded; first += kActivationGroup) {
    const int64_t last = std::min(width, first + kActivationGroup);
    const double largest = *std::max_element(h.begin() + first, h.begin() + last);
    for (int64_t i = first; i < last; ++i) error[static_cast<size_t>(i)] += 1.1 * largest / 127;
  }
  for (int64_t r = 0; r < e.down.rows; ++r) {
    double carried = 0, magnitude = 0;
    const int64_t rank = e.down.adapted() ? e.down.lora->a.shape[0] : 0;
    for (int64_t i = 0; i < width; ++i) {
      double w = std::fabs(element_of(e.down, r, i));
      for (int64_t k = 0; k < rank; ++k)
        w += std::fabs(static_cast<double>(e.down.lora->scale) * e.down.lora->b.f32()[r * rank + k] *
                       e.down.lora->a.f32()[k * width + i]);
      carried += w * error[static_cast<size_t>(i)];
      magnitude += w * (h[static_cast<size_t>(i)] + error[static_cast<size_t>(i)]);
    }
    bound[r] = carried + apart(width + rank + (rank ? 2 : 0), magnitude);
  }
}

inline Case<ExpertFfnArgs> expert_case(const ExpertShape& shape, Mode mode) {
  Case<ExpertFfnArgs> c;
  ExpertFfnArgs& a = c.args;
  a.n_experts = shape.experts;
  a.x = c.arena.matrix(shape.n, shape.hidden, 1, -2, 2);
  ExpertWeights* experts = c.arena.take<ExpertWeights>(shape.experts);
  double bytes = 0;
  for (int64_t e = 0; e < shape.experts; ++e) {
    const int64_t width = !shape.ragged ? shape.width : e == 0 ? 0 : 1 + c.arena.below(shape.width);
    experts[e] = ExpertWeights{arena_matrix(c.arena, {shape.up, width, shape.hidden}),
                               arena_matrix(c.arena, {shape.up, width, shape.hidden}),
                               arena_matrix(c.arena, {shape.down, shape.hidden, width})};
    int64_t place = e;
    for (Matrix* w : {&experts[e].gate, &experts[e].up, &experts[e].down})
      if (shape.rank > 0 && ++place % 4 > 0) adapt(c.arena, *w, shape.rank + place, place == 3);
  }
  if (shape.elsewhere)
    for (int64_t e = 0; e < shape.experts; e += 2) experts[e] = ExpertWeights();
  a.experts = experts;
  int32_t* ids = c.arena.take<int32_t>(shape.n * shape.k);
  std::vector<bool> used(static_cast<size_t>(shape.experts));
  for (int64_t i = 0; i < shape.n * shape.k; ++i) {
    ids[i] = c.arena.uniform(0, 1) < shape.masked ? -1 : static_cast<int32_t>(c.arena.below(shape.experts));
    if (ids[i] < 0 || used[static_cast<size_t>(ids[i])]) continue;
    used[static_cast<size_t>(ids[i])] = true;
    const ExpertWeights& e = experts[ids[i]];
    bytes += static_cast<double>(e.gate.bytes() + e.up.bytes() + e.down.bytes());
  }
  a.ids = Tensor(ids, DType::kI32, {shape.n, shape.k});
  a.slots = f32_tensor(c.arena.floats(shape.n * shape.k * shape.hidden), {shape.n, shape.k, shape.hidden});
  c.exact_activations = shape.exact;
  c.also_onednn = shape.exact || (!is_integer(shape.up) && !is_integer(shape.down));
  c.outputs = {output_of("slots", a.slots)};
  c.bytes = bytes;
  c.flops = 6.0 * static_cast<double>(shape.n * shape.k * shape.hidden * shape.width);
  const bool alone = is_integer(shape.up) && is_integer(shape.down) && !shape.exact;
  if (alone) {
    c.part = [](const ExpertFfnArgs& args, int64_t begin, int64_t count) {
      ExpertFfnArgs part = args;
      part.x = args.x.rows(begin, count), part.ids = args.ids.rows(begin, count);
      part.slots = args.slots.rows(begin, count);
      return part;
    };
    c.tokens = shape.n;
  }
  if (mode == Mode::kTest && (!alone || shape.rank > 0)) {
    c.outputs[0].bound.assign(static_cast<size_t>(c.outputs[0].count), 0.0);
    for (int64_t i = 0; i < shape.n * shape.k; ++i)
      if (ids[i] >= 0)
        expert_bound(experts[ids[i]], a.x.f32() + i / shape.k * a.x.stride[0], alone,
                     &c.outputs[0].bound[static_cast<size_t>(i * shape.hidden)]);
  }
  return c;
}

inline void expert_ffn_cases(Mode mode, const Add<ExpertFfnArgs>& add) {
  const auto at = [&](const ExpertShape& shape) {
    add(shape.name(), [=] { return expert_case(shape, mode); });
  };
  for (const Format f : kEveryFormat) {
    if (mode == Mode::kPerf) {
      for (const int64_t n : {1, 16, 128, 512}) at({f, f, n, 4, 16, 2048, 1408});
      continue;
    }
    for (const bool exact : {false, true}) {
      if (exact && !is_integer(f)) continue;
      at({f, f, 1, 1, 1, 1, 1, 0, false, exact});
      at({f, f, 1, 8, 12, 96, 40, 0.4, true, exact});
      at({f, f, 5, 3, 4, 100, 33, 0.3, false, exact});
      at({f, f, 3, 2, 4, 64, 32, 1, false, exact});
      at({f, f, 40, 2, 3, 70, 72, 0.2, true, exact});
      at({f, f, 90, 2, 3, 130, 140, 0.1, true, exact});
      at({f, f, 1, 3, 4, 40, 24, 0.2, true, exact, 2});
      at({f, f, 6, 2, 3, 33, 40, 0.2, true, exact, 3});
      at({f, f, 150, 2, 3, 70, 40, 0.1, false, exact, 4});
      at({f, f, 40, 3, 5, 70, 40, 0.1, false, exact, 0, true});
      at({f, f, 90, 2, 4, 160, 128, 0.2, true, exact});       // whole tiles of AMX, but FP8's gate and up
      at({f, f, 150, 1, 1, 128, 256, 0.1, false, exact, 3});  // and several passes of tokens
    }
  }
  if (mode == Mode::kPerf) return;
  at({Format::kF32, Format::kF32, 1300, 2, 2, 40, 24, 0.1, false, false,
      3});  // several tasks of several chunks
  at({Format::kBF16, Format::kBF16, 64, 1, 1, 520, 512, 0, false, false, 2});  // too large for chunks
  at({Format::kInt4, Format::kInt8, 7, 3, 5, 100, 48, 0.2, true, false});
  at({Format::kBF16, Format::kFp8Block, 60, 2, 2, 140, 48, 0.2, true, false});
}

// ---- router ----

struct RouterShape {
  int64_t n, experts, zeros, k;
  Scoring scoring = Scoring::kSoftmax;
  GroupScore group_score = GroupScore::kNone;
  int64_t groups = 1, top_groups = 1;
  bool bias = false, normalize = false;
  Format format = Format::kF32;
  // 1: all logits equal, 2: every row twice, 3: NaN in some tokens, 4: huge logits, 5: all hugely negative
  int odd = 0;
  int64_t hidden = 48;
  float skip_below = 0, skip_odd_below = 0;
  bool forced = false;
  std::string name() const {
    return fmt::format(
        "n={} experts={}+{} k={} scoring={} groups={}:{}/{} bias={} normalize={} {} odd={}{}{}{}", n, experts,
        zeros, k, static_cast<int>(scoring), static_cast<int>(group_score), top_groups, groups, bias,
        normalize, format_name(format), odd, skip_below > 0 ? fmt::format(" skip={}", skip_below) : "",
        skip_odd_below > 0 ? fmt::format(" skip odd={}", skip_odd_below) : "", forced ? " forced" : "");
  }
};

// x and gate are whole numbers times powers of two, small enough that a logit is exact in any order of
// summation: the choice of experts, ties included, is then the same for every correct implementation. A
// weight is a quotient of sums of at most rows + k exponentials (2 units in the last place), on either side.
inline Case<RouterArgs> router_case(const RouterShape& s) {
  Case<RouterArgs> c;
  RouterArgs& a = c.args;
  const int64_t rows = s.experts + s.zeros, hidden = s.hidden;
  a.x = c.arena.matrix(s.n, hidden, 3);
  for (int64_t i = 0; i < s.n * (hidden + 3); ++i)
    a.x.f32()[i] =
        s.odd == 1 ? 0.0f : static_cast<float>(c.arena.below(9) - 4) * (s.odd == 4 ? 64.0f : 0.25f);
  if (s.odd == 3)
    for (int64_t t = 0; t < s.n; t += 2) a.x.f32()[t * (hidden + 3) + t % hidden] = NAN;
  std::vector<int> gate(static_cast<size_t>(rows * hidden));
  for (int& g : gate) g = static_cast<int>(c.arena.below(9)) - 4;
  if (s.odd == 5) {
    std::fill_n(a.x.f32(), s.n * (hidden + 3), -64.0f);
    for (int& g : gate) g = 1 + std::abs(g);
  }
  for (int64_t r = 1; s.odd == 2 && r < rows; r += 2)
    std::copy_n(gate.begin() + (r - 1) * hidden, hidden, gate.begin() + r * hidden);
  a.gate = {s.format, rows, hidden};
  if (s.format == Format::kInt8) {
    uint8_t* data = c.arena.take<uint8_t>(rows * hidden);
    float* scales = c.arena.take<float>(rows * 2);
    for (size_t i = 0; i < gate.size(); ++i) data[i] = static_cast<uint8_t>(gate[i] + 128);
    std::fill_n(scales, rows * 2, 0.25f);
    a.gate.data = data, a.gate.scales = scales, a.gate.group = 32;
  } else if (s.format == Format::kBF16) {
    uint16_t* data = c.arena.take<uint16_t>(rows * hidden);
    for (size_t i = 0; i < gate.size(); ++i) data[i] = f32_to_bf16(static_cast<float>(gate[i]) * 0.25f);
    a.gate.data = data;
  } else {
    float* data = c.arena.take<float>(rows * hidden);
    for (size_t i = 0; i < gate.size(); ++i) data[i] = static_cast<float>(gate[i]) * 0.25f;
    a.gate.data = data;
  }
  if (s.bias) {
    float* bias = c.arena.take<float>(rows);
    for (int64_t r = 0; r < rows; ++r) bias[r] = static_cast<float>(c.arena.below(65) - 32) / 64.0f;
    a.bias = f32_tensor(bias, {rows});
  }
  a.scoring = s.scoring, a.group_score = s.group_score, a.n_experts = s.experts;
  a.n_group = s.groups, a.topk_group = s.top_groups, a.normalize = s.normalize, a.scale = 2.5f;
  a.skip_below = s.skip_below, a.skip_odd_below = s.skip_odd_below;
  if (s.forced) {
    int32_t* forced = c.arena.take<int32_t>(s.n * (s.k + 3));
    for (int64_t i = 0; i < s.n * (s.k + 3); ++i) forced[i] = static_cast<int32_t>(c.arena.below(rows));
    a.forced = Tensor(forced, DType::kI32, {s.n, s.k});
    a.forced.stride[0] = s.k + 3;
  }
  a.ids = Tensor(c.arena.take<int32_t>(s.n * (s.k + 1)), DType::kI32, {s.n, s.k});
  a.ids.stride[0] = s.k + 1;
  a.weights = c.arena.matrix(s.n, s.k, 2);
  a.chosen = Tensor(c.arena.take<int32_t>(s.n * (s.k + 2)), DType::kI32, {s.n, s.k});
  a.chosen.stride[0] = s.k + 2;
  c.outputs = {output_of("ids", a.ids), output_of("weights", a.weights), output_of("chosen", a.chosen)};
  c.outputs[1].relative = 2 * gamma(static_cast<double>(2 * (rows + s.k) + 16));
  c.part = part_of<RouterArgs>(
      {&RouterArgs::x, &RouterArgs::ids, &RouterArgs::weights, &RouterArgs::chosen, &RouterArgs::forced});
  c.tokens = s.n;
  c.bytes = static_cast<double>(a.gate.bytes()), c.flops = 2.0 * static_cast<double>(s.n * rows * hidden);
  return c;
}

inline void router_cases(Mode mode, const Add<RouterArgs>& add) {
  const auto at = [&](const RouterShape& s) { add(s.name(), [=] { return router_case(s); }); };
  constexpr Scoring kSoftmax = Scoring::kSoftmax, kSigmoid = Scoring::kSigmoid;
  constexpr GroupScore kNone = GroupScore::kNone, kMax = GroupScore::kMax, kTop2 = GroupScore::kTop2Sum;
  if (mode == Mode::kPerf) {
    RouterShape shape = {1, 256, 0, 8};
    shape.hidden = 7168;
    at(shape);
    shape.n = 256;
    at(shape);
    return;
  }
  for (const int64_t n : kTokenCounts) {
    at({n, 64, 0, 6});
    at({n, 64, 32, 4, kSigmoid, kNone, 1, 1, true, true});
    at({n, 32, 0, 8, kSigmoid, kTop2, 8, 4, true, true, Format::kBF16});
    at({n, 33, 0, 3, kSoftmax, kMax, 11, 3});
  }
  for (const Format format : {Format::kF32, Format::kBF16, Format::kInt8})
    for (const int odd : {0, 1, 2, 3, 4, 5}) {
      at({5, 24, 12, 6, kSoftmax, kNone, 1, 1, false, true, format, odd});
      at({5, 24, 12, 36, kSigmoid, kNone, 1, 1, true, false, format, odd});  // every row is chosen
      at({5, 24, 0, 4, kSigmoid, kTop2, 6, 2, true, true, format, odd});
      at({5, 24, 0, 4, kSoftmax, kMax, 4, 1, false, false, format, odd});
      at({5, 8, 0, 2, kSigmoid, kTop2, 8, 3, true, true, format, odd});  // groups of one
    }
  // Shares of the sum are quotients of exponentials of multiples of 1/16: none is within rounding of these.
  for (const float skip_below : {0.07f, 0.31f}) {
    for (const bool normalize : {false, true}) {
      RouterShape shape = {9, 24, 12, 6, kSoftmax, kNone, 1, 1, false, normalize};
      shape.skip_below = skip_below;
      at(shape);
      shape.scoring = kSigmoid, shape.bias = true, shape.format = Format::kBF16;
      at(shape);
      shape.skip_odd_below = 0.21f;  // above one of the two, below the other
      at(shape);
    }
  }
  for (const int64_t n : kTokenCounts) {
    RouterShape shape = {n, 24, 12, 6, kSigmoid, kTop2, 6, 2, true, true};
    shape.forced = true;
    at(shape);
  }
  at({2, 1, 0, 1});
  at({2, 0, 3, 2});  // nothing but zero experts
}

// ---- combine ----

inline Case<CombineArgs> combine_case(int64_t n, int64_t k, int64_t hidden, bool aligned,
                                      bool weighted = true) {
  Case<CombineArgs> c;
  const int64_t slot = hidden + (aligned ? 4 : 1);
  const Tensor slots = c.arena.matrix(n, k * slot, aligned ? 8 : 2);
  c.args.slots = f32_tensor(slots.f32(), {n, k, hidden});
  c.args.slots.stride[0] = slots.stride[0], c.args.slots.stride[1] = slot;
  int32_t* ids = c.arena.take<int32_t>(n * k);
  for (int64_t i = 0; i < n * k; ++i) ids[i] = static_cast<int32_t>(c.arena.below(6)) - 1;
  std::fill_n(ids, k, n > 1 ? -1 : 3);  // a token without experts
  for (int64_t t = 0; t < n; ++t)       // what stands in unused slots must not be looked at
    for (int64_t s = 0; s < k; ++s)
      if (ids[t * k + s] < 0) std::fill_n(slots.f32() + t * slots.stride[0] + s * slot, hidden, NAN);
  c.args.ids = Tensor(ids, DType::kI32, {n, k});
  if (weighted) c.args.weights = c.arena.matrix(n, k, 1);
  c.args.y = c.arena.matrix(n, hidden, aligned ? 4 : 3);
  c.outputs = {output_of("y", c.args.y)};
  c.part =
      part_of<CombineArgs>({&CombineArgs::slots, &CombineArgs::ids, &CombineArgs::weights, &CombineArgs::y});
  c.tokens = n;
  c.bytes = static_cast<double>(n * (k + 2) * hidden * 4), c.flops = static_cast<double>(2 * n * k * hidden);
  return c;
}

inline void combine_cases(Mode mode, const Add<CombineArgs>& add) {
  const auto at = [&](int64_t n, int64_t k, int64_t hidden, bool aligned = false) {
    add(fmt::format("n={} k={} hidden={}{}", n, k, hidden, aligned ? " aligned" : ""),
        [=] { return combine_case(n, k, hidden, aligned); });
  };
  if (mode == Mode::kPerf) return at(1, 8, 7168, true), at(256, 8, 7168, true);
  for (const int64_t hidden : {4, 64, 2052}) at(5, 6, hidden, true);
  for (const int64_t hidden : {9, 64})
    add(fmt::format("n=5 k=6 hidden={} unweighted", hidden),
        [=] { return combine_case(5, 6, hidden, hidden == 64, false); });
  for (const int64_t n : kTokenCounts)
    for (const int64_t k : {1, 6, 20})
      for (const int64_t hidden : {1, 9, 64, 2051}) at(n, k, hidden);
}

// ---- take_slots ----

inline Case<TakeSlotsArgs> take_slots_case(int64_t n, int64_t k, int64_t hidden, bool aligned) {
  constexpr int64_t kExperts = 6;
  Case<TakeSlotsArgs> c;
  const Tensor from = c.arena.matrix(n, k * hidden, aligned ? 4 : 2);
  const Tensor slots = c.arena.matrix(n, k * hidden, aligned ? 8 : 5);
  c.args.from = f32_tensor(from.f32(), {n, k, hidden}),
  c.args.slots = f32_tensor(slots.f32(), {n, k, hidden});
  c.args.from.stride[0] = from.stride[0], c.args.slots.stride[0] = slots.stride[0];
  ExpertWeights* experts = c.arena.take<ExpertWeights>(kExperts);
  for (int64_t e = 0; e < kExperts; ++e) {
    experts[e] = ExpertWeights();
    experts[e].gate.cols = e % 2;  // none: it is elsewhere
  }
  c.args.experts = experts, c.args.n_experts = kExperts;
  int32_t* ids = c.arena.take<int32_t>(n * k);
  for (int64_t i = 0; i < n * k; ++i) ids[i] = static_cast<int32_t>(c.arena.below(kExperts + 1)) - 1;
  c.args.ids = Tensor(ids, DType::kI32, {n, k});
  c.outputs = {output_of("slots", slots)};
  c.part = part_of<TakeSlotsArgs>({&TakeSlotsArgs::from, &TakeSlotsArgs::ids, &TakeSlotsArgs::slots});
  c.tokens = n;
  c.bytes = static_cast<double>(n * k * hidden * 8);
  return c;
}

inline void take_slots_cases(Mode mode, const Add<TakeSlotsArgs>& add) {
  const auto at = [&](int64_t n, int64_t k, int64_t hidden, bool aligned = false) {
    add(fmt::format("n={} k={} hidden={}{}", n, k, hidden, aligned ? " aligned" : ""),
        [=] { return take_slots_case(n, k, hidden, aligned); });
  };
  if (mode == Mode::kPerf) return at(1, 8, 7168, true), at(256, 8, 7168, true);
  for (const int64_t hidden : {4, 64, 2052}) at(5, 6, hidden, true);
  for (const int64_t n : kTokenCounts)
    for (const int64_t k : {1, 6})
      for (const int64_t hidden : {1, 9, 64}) at(n, k, hidden);
}

}  // namespace moebius::test
