// Cases of embed, linear, the expert feed-forward and the projections of absorbed MLA for op_test.
#pragma once

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tests/op_cases.h"
#include "tests/random_matrix.h"

namespace moebius::test {

inline constexpr Format kEveryFormat[] = {Format::kF32,      Format::kBF16, Format::kF16,
                                          Format::kFp8Block, Format::kInt8, Format::kInt4};

// Data and scales `offset` bytes off, as they may lie in a file; elements of magnitude up to about 1.
inline Matrix unaligned_matrix(Arena& arena, MatrixShape shape, int64_t offset) {
  if (is_integer(shape.format)) shape.scale = shape.format == Format::kInt8 ? 1.0f / 128 : 1.0f / 8;
  if (shape.format == Format::kFp8Block) shape.scale = 1.0f / 448;
  uint8_t* data = arena.take<uint8_t>(shape.data_bytes() + offset) + offset;
  uint8_t* scales = arena.take<uint8_t>(shape.scale_bytes() + offset) + offset;
  return random_matrix(shape, data, scales, arena.random());
}

// [n, heads, d] in rows of its own memory, head_gap numbers between heads; `rows` is that memory.
inline Tensor arena_heads(Arena& arena, int64_t n, int64_t heads, int64_t d, int64_t head_gap, Tensor* rows) {
  *rows = arena.matrix(n, heads * (d + head_gap), 3);
  Tensor t = f32_tensor(rows->f32(), {n, heads, d});
  t.stride[0] = rows->stride[0], t.stride[1] = d + head_gap;
  return t;
}

struct Sum {
  double value = 0, magnitude = 0;
};

inline Sum exact_dot(const Matrix& w, int64_t r, const float* x) {
  Sum sum;
  for (int64_t c = 0; c < w.cols; ++c) {
    const double term = element_of(w, r, c) * static_cast<double>(x[c]);
    sum.value += term, sum.magnitude += std::fabs(term);
  }
  return sum;
}

// How far two float32 sums of products with weights may lie apart: each term meets at most `terms` roundings
// of sums, one of its product, one of its weight and two of scales, on either side.
inline double apart(int64_t terms, double magnitude) {
  return 2 * gamma(static_cast<double>(terms) + 4) * magnitude;
}

// An adapter for w, or none for rank 0. Its numbers are as large as those of w, so that its part is seen.
inline void adapt(Arena& arena, Matrix& w, int64_t rank, bool merged = false) {
  if (rank == 0) return;
  Lora* lora = arena.take<Lora>(1);
  *lora = Lora{};
  lora->a = arena.matrix(rank, w.cols), lora->b = arena.matrix(w.rows, rank);
  lora->scale = 0.75f, lora->merged = merged, w.lora = lora;
}

// w x and its adapter's part, with the error that float32 sums of it may have on either side together.
struct Product {
  double value = 0, magnitude = 0, error = 0;
};
inline Product adapted_dot(const Matrix& w, int64_t r, const float* x) {
  const Sum base = exact_dot(w, r, x);
  Product p{base.value, base.magnitude, apart(w.cols, base.magnitude)};
  if (!w.adapted()) return p;
  const Lora& lora = *w.lora;
  const int64_t rank = lora.a.shape[0];
  for (int64_t k = 0; k < rank; ++k) {
    const double factor = static_cast<double>(lora.scale) * static_cast<double>(lora.b.f32()[r * rank + k]);
    for (int64_t c = 0; c < w.cols; ++c) {
      const double term = factor * static_cast<double>(lora.a.f32()[k * w.cols + c]) * x[c];
      p.value += term, p.magnitude += std::fabs(term);
    }
  }
  p.error = apart(w.cols + rank + 2, p.magnitude);
  return p;
}

// ---- embed ----

inline Case<EmbedArgs> embed_case(const MatrixShape& shape, int64_t n) {
  Case<EmbedArgs> c;
  c.args.table = unaligned_matrix(c.arena, shape, 1);
  int32_t* ids = c.arena.take<int32_t>(n);
  for (int64_t i = 0; i < n; ++i) ids[i] = static_cast<int32_t>(c.arena.below(shape.rows));
  ids[n - 1] = static_cast<int32_t>(shape.rows - 1);
  c.args.ids = Tensor(ids, DType::kI32, {n});
  c.args.out = c.arena.matrix(n, shape.cols, 3);
  c.outputs = {output_of("out", c.args.out)};
  c.part = [](const EmbedArgs& args, int64_t begin, int64_t count) {
    EmbedArgs part = args;
    part.ids = args.ids.rows(begin, count), part.out = args.out.rows(begin, count);
    return part;
  };
  c.tokens = n;
  c.bytes = static_cast<double>(n * (c.args.table.row_bytes() + shape.cols * 4));
  return c;
}

inline void embed_cases(Mode mode, const Add<EmbedArgs>& add) {
  for (const Format format : kEveryFormat) {
    const auto at = [&](int64_t n, int64_t vocab, int64_t hidden) {
      const MatrixShape shape{format, vocab, hidden};
      add(fmt::format("{} n={} vocab={} hidden={}", format_name(format), n, vocab, hidden),
          [=] { return embed_case(shape, n); });
    };
    if (mode == Mode::kPerf) {
      at(256, 4096, 2048);
      continue;
    }
    at(1, 1, 1), at(5, 7, 33), at(40, 130, 200);
  }
}

// ---- linear ----

struct LinearShape {
  MatrixShape w;
  int64_t n = 1, gap = 0;
  bool bias = false, accumulate = false, exact = false;
  int64_t rank = 0;
  bool merged = false;
  std::string name() const {
    return fmt::format("{} n={} rows={} cols={} group={} gap={} rank={}{}{}{}{}", format_name(w.format), n,
                       w.rows, w.cols, w.group, gap, rank, merged ? " merged" : "", bias ? " bias" : "",
                       accumulate ? " accumulate" : "", exact ? " exact" : "");
  }
};

inline Case<LinearArgs> linear_case(const LinearShape& shape, Mode mode) {
  Case<LinearArgs> c;
  LinearArgs& a = c.args;
  a.w = unaligned_matrix(c.arena, shape.w, shape.gap);
  a.x = c.arena.matrix(shape.n, shape.w.cols, shape.gap, -2, 2);
  if (shape.bias) a.bias = f32_tensor(c.arena.floats(shape.w.rows), {shape.w.rows});
  a.y = c.arena.matrix(shape.n, shape.w.rows, shape.gap);
  a.accumulate = shape.accumulate;
  c.exact_activations = shape.exact;
  adapt(c.arena, a.w, shape.rank, shape.merged);
  const bool alone = is_integer(a.w.format) && !shape.exact, bits = alone && !a.w.adapted();
  const auto bound = [&](int64_t t, int64_t r) {
    double magnitude = adapted_dot(a.w, r, a.x.f32() + t * a.x.stride[0]).magnitude;
    if (shape.bias) magnitude += std::fabs(static_cast<double>(a.bias.f32()[r]));
    if (shape.accumulate) magnitude += std::fabs(static_cast<double>(a.y.f32()[t * a.y.stride[0] + r]));
    return apart(a.w.cols + shape.rank + 4, magnitude);
  };
  if (bits || mode == Mode::kPerf) {
    c.outputs = {output_of("y", a.y)};
  } else {
    c.outputs = {output_of("y", a.y, bound)};
  }
  if (alone) {
    c.part = [](const LinearArgs& args, int64_t begin, int64_t count) {
      LinearArgs part = args;
      part.x = args.x.rows(begin, count), part.y = args.y.rows(begin, count);
      return part;
    };
    c.tokens = shape.n;
  }
  c.bytes = static_cast<double>(a.w.bytes() + shape.n * (a.w.cols + a.w.rows) * 4);
  c.flops = 2.0 * static_cast<double>(shape.n * a.w.rows * a.w.cols);
  return c;
}

inline void linear_cases(Mode mode, const Add<LinearArgs>& add) {
  const auto at = [&](const LinearShape& shape) {
    add(shape.name(), [=] { return linear_case(shape, mode); });
  };
  for (const Format format : kEveryFormat) {
    if (mode == Mode::kPerf) {
      for (const int64_t n : {1, 8, 16, 32, 64, 256}) at({{format, 4096, 4096}, n});
      continue;
    }
    for (const bool exact : {false, true}) {
      if (exact && !is_integer(format)) continue;
      at({{format, 1, 1, 32, DType::kF32}, 1, 0, true, false, exact});
      at({{format, 1, 70}, 3, 1, false, true, exact});
      at({{format, 40, 1}, 2, 0, false, false, exact});
      at({{format, 9, 8, 32, DType::kF16}, 70, 1, true, true, exact});
      at({{format, 70, 33, 33, DType::kF32}, 5, 2, true, false, exact});
      at({{format, 131, 256, 128}, 2, 0, false, true, exact});
      at({{format, 300, 129}, 50, 3, true, true, exact});
      at({{format, 257, 520}, 64, 0, false, false, exact});
      at({{format, 64, 4100, 32, DType::kF16}, 9, 0, false, false, exact});
      at({{format, 1, 1, 32, DType::kF32}, 1, 0, false, false, exact, 1});
      at({{format, 131, 70}, 5, 2, true, true, exact, 3});
      at({{format, 40, 33}, 3, 1, true, false, exact, 2, true});
      at({{format, 300, 129}, 90, 1, false, true, exact, 16});
      at({{format, 70, 40}, 300, 1, true, false, exact});   // few rows, many tokens
      at({{format, 2070, 33}, 70, 0, false, true, exact});  // many panels of rows
    }
  }
}

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
    }
  }
  if (mode == Mode::kPerf) return;
  at({Format::kF32, Format::kF32, 1300, 2, 2, 40, 24, 0.1, false, false,
      3});  // several tasks of several chunks
  at({Format::kBF16, Format::kBF16, 64, 1, 1, 520, 512, 0, false, false, 2});  // too large for chunks
  at({Format::kInt4, Format::kInt8, 7, 3, 5, 100, 48, 0.2, true, false});
  at({Format::kBF16, Format::kFp8Block, 60, 2, 2, 140, 48, 0.2, true, false});
}

