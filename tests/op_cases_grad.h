// Cases of the backward operations.
//
// Those made of float32 products and sums (kProducts) may stand off by 1e-5 of the largest number of the
// gradient: sums of up to some hundred terms of random sign err by a few units in the last place of their
// largest partial sums, which is a tenth of that. Those that compute number by number in float32 (kNumbers)
// may stand off by 1e-6 of it: an exponential (4 halves of a unit in the last place, and up to 0.4 for the
// rounding of x in x e^-x), and up to ten products and sums, 2^-24 each. What no number of a gradient may
// differ by are the gaps between its rows.
#pragma once

#include "tests/op_cases_experts.h"

namespace moebius::test {

inline constexpr double kProducts = 1e-5, kNumbers = 1e-6;

// A gradient within `share` of its largest number; what lies between its rows and heads must stay.
inline Output gradient_output(const char* name, const Tensor& t, double share) {
  Output out{name, t.data, t.dtype, t.shape[0] * t.stride[0], {}};
  out.of_largest = true;
  out.bound.assign(static_cast<size_t>(out.count), 0.0);
  for (int64_t i = 0; i < t.shape[0]; ++i)
    for (int64_t j = 0; j < t.shape[1]; ++j)
      for (int64_t k = 0; k < t.shape[2]; ++k)
        out.bound[static_cast<size_t>(i * t.stride[0] + j * t.stride[1] + k * t.stride[2])] = share;
  return out;
}

// Cases whose arguments name what they write.
template <class Args>
struct GradCase : Case<Args> {
  Tensor matrix(int64_t n, int64_t d, int64_t gap) { return this->arena.matrix(n, d, gap); }
  Tensor vector(int64_t d) { return f32_tensor(this->arena.floats(d), {d}); }
  Tensor heads(int64_t n, int64_t count, int64_t d, int64_t gap) {
    Tensor rows;
    return arena_heads(this->arena, n, count, d, gap, &rows);
  }
  Tensor ids(int64_t n, int64_t k, int64_t lowest, int64_t end) {
    int32_t* at = this->arena.template take<int32_t>(n * k);
    for (int64_t i = 0; i < n * k; ++i)
      at[i] = static_cast<int32_t>(lowest + this->arena.below(end - lowest));
    return Tensor(at, DType::kI32, {n, k});
  }
  void writes(const char* name, const Tensor& t, double share) {
    if (!t.empty() && t.numel() > 0) this->outputs.push_back(gradient_output(name, t, share));
  }
  // An adapter with gradients, of which some may not be wanted.
  void adapt(Matrix& w, int64_t rank, bool merged, bool da = true, bool db = true) {
    if (rank == 0) return;
    test::adapt(this->arena, w, rank, merged);
    Lora& lora = const_cast<Lora&>(*w.lora);  // the arena's
    if (da) lora.da = matrix(rank, w.cols, 2);
    if (db) lora.db = matrix(w.rows, rank, 1);
    writes("da", lora.da, kProducts), writes("db", lora.db, kProducts);
  }
};

// ---- rms_norm ----

inline void rms_norm_backward_cases(Mode mode, const Add<RmsNormBackwardArgs>& add) {
  const auto at = [&](int64_t n, int64_t d, int64_t gap, bool dx, bool dweight) {
    add(fmt::format("n={} d={} gap={}{}{}", n, d, gap, dx ? " dx" : "", dweight ? " dweight" : ""), [=] {
      GradCase<RmsNormBackwardArgs> c;
      c.args = {c.matrix(n, d, gap), c.vector(d), 1e-5f, c.matrix(n, d, gap), {}, {}};
      if (dx) c.args.dx = c.matrix(n, d, gap);
      if (dweight) c.args.dweight = c.vector(d);
      c.writes("dx", c.args.dx, kProducts), c.writes("dweight", c.args.dweight, kProducts);
      c.bytes = 16.0 * static_cast<double>(n * d), c.flops = 10.0 * static_cast<double>(n * d);
      return Case<RmsNormBackwardArgs>(std::move(c));
    });
  };
  if (mode == Mode::kPerf) return at(2048, 2048, 0, true, false);
  at(1, 1, 0, true, true), at(3, 33, 1, true, true), at(41, 400, 4, true, true), at(300, 13, 3, true, true);
  at(5, 2100, 0, true, false), at(70, 64, 2, false, true);
}

// ---- linear ----

struct LinearGradShape {
  Format format = Format::kF32;
  int64_t n = 1, rows = 1, cols = 1, gap = 0;
  int64_t rank = 0, offset = 0;
  bool merged = false, dx = true, dw = true, bias = true, da = true, db = true;
  std::string name() const {
    std::string text = fmt::format("{} n={} rows={} cols={} gap={}", format_name(format), n, rows, cols, gap);
    if (rank > 0)
      text += fmt::format(" rank={}{}{}{}", rank, merged ? " merged" : "", da ? " da" : "", db ? " db" : "");
    if (offset > 0) text += fmt::format(" offset={}", offset);
    return text + (dx ? " dx" : "") + (dw ? " dw" : "") + (bias ? " dbias" : "");
  }
};

inline Case<LinearBackwardArgs> linear_grad_case(const LinearGradShape& s) {
  GradCase<LinearBackwardArgs> c;
  LinearBackwardArgs& a = c.args;
  const MatrixShape shape{s.format, s.rows, s.cols};
  a.w = s.offset ? unaligned_matrix(c.arena, shape, s.offset) : arena_matrix(c.arena, shape);
  a.dy = c.matrix(s.n, s.rows, s.gap);
  const bool x = s.dw || (s.rank > 0 && (s.da || s.db));
  if (x) a.x = c.matrix(s.n, s.cols, s.gap);
  if (s.dx) a.dx = c.matrix(s.n, s.cols, s.gap);
  if (s.dw) a.dw = c.matrix(s.rows, s.cols, s.gap);
  if (s.bias) a.dbias = c.vector(s.rows);
  c.writes("dx", a.dx, kProducts), c.writes("dw", a.dw, kProducts), c.writes("dbias", a.dbias, kProducts);
  c.adapt(a.w, s.rank, s.merged, s.da, s.db);
  if (!s.dx && s.rank == 0) a.w = Matrix();
  c.flops = 2.0 * static_cast<double>(s.n * s.rows * s.cols) * (s.dx + s.dw);
  c.bytes = static_cast<double>(a.w.bytes() + 4 * s.n * (s.rows + 2 * s.cols));
  return c;
}

inline void linear_backward_cases(Mode mode, const Add<LinearBackwardArgs>& add) {
  const auto at = [&](const LinearGradShape& s) { add(s.name(), [=] { return linear_grad_case(s); }); };
  if (mode == Mode::kPerf) {
    for (const Format f : {Format::kInt4, Format::kBF16, Format::kF32})
      at({f, 512, 2048, 2048, 0, 0, 0, false, true, false, false});
    return at({Format::kInt4, 512, 2048, 2048, 0, 8, 0, false, true, false, false});
  }
  for (const Format f : kEveryFormat) {
    at({f, 1, 1, 1, 0}), at({f, 3, 17, 40, 2}), at({f, 70, 50, 130, 4}), at({f, 20, 129, 257, 1});
    at({f, 5, 700, 96, 0, 0, 0, false, true, false, false});  // a long sum in parts
    at({f, 66, 33, 96, 0, 0, 1, false, true, false, false});
    at({f, 5, 17, 40, 1, 3, 2, false, true, false, true});
    at({f, 34, 40, 72, 1, 3, 0, true, true, false, false});
  }
  at({Format::kF32, 4, 20, 30, 0, 0, 0, false, false, true, false});
  at({Format::kF32, 90, 20, 30, 0, 0, 0, false, false, false, true});
  at({Format::kBF16, 1000, 20, 8, 0, 2, 0, false, false, true, true});  // long sums over tokens
  at({Format::kInt4, 9, 65, 66, 1, 70, 0, false, true, false, false});  // more ranks than a tile has lines
  for (const bool da : {false, true})
    for (const bool merged : {false, true})
      at({Format::kInt8, 6, 18, 34, 0, 4, 0, merged, true, false, false, da, !da});
  at({Format::kInt8, 6, 18, 34, 0, 4, 0, false, true, false, false, false, false});
}

// ---- swiglu ----

inline void swiglu_backward_cases(Mode mode, const Add<SwigluBackwardArgs>& add) {
  // over: 0 nothing, 1 dgate over dy and dup over gate, 2 dgate over gate and dup over up, 3 no dgate
  const auto at = [&](int64_t n, int64_t d, int64_t gap, int over) {
    add(fmt::format("n={} d={} gap={} over={}", n, d, gap, over), [=] {
      GradCase<SwigluBackwardArgs> c;
      SwigluBackwardArgs& a = c.args;
      a.gate = c.arena.matrix(n, d, gap, -9, 9), a.up = c.matrix(n, d, gap), a.dy = c.matrix(n, d, gap);
      a.dgate = c.matrix(n, d, gap), a.dup = c.matrix(n, d, gap);
      if (over == 1) a.dgate = a.dy, a.dup = a.gate;
      if (over == 2) a.dgate = a.gate, a.dup = a.up;
      if (over == 3) a.dgate = Tensor();
      c.writes("dgate", a.dgate, kNumbers), c.writes("dup", a.dup, kNumbers);
      c.bytes = 20.0 * static_cast<double>(n * d), c.flops = 12.0 * static_cast<double>(n * d);
      return Case<SwigluBackwardArgs>(std::move(c));
    });
  };
  if (mode == Mode::kPerf) return at(2048, 1408, 0, 2);
  for (const int over : {0, 1, 2, 3}) at(1, 1, 0, over), at(5, 37, 1, over), at(3, 400, 4, over);
}

// ---- attention ----

struct AttentionGradShape {
  int64_t n, heads, kv_heads, own, rest, v_dim, gap;
  std::vector<int64_t> starts;
  int kept = -1;  // of dq, dk, dshared and dv, or all
  bool highest = true;
  std::string name() const {
    return fmt::format("n={} in {} heads={}/{} k={}+{} v={} gap={}{}{}", n, starts.size() - 1, heads,
                       kv_heads, own, rest, v_dim, gap, kept < 0 ? "" : fmt::format(" gradient {}", kept),
                       highest ? " highest" : "");
  }
};

inline Case<AttentionBackwardArgs> attention_grad_case(const AttentionGradShape& s) {
  GradCase<AttentionBackwardArgs> c;
  AttentionBackwardArgs& a = c.args;
  a.q = c.heads(s.n, s.heads, s.own + s.rest, s.gap), a.k = c.heads(s.n, s.kv_heads, s.own, s.gap);
  a.v = c.heads(s.n, s.kv_heads, s.v_dim, s.gap), a.scale = 0.7f;
  a.out = c.heads(s.n, s.heads, s.v_dim, 0), a.dout = c.heads(s.n, s.heads, s.v_dim, s.gap);
  int64_t* starts = c.arena.take<int64_t>(std::ssize(s.starts));
  std::copy(s.starts.begin(), s.starts.end(), starts);
  a.starts = {starts, s.starts.size()};
  const auto wants = [&](int which) { return s.kept < 0 || s.kept == which; };
  if (s.rest > 0) a.shared = c.matrix(s.n, s.rest, s.gap);
  if (wants(0)) a.dq = c.heads(s.n, s.heads, s.own + s.rest, s.gap);
  if (wants(1)) a.dk = c.heads(s.n, s.kv_heads, s.own, s.gap);
  if (wants(2) && s.rest > 0) a.dshared = c.matrix(s.n, s.rest, s.gap);
  if (wants(3)) a.dv = c.heads(s.n, s.kv_heads, s.v_dim, s.gap);
  if (s.highest) a.highest = c.vector(s.heads);
  // out need not be the forward's for two implementations of one formula to agree.
  c.writes("dq", a.dq, kProducts), c.writes("dk", a.dk, kProducts), c.writes("dv", a.dv, kProducts);
  c.writes("dshared", a.dshared, kProducts), c.writes("highest", a.highest, kProducts);
  double pairs = 0;
  for (size_t i = 0; i + 1 < s.starts.size(); ++i) {
    const double tokens = static_cast<double>(s.starts[i + 1] - s.starts[i]);
    pairs += tokens * (tokens + 1) / 2;
  }
  c.flops = pairs * static_cast<double>(s.heads * 2 * (3 * (s.own + s.rest) + 2 * s.v_dim));
  c.bytes = 8.0 * static_cast<double>(s.n * (s.heads + s.kv_heads) * (s.own + s.rest + s.v_dim));
  return c;
}

inline void attention_backward_cases(Mode mode, const Add<AttentionBackwardArgs>& add) {
  const auto at = [&](const AttentionGradShape& s) { add(s.name(), [=] { return attention_grad_case(s); }); };
  if (mode == Mode::kPerf) {
    at({512, 16, 16, 128, 64, 128, 0, {0, 512}});
    return at({512, 32, 4, 128, 0, 128, 0, {0, 512}});
  }
  at({1, 1, 1, 1, 0, 1, 0, {0, 1}}), at({7, 4, 1, 6, 3, 7, 2, {0, 3, 3, 7}});
  at({64, 4, 2, 8, 4, 5, 1, {0, 64}}), at({65, 3, 3, 9, 0, 16, 0, {0, 65}});
  at({140, 2, 2, 8, 4, 8, 3, {0, 140}}), at({9, 2, 2, 0, 3, 2, 0, {0, 1, 9}});
  at({150, 4, 2, 8, 4, 8, 1, {0, 70, 71, 150}});
  at({20, 2, 2, 128, 64, 128, 0, {0, 20}});    // DeepSeek's dims: more columns than a block holds
  at({18, 4, 2, 128, 0, 128, 0, {0, 5, 18}});  // Qwen3's
  at({3, 1, 1, 300, 0, 70, 1, {0, 3}});
  for (int kept = 0; kept < 4; ++kept) at({70, 4, 2, 8, 4, 8, 1, {0, 6, 70}, kept, false});
}

// ---- expert_ffn ----

struct ExpertGradShape {
  Format gate = Format::kF32, up = Format::kF32, down = Format::kF32;
  int64_t n = 1, k = 1, hidden = 1;
  std::vector<int64_t> widths;
  int64_t rank = 0;        // of adapters on most matrices
  bool unused = false;     // some slots are -1
  bool elsewhere = false;  // every other expert is on another device
  int frozen = 0;          // 0 nothing is, 1 the matrices, 2 and no dslots, 3 and no dweights
  std::string name() const {
    std::string all;
    for (const int64_t width : widths) all += fmt::format("{}{}", all.empty() ? "" : ",", width);
    return fmt::format("{}/{}/{} n={} k={} hidden={} widths={} rank={}{}{} frozen={}", format_name(gate),
                       format_name(up), format_name(down), n, k, hidden, all, rank, unused ? " unused" : "",
                       elsewhere ? " elsewhere" : "", frozen);
  }
};

inline Case<ExpertFfnBackwardArgs> expert_grad_case(const ExpertGradShape& s) {
  GradCase<ExpertFfnBackwardArgs> c;
  ExpertFfnBackwardArgs& a = c.args;
  a.n_experts = std::ssize(s.widths);
  a.x = c.matrix(s.n, s.hidden, 1), a.dy = c.matrix(s.n, s.hidden, 2), a.weights = c.matrix(s.n, s.k, 1);
  a.ids = c.ids(s.n, s.k, s.unused ? -1 : 0, a.n_experts);
  if (s.frozen < 2) a.dslots = c.heads(s.n, s.k, s.hidden, 2);
  if (s.frozen < 3) a.dweights = c.matrix(s.n, s.k, 1);
  c.writes("dslots", a.dslots, kProducts), c.writes("dweights", a.dweights, kProducts);
  ExpertWeights* experts = c.arena.take<ExpertWeights>(a.n_experts);
  ExpertGradients* gradients = c.arena.take<ExpertGradients>(a.n_experts);
  for (int64_t e = 0; e < a.n_experts; ++e) {
    const int64_t width = s.widths[static_cast<size_t>(e)];
    gradients[e] = ExpertGradients(), experts[e] = ExpertWeights();
    if (s.elsewhere && e % 2 == 0) continue;
    experts[e] = {arena_matrix(c.arena, {s.gate, width, s.hidden}),
                  arena_matrix(c.arena, {s.up, width, s.hidden}),
                  arena_matrix(c.arena, {s.down, s.hidden, width})};
    int64_t place = e;
    for (Matrix* w : {&experts[e].gate, &experts[e].up, &experts[e].down})
      if (s.rank > 0 && width > 0 && ++place % 4 > 0)
        c.adapt(*w, s.rank + place, place == 3, place != 2, place != 5);
    if (s.frozen > 0) continue;
    gradients[e] = {c.matrix(width, s.hidden, 1), c.matrix(width, s.hidden, 2), c.matrix(s.hidden, width, 1)};
    if (e == 1) gradients[e].up = Tensor();
    c.writes("dgate", gradients[e].gate, kProducts), c.writes("dup", gradients[e].up, kProducts);
    c.writes("ddown", gradients[e].down, kProducts);
  }
  a.experts = experts;
  if (s.frozen == 0) a.gradients = gradients;
  double width = 0;  // on average
  for (const int64_t each : s.widths) width += static_cast<double>(each) / static_cast<double>(a.n_experts);
  c.flops = static_cast<double>(s.n * s.k * s.hidden) * width * (s.frozen ? 10 : 16);
  for (int64_t e = 0; e < a.n_experts; ++e)
    c.bytes += static_cast<double>(experts[e].gate.bytes() + experts[e].up.bytes() + experts[e].down.bytes());
  return c;
}

inline void expert_ffn_backward_cases(Mode mode, const Add<ExpertFfnBackwardArgs>& add) {
  const auto at = [&](const ExpertGradShape& s) { add(s.name(), [=] { return expert_grad_case(s); }); };
  if (mode == Mode::kPerf) {
    for (const Format f : {Format::kInt4, Format::kBF16})
      at({f, f, f, 256, 6, 2048, std::vector<int64_t>(16, 1408), 8, false, false, 1});
    return;
  }
  for (const Format f : kEveryFormat) {
    at({f, f, f, 1, 1, 1, {1}});
    at({f, f, f, 5, 2, 20, {7, 0, 12, 33}, 0, true});
    at({f, f, f, 40, 3, 70, {40, 72, 1, 16, 5}, 2, true, false, 1});
    at({f, f, f, 3, 2, 8, {4}, 1, true, true, 1});
    at({f, f, f, 1, 4, 36, {9, 34, 12}, 2, true, true, 1});
  }
  constexpr Format kF32 = Format::kF32, kBF16 = Format::kBF16, kInt4 = Format::kInt4, kInt8 = Format::kInt8;
  at({kInt4, kInt4, kInt8, 9, 2, 40, {36, 20, 66}, 0, false, true, 1});
  at({kInt4, kBF16, kF32, 6, 2, 33, {20, 30}, 2, true});  // the formats of one expert differ
  at({kBF16, kInt4, kF32, 6, 2, 33, {20, 30}, 2, false, false, 1});
  at({kF32, kF32, kF32, 150, 2, 12, {6, 9}, 1});  // more slots of an expert than a tile has
  at({kInt8, kInt8, kInt8, 100, 1, 20, {10}, 0, true, false, 1});
  at({kF32, kF32, kF32, 4, 2, 10, {5, 6}, 70, false, false, 1});  // more ranks than a tile has lines
  at({kF32, kF32, kF32, 62, 2, 1, {3000, 4}, 0, true});  // more scratch than there is for all tokens at once
  for (const int frozen : {2, 3}) at({kF32, kF32, kF32, 4, 2, 10, {5, 6}, 2, true, false, frozen});
}

// ---- router ----

inline void router_backward_cases(Mode mode, const Add<RouterBackwardArgs>& add) {
  const auto at = [&](int64_t n, int64_t rows, int64_t k, int64_t experts, Scoring scoring, bool normalize) {
    const std::string name =
        fmt::format("n={} rows={} k={} experts={}{}{}", n, rows, k, experts,
                    scoring == Scoring::kSigmoid ? " sigmoid" : "", normalize ? " normalize" : "");
    add(name, [=] {
      GradCase<RouterBackwardArgs> c;
      const Tensor ids = c.ids(n, k, 0, rows);
      for (int64_t i = 0; i < n * k; ++i)  // distinct
        ids.i32()[i] = static_cast<int32_t>((ids.i32()[i / k * k] + i % k * 3) % rows);
      c.args = {c.arena.matrix(n, rows, 1, -4, 4),
                ids,
                c.matrix(n, k, 1),
                scoring,
                experts,
                normalize,
                2.5f,
                c.matrix(n, rows, 2)};
      c.writes("dlogits", c.args.dlogits, kNumbers);
      c.bytes = 12.0 * static_cast<double>(n * rows), c.flops = 20.0 * static_cast<double>(n * rows);
      return Case<RouterBackwardArgs>(std::move(c));
    });
  };
  if (mode == Mode::kPerf) return at(2048, 64, 6, 64, Scoring::kSigmoid, true);
  for (const Scoring scoring : {Scoring::kSoftmax, Scoring::kSigmoid})
    for (const bool normalize : {false, true}) {
      at(1, 1, 1, 1, scoring, normalize), at(9, 40, 3, 30, scoring, normalize);
      at(3, 70, 8, 70, scoring, normalize), at(2, 5, 1, 0, scoring, normalize);
    }
}

inline void balance_backward_cases(Mode mode, const Add<BalanceBackwardArgs>& add) {
  const auto at = [&](const std::vector<int64_t>& starts, int64_t rows, int64_t k, Scoring scoring,
                      float zero) {
    const int64_t n = starts.back();
    add(fmt::format("n={} in {} rows={} k={}{} w={}", n, starts.size() - 1, rows, k,
                    scoring == Scoring::kSigmoid ? " sigmoid" : "", zero),
        [=] {
          GradCase<BalanceBackwardArgs> c;
          int64_t* at_starts = c.arena.take<int64_t>(std::ssize(starts));
          std::copy(starts.begin(), starts.end(), at_starts);
          // alpha as large as makes the gradients be seen beside what they are added to
          c.args = {c.matrix(n, rows, 1),
                    c.ids(n, k, 0, rows),
                    {at_starts, starts.size()},
                    scoring,
                    500.0f,
                    c.matrix(n, rows, 2),
                    rows - rows / 3,
                    zero};
          c.writes("dlogits", c.args.dlogits, kNumbers);
          c.bytes = 12.0 * static_cast<double>(n * rows), c.flops = 20.0 * static_cast<double>(n * rows);
          return Case<BalanceBackwardArgs>(std::move(c));
        });
  };
  if (mode == Mode::kPerf) return at({0, 1024, 2048}, 64, 6, Scoring::kSigmoid, 0);
  for (const Scoring scoring : {Scoring::kSoftmax, Scoring::kSigmoid})
    for (const float zero : {0.0f, 0.5f})
      at({0, 3, 3, 8, 9}, 5, 2, scoring, zero), at({0, 150}, 40, 3, scoring, zero);
  at({0, 1}, 1, 1, Scoring::kSoftmax, 0);
}

// ---- cross-entropy and embed ----

inline void cross_entropy_cases(Mode mode, const Add<CrossEntropyArgs>& add) {
  const auto at = [&](int64_t n, int64_t vocab, int64_t gap, bool weighted, float far, bool hits = true) {
    add(fmt::format("n={} vocab={} gap={}{} within {}{}", n, vocab, gap, weighted ? " weighted" : "", far,
                    hits ? " hits" : ""),
        [=] {
          GradCase<CrossEntropyArgs> c;
          c.args.logits = c.arena.matrix(n, vocab, gap, -far, far);
          c.args.targets = c.ids(n, 1, -1, vocab).reshape({n}), c.args.loss = c.vector(n);
          if (weighted) c.args.weights = c.vector(n);
          if (hits) {
            c.args.hits = Tensor(c.arena.take<int32_t>(n), DType::kI32, {n});
            c.outputs.push_back(output_of("hits", c.args.hits));
          }
          c.writes("logits", c.args.logits, kNumbers), c.writes("loss", c.args.loss, kNumbers);
          c.bytes = 12.0 * static_cast<double>(n * vocab), c.flops = 10.0 * static_cast<double>(n * vocab);
          return Case<CrossEntropyArgs>(std::move(c));
        });
  };
  if (mode == Mode::kPerf) return at(64, 163840, 0, true, 4);
  at(1, 1, 0, false, 4), at(50, 3, 1, true, 4), at(50, 300, 1, true, 4, false), at(3, 5, 0, false, 4),
      at(7, 1000, 4, true, 200);
  at(1, 20000, 0, true, 8), at(3, 9001, 3, false, 30);  // rows in pieces
}

inline void embed_backward_cases(Mode mode, const Add<EmbedBackwardArgs>& add) {
  const auto at = [&](int64_t n, int64_t vocab, int64_t hidden) {
    add(fmt::format("n={} vocab={} hidden={}", n, vocab, hidden), [=] {
      GradCase<EmbedBackwardArgs> c;
      c.args = {c.ids(n, 1, 0, vocab).reshape({n}), c.matrix(n, hidden, 1), c.matrix(vocab, hidden, 2)};
      c.outputs = {output_of("dtable", c.args.dtable)};  // sums in the order of the contract
      c.bytes = 12.0 * static_cast<double>(n * hidden), c.flops = static_cast<double>(n * hidden);
      return Case<EmbedBackwardArgs>(std::move(c));
    });
  };
  if (mode == Mode::kPerf) return at(2048, 32768, 2048);
  at(1, 1, 1), at(90, 11, 200), at(600, 40, 3), at(700, 5000, 8);
}

}  // namespace moebius::test
