// Cases of embed, linear and the projections of absorbed MLA for op_test.
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

inline Case<EmbedArgs> embed_case(const MatrixShape& shape, int64_t n, bool aligned) {
  Case<EmbedArgs> c;
  c.args.table = unaligned_matrix(c.arena, shape, aligned ? 0 : 1);
  int32_t* ids = c.arena.take<int32_t>(n);
  for (int64_t i = 0; i < n; ++i) ids[i] = static_cast<int32_t>(c.arena.below(shape.rows));
  ids[n - 1] = static_cast<int32_t>(shape.rows - 1);
  c.args.ids = Tensor(ids, DType::kI32, {n});
  c.args.out = c.arena.matrix(n, shape.cols, aligned ? 4 : 3);
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
    const auto at = [&](int64_t n, int64_t vocab, int64_t hidden, bool aligned = false) {
      const MatrixShape shape{format, vocab, hidden};
      add(fmt::format("{} n={} vocab={} hidden={}{}", format_name(format), n, vocab, hidden,
                      aligned ? " aligned" : ""),
          [=] { return embed_case(shape, n, aligned); });
    };
    if (mode == Mode::kPerf) {
      at(256, 4096, 2048, true);
      continue;
    }
    at(1, 1, 1), at(5, 7, 33), at(40, 130, 200), at(5, 7, 256, true);
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
  c.also_onednn = shape.exact || !is_integer(a.w.format);
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
  c.bits_by_place = !alone;  // aligned weights may go through a library
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
      at({{format, 40, 260}, 40, 0, true, true, exact});    // many tokens, several chunks of columns
      // Whole tiles of AMX and rows left over, tokens in one and in two pieces, two slices of columns.
      at({{format, 48, 256}, 64, 0, false, false, exact});
      at({{format, 183, 128}, 81, 4, true, true, exact, 3});
      at({{format, 40, 2304}, 70, 1, false, false, exact});
    }
  }
}

// ---- add_adapter ----

inline Case<AddAdapterArgs> add_adapter_case(int64_t n, int64_t rows, int64_t cols, int64_t rank, int64_t gap,
                                             Mode mode) {
  Case<AddAdapterArgs> c;
  AddAdapterArgs& a = c.args;
  a.lora.a = c.arena.matrix(rank, cols), a.lora.b = c.arena.matrix(rows, rank), a.lora.scale = 0.75f;
  a.x = c.arena.matrix(n, cols, gap, -2, 2), a.y = c.arena.matrix(n, rows, gap);
  const auto bound = [&](int64_t t, int64_t r) {
    const float* x = a.x.f32() + t * a.x.stride[0];
    double magnitude = std::fabs(static_cast<double>(a.y.f32()[t * a.y.stride[0] + r]));
    for (int64_t k = 0; k < rank; ++k)
      for (int64_t i = 0; i < cols; ++i)
        magnitude +=
            0.75 * std::fabs(static_cast<double>(a.lora.b.f32()[r * rank + k]) *
                             static_cast<double>(a.lora.a.f32()[k * cols + i]) * static_cast<double>(x[i]));
    return apart(cols + rank + 3, magnitude);
  };
  if (mode == Mode::kPerf) {
    c.outputs = {output_of("y", a.y)};
  } else {
    c.outputs = {output_of("y", a.y, bound)};
  }
  c.part = [](const AddAdapterArgs& args, int64_t begin, int64_t count) {
    AddAdapterArgs part = args;
    part.x = args.x.rows(begin, count), part.y = args.y.rows(begin, count);
    return part;
  };
  c.tokens = n;
  c.bytes = static_cast<double>((rank + n) * (rows + cols) * 4);
  c.flops = 2.0 * static_cast<double>(n * rank * (rows + cols));
  return c;
}

inline void add_adapter_cases(Mode mode, const Add<AddAdapterArgs>& add) {
  const auto at = [&](int64_t n, int64_t rows, int64_t cols, int64_t rank, int64_t gap = 0) {
    add(fmt::format("n={} rows={} cols={} rank={} gap={}", n, rows, cols, rank, gap),
        [=] { return add_adapter_case(n, rows, cols, rank, gap, mode); });
  };
  if (mode == Mode::kPerf) {
    for (const int64_t n : {1, 8, 256}) at(n, 4096, 4096, 16);
    return;
  }
  at(1, 1, 1, 1), at(3, 70, 33, 2, 1), at(9, 131, 70, 3, 2), at(90, 300, 129, 16), at(40, 257, 520, 64);
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