// ---- mla_absorb, mla_value ----

inline Case<MlaAbsorbArgs> mla_absorb_case(Format format, int64_t n, int64_t heads, int64_t nope,
                                           int64_t v_dim, int64_t latent) {
  Case<MlaAbsorbArgs> c;
  MlaAbsorbArgs& a = c.args;
  Tensor q_rows, y_rows;
  const int64_t rope = 2;
  a.q = arena_heads(c.arena, n, heads, nope + rope, 1, &q_rows);
  a.y = arena_heads(c.arena, n, heads, latent + rope, 1, &y_rows);
  a.kv_b = arena_matrix(c.arena, {format, heads * (nope + v_dim), latent});
  a.nope = nope, a.v_dim = v_dim;
  c.outputs = {output_of("y", y_rows, [&](int64_t t, int64_t column) {
    const int64_t h = column / a.y.stride[1], at = column % a.y.stride[1];
    if (at >= latent) return 0.0;
    double magnitude = 0;
    for (int64_t i = 0; i < nope; ++i)
      magnitude += std::fabs(element_of(a.kv_b, h * (nope + v_dim) + i, at) *
                             static_cast<double>(a.q.f32()[t * a.q.stride[0] + h * a.q.stride[1] + i]));
    return apart(nope, magnitude);
  })};
  c.part = [](const MlaAbsorbArgs& args, int64_t begin, int64_t count) {
    MlaAbsorbArgs part = args;
    part.q = args.q.rows(begin, count), part.y = args.y.rows(begin, count);
    return part;
  };
  c.tokens = n;
  c.bytes = static_cast<double>(heads * nope * a.kv_b.row_bytes());
  c.flops = 2.0 * static_cast<double>(n * heads * nope * latent);
  return c;
}

inline Case<MlaValueArgs> mla_value_case(Format format, int64_t n, int64_t heads, int64_t nope, int64_t v_dim,
                                         int64_t latent) {
  Case<MlaValueArgs> c;
  MlaValueArgs& a = c.args;
  Tensor o_rows, out_rows;
  a.o = arena_heads(c.arena, n, heads, latent, 2, &o_rows);
  a.out = arena_heads(c.arena, n, heads, v_dim, 1, &out_rows);
  a.kv_b = arena_matrix(c.arena, {format, heads * (nope + v_dim), latent});
  a.nope = nope, a.v_dim = v_dim;
  c.outputs = {output_of("out", out_rows, [&](int64_t t, int64_t column) {
    const int64_t h = column / a.out.stride[1], at = column % a.out.stride[1];
    if (at >= v_dim) return 0.0;
    const float* o = a.o.f32() + t * a.o.stride[0] + h * a.o.stride[1];
    return apart(latent, exact_dot(a.kv_b, h * (nope + v_dim) + nope + at, o).magnitude);
  })};
  c.part = [](const MlaValueArgs& args, int64_t begin, int64_t count) {
    MlaValueArgs part = args;
    part.o = args.o.rows(begin, count), part.out = args.out.rows(begin, count);
    return part;
  };
  c.tokens = n;
  c.bytes = static_cast<double>(heads * v_dim * a.kv_b.row_bytes());
  c.flops = 2.0 * static_cast<double>(n * heads * v_dim * latent);
  return c;
}

template <class Args, class Make>
void mla_cases(Mode mode, const Add<Args>& add, const Make& make) {
  for (const Format format : kEveryFormat) {
    const auto at = [&](int64_t n, int64_t heads, int64_t nope, int64_t v_dim, int64_t latent) {
      add(fmt::format("{} n={} heads={} nope={} v={} latent={}", format_name(format), n, heads, nope, v_dim,
                      latent),
          [=] { return make(format, n, heads, nope, v_dim, latent); });
    };
    if (mode == Mode::kPerf) {
      at(1, 64, 128, 128, 512), at(16, 64, 128, 128, 512);
      continue;
    }
    at(1, 1, 1, 1, 1), at(2, 3, 5, 7, 33), at(19, 4, 16, 8, 64), at(3, 2, 70, 66, 130);
  }
}

inline void mla_absorb_cases(Mode mode, const Add<MlaAbsorbArgs>& add) {
  mla_cases(mode, add, mla_absorb_case);
}
inline void mla_value_cases(Mode mode, const Add<MlaValueArgs>& add) { mla_cases(mode, add, mla_value_case); }

}  // namespace moebius::test
