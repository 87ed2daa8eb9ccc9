// The backward operations against differences of the forward references (tests/grad_probe.h says how
// closely), over odd shapes, strided rows, gradients that add to what is there and gradients that nobody
// wants.
#include <limits>
#include <memory>
#include <numeric>

#include "tests/grad_probe.h"

namespace moebius::test {
namespace {

constexpr Format kFormats6[] = {Format::kF32,      Format::kBF16, Format::kF16,
                                Format::kFp8Block, Format::kInt8, Format::kInt4};
const float kNaN = std::numeric_limits<float>::quiet_NaN();

Tensor ids_tensor(Arena& arena, std::vector<int32_t> ids, std::initializer_list<int64_t> shape) {
  int32_t* at = arena.take<int32_t>(static_cast<int64_t>(ids.size()));
  std::copy(ids.begin(), ids.end(), at);
  return Tensor(at, DType::kI32, shape);
}

// float32 weights on the grid, as a tensor to vary and as the matrix over it.
Matrix matrix_over(const Tensor& w) {
  Matrix m;
  m.rows = w.shape[0], m.cols = w.shape[1], m.data = w.data;
  return m;
}

template <class Args>
void checked(void (*op)(const Args&), const Args& args) {
  check(args);
  op(args);
}

// ---- rms_norm ----

TEST(RmsNormBackward, IsTheDerivative) {
  struct Shape {
    int64_t n, d, gap;
    float eps;
  };
  for (const Shape& s :
       {Shape{1, 1, 0, 0.5f}, Shape{1, 7, 0, 0.1f}, Shape{3, 16, 2, 0.1f}, Shape{5, 33, 1, 1e-6f}}) {
    Arena arena;
    const Field x = field(arena, {s.n, s.d}, s.gap), weight = field(arena, {s.d}),
                dy = field(arena, {s.n, s.d}, s.gap), y = field(arena, {s.n, s.d});
    const auto loss = [&] {
      ref::rms_norm({x.view, weight.view, s.eps, y.view}, true);
      return weighted(y.view, dy.view);
    };
    const double error = kUnit * loss().magnitude;
    const Field dx = field(arena, {s.n, s.d}, s.gap), dweight = field(arena, {s.d});
    const RmsNormBackwardArgs args{x.view, weight.view, s.eps, dy.view, dx.view, dweight.view};
    checked(ref::rms_norm_backward, args);
    const std::string name = fmt::format("n={} d={}", s.n, s.d);
    expect_gradient(x.view, dx, {[&] { return loss().value; }, error}, name + " x");
    expect_gradient(weight.view, dweight, {[&] { return loss().value; }, error, 0.5}, name + " weight");

    const std::vector<float> both_dx = dx.now(), both_dweight = dweight.now();
    dx.restore(), dweight.restore();
    checked(ref::rms_norm_backward, {x.view, weight.view, s.eps, dy.view, dx.view, {}});
    checked(ref::rms_norm_backward, {x.view, weight.view, s.eps, dy.view, {}, dweight.view});
    EXPECT_EQ(dx.now(), both_dx);
    EXPECT_EQ(dweight.now(), both_dweight);
  }
}

// ---- linear ----

// Linear in each of its inputs, so differences over a whole unit are exact but for the roundings.
constexpr double kWide = 1;

double linear_error(const Field& dy, int64_t cols) {  // every |x| and |w| is at most 1, and at most 4 varied
  double sum = 0;
  for_each_element(dy.view, [&](float* at) { sum += std::fabs(static_cast<double>(*at)); });
  return gamma(static_cast<double>(cols) + 4) * sum * static_cast<double>(cols + 4);
}

TEST(LinearBackward, IsTheDerivativeForFloatWeights) {
  struct Shape {
    int64_t n, rows, cols, gap;
  };
  for (const Shape& s :
       {Shape{1, 1, 1, 0}, Shape{1, 5, 9, 0}, Shape{4, 3, 17, 2}, Shape{7, 12, 1, 1}, Shape{3, 1, 8, 3}}) {
    Arena arena;
    const Field x = field(arena, {s.n, s.cols}, s.gap), w = field(arena, {s.rows, s.cols}),
                bias = field(arena, {s.rows}), dy = field(arena, {s.n, s.rows}, s.gap),
                y = field(arena, {s.n, s.rows});
    const Matrix m = matrix_over(w.view);
    const Loss loss{[&] {
                      ref::linear({m, x.view, bias.view, y.view}, true);
                      return weighted(y.view, dy.view).value;
                    },
                    linear_error(dy, s.cols), kWide};
    const Field dx = field(arena, {s.n, s.cols}, s.gap), dw = field(arena, {s.rows, s.cols}, s.gap),
                dbias = field(arena, {s.rows});
    checked(ref::linear_backward, {m, x.view, dy.view, dx.view, dw.view, dbias.view});
    const std::string name = fmt::format("n={} rows={} cols={}", s.n, s.rows, s.cols);
    expect_gradient(x.view, dx, loss, name + " x");
    expect_gradient(w.view, dw, loss, name + " w");
    expect_gradient(bias.view, dbias, loss, name + " bias");

    const std::vector<float> all_dx = dx.now(), all_dw = dw.now(), all_dbias = dbias.now();
    dx.restore(), dw.restore(), dbias.restore();
    checked(ref::linear_backward, {m, {}, dy.view, dx.view, {}, {}});  // frozen: x is not needed
    checked(ref::linear_backward, {{}, x.view, dy.view, {}, dw.view, {}});
    checked(ref::linear_backward, {{}, {}, dy.view, {}, {}, dbias.view});
    EXPECT_EQ(dx.now(), all_dx);
    EXPECT_EQ(dw.now(), all_dw);
    EXPECT_EQ(dbias.now(), all_dbias);
  }
}

TEST(LinearBackward, ReadsFrozenWeightsOfEveryFormat) {
  for (const Format format : kFormats6) {
    for (const int64_t cols : {1, 33, 130}) {
      Arena arena;
      const int64_t n = 2, rows = 5;
      const Matrix m = arena_matrix(arena, {format, rows, cols});
      const Field x = field(arena, {n, cols}), dy = field(arena, {n, rows}, 1), y = field(arena, {n, rows});
      const Loss loss{[&] {
                        ref::linear({m, x.view, {}, y.view}, true);
                        return weighted(y.view, dy.view).value;
                      },
                      2 * linear_error(dy, cols), 0x1p4};
      const Field dx = field(arena, {n, cols}, 3);
      checked(ref::linear_backward, {m, {}, dy.view, dx.view, {}, {}});
      expect_gradient(x.view, dx, loss, fmt::format("{} cols={}", format_name(format), cols));
    }
  }
}

TEST(LinearBackward, PassesThroughAdapters) {
  struct Shape {
    int64_t n, rows, cols, rank;
  };
  for (const Shape& s : {Shape{1, 1, 1, 1}, Shape{4, 3, 9, 2}, Shape{3, 6, 2, 4}}) {
    Arena arena;
    const Field x = field(arena, {s.n, s.cols}, 1), w = field(arena, {s.rows, s.cols}),
                a = field(arena, {s.rank, s.cols}), b = field(arena, {s.rows, s.rank}),
                dy = field(arena, {s.n, s.rows}, 2), y = field(arena, {s.n, s.rows}),
                dx = field(arena, {s.n, s.cols}, 1), da = field(arena, {s.rank, s.cols}, 2),
                db = field(arena, {s.rows, s.rank}, 1);
    const Lora lora{a.view, b.view, 0.5f, da.view, db.view};
    Matrix m = matrix_over(w.view);
    m.lora = &lora;
    const Loss loss{[&] {
                      ref::linear({m, x.view, {}, y.view}, true);
                      return weighted(y.view, dy.view).value;
                    },
                    static_cast<double>(1 + s.rank) * linear_error(dy, s.cols + s.rank), kWide};
    checked(ref::linear_backward, {m, x.view, dy.view, dx.view, {}, {}});
    const std::string name = fmt::format("n={} rows={} cols={} rank={}", s.n, s.rows, s.cols, s.rank);
    expect_gradient(x.view, dx, loss, name + " x");
    expect_gradient(a.view, da, loss, name + " a");
    expect_gradient(b.view, db, loss, name + " b");

    // Merged: a and b get the same, dx what the matrix alone gives.
    const std::vector<float> all_da = da.now(), all_db = db.now();
    dx.restore(), da.restore(), db.restore();
    Lora merged = lora;
    merged.merged = true, m.lora = &merged;
    checked(ref::linear_backward, {m, x.view, dy.view, dx.view, {}, {}});
    const std::vector<float> merged_dx = dx.now();
    EXPECT_EQ(da.now(), all_da);
    EXPECT_EQ(db.now(), all_db);
    dx.restore(), m.lora = nullptr;
    checked(ref::linear_backward, {m, {}, dy.view, dx.view, {}, {}});
    EXPECT_EQ(dx.now(), merged_dx);
  }
}

// ---- swiglu ----

TEST(SwigluBackward, IsTheDerivativeAndMayOverwriteItsInputs) {
  for (const auto& [n, d, gap] : {std::array<int64_t, 3>{1, 1, 0}, {1, 9, 0}, {4, 7, 2}}) {
    Arena arena;
    const Field gate = field(arena, {n, d}, gap), up = field(arena, {n, d}, gap),
                dy = field(arena, {n, d}, gap), y = field(arena, {n, d}, gap);
    for_each_element(gate.view, [](float* at) { *at *= 4; });
    Field dgate = field(arena, {n, d}, gap), dup = field(arena, {n, d}, gap);
    checked(ref::swiglu_backward, {gate.view, up.view, dy.view, dgate.view, dup.view});
    const std::vector<float> want_gate = dgate.now(), want_up = dup.now();
    for (Field* set : {&dgate, &dup})  // set, not added to: as if it had been zero
      for_each_element(set->view, [&](float* at) { set->before[static_cast<size_t>(at - set->data)] = 0; });
    const auto loss = [&] {
      ref::swiglu({gate.view, up.view, y.view}, true);
      return weighted(y.view, dy.view);
    };
    const double error = gamma(6) * loss().magnitude + 1e-7;
    expect_gradient(gate.view, dgate, {[&] { return loss().value; }, error, 0x1p-4}, "gate");
    expect_gradient(up.view, dup, {[&] { return loss().value; }, error, 0.5}, "up");

    const auto values = [](const Tensor& t) {
      std::vector<float> all;
      for_each_element(t, [&](float* at) { all.push_back(*at); });
      return all;
    };
    const std::vector<float> g = values(dgate.view), u = values(dup.view);
    struct Over {
      const Field *dgate, *dup;
    };
    const std::vector<float> inputs[] = {gate.now(), up.now(), dy.now()};
    const Field* fields[] = {&gate, &up, &dy};
    for (const Over& over : {Over{&dy, &gate}, Over{&gate, &up}, Over{&up, &dy}, Over{&gate, &dy}}) {
      for (int i = 0; i < 3; ++i) std::copy(inputs[i].begin(), inputs[i].end(), fields[i]->data);
      checked(ref::swiglu_backward, {gate.view, up.view, dy.view, over.dgate->view, over.dup->view});
      EXPECT_EQ(values(over.dgate->view), g);
      EXPECT_EQ(values(over.dup->view), u);
    }
    for (int i = 0; i < 3; ++i) std::copy(inputs[i].begin(), inputs[i].end(), fields[i]->data);
    checked(ref::swiglu_backward, {gate.view, up.view, dy.view, {}, dy.view});
    EXPECT_EQ(values(dy.view), u);
  }
}

TEST(SwigluBackward, StaysFiniteFarOut) {
  float gate[] = {-1000, -90, 90, 1000}, up[] = {2, 2, 2, 2}, dy[] = {1, 1, 1, 1}, dgate[4], dup[4];
  checked(ref::swiglu_backward, {f32_tensor(gate, {1, 4}), f32_tensor(up, {1, 4}), f32_tensor(dy, {1, 4}),
                                 f32_tensor(dgate, {1, 4}), f32_tensor(dup, {1, 4})});
  EXPECT_EQ(dgate[0], 0);
  EXPECT_EQ(dgate[3], 2);
  EXPECT_EQ(dup[0], 0);
  EXPECT_EQ(dup[3], 1000);
  EXPECT_NEAR(dgate[1], 0, 1e-30);
  EXPECT_FLOAT_EQ(dgate[2], 2);
}

// ---- attention ----

struct AttentionShape {
  int64_t n, heads, kv_heads, own, rest, v_dim, gap;
  std::vector<int64_t> starts;
};

struct AttentionProblem {
  AttentionProblem(Arena& arena, const AttentionShape& shape)
      : s(shape),
        q(field(arena, {s.n, s.heads, s.own + s.rest}, s.gap)),
        k(field(arena, {s.n, s.kv_heads, s.own}, s.gap)),
        shared(field(arena, {s.n, s.rest}, s.gap)),
        v(field(arena, {s.n, s.kv_heads, s.v_dim}, s.gap)),
        out(field(arena, {s.n, s.heads, s.v_dim}, s.gap)),
        dout(field(arena, {s.n, s.heads, s.v_dim}, s.gap)),
        dq(field(arena, {s.n, s.heads, s.own + s.rest}, s.gap)),
        dk(field(arena, {s.n, s.kv_heads, s.own}, s.gap)),
        dshared(field(arena, {s.n, s.rest}, s.gap)),
        dv(field(arena, {s.n, s.kv_heads, s.v_dim}, s.gap)),
        rows(static_cast<size_t>(s.n * width())),
        pages(static_cast<size_t>(s.n)) {
    std::iota(pages.begin(), pages.end(), 0);
    if (s.rest == 0) shared.view = dshared.view = Tensor();
    forward();
    args.q = q.view, args.k = k.view, args.shared = shared.view, args.v = v.view, args.scale = 0.7f;
    args.starts = s.starts, args.out = out.view, args.dout = dout.view;
    args.dq = dq.view, args.dk = dk.view, args.dshared = dshared.view, args.dv = dv.view;
  }
  int64_t width() const { return s.kv_heads * (s.own + s.rest + s.v_dim); }

  // The forward reference over a cache of float32 rows [key of each head | value of each head].
  void forward() {
    float* to = rows.data();
    for (int64_t t = 0; t < s.n; ++t) {
      for (int64_t h = 0; h < s.kv_heads; ++h) {
        const float* own = k.view.f32() + t * k.view.stride[0] + h * k.view.stride[1];
        to = std::copy(own, own + s.own, to);
        const float* rest = s.rest ? shared.view.f32() + t * shared.view.stride[0] : nullptr;
        to = std::copy(rest, rest + s.rest, to);
      }
      for (int64_t h = 0; h < s.kv_heads; ++h) {
        const float* value = v.view.f32() + t * v.view.stride[0] + h * v.view.stride[1];
        to = std::copy(value, value + s.v_dim, to);
      }
    }
    for (size_t i = 0; i + 1 < s.starts.size(); ++i) {
      const int64_t first = s.starts[i], count = s.starts[i + 1] - first;
      AttentionArgs a;
      a.q = q.view.rows(first, count), a.out = out.view.rows(first, count);
      a.kv_heads = s.kv_heads, a.scale = 0.7f;
      a.k_dim = s.own + s.rest, a.v_dim = s.v_dim, a.v_column = s.kv_heads * a.k_dim;
      a.cache.base = rows.data() + first * width(), a.cache.width = width(), a.cache.page_tokens = 1;
      a.cache.pages = pages.data(), a.cache.capacity = count;
      ref::attention(a, true);
    }
  }

  const AttentionShape s;
  Field q, k, shared, v, out, dout, dq, dk, dshared, dv;
  std::vector<float> rows;
  std::vector<int32_t> pages;
  AttentionBackwardArgs args;
};

TEST(AttentionBackward, IsTheDerivative) {
  for (const AttentionShape& s :
       {AttentionShape{1, 1, 1, 1, 0, 1, 0, {0, 1}}, AttentionShape{1, 2, 1, 3, 2, 4, 0, {0, 1}},
        AttentionShape{5, 4, 1, 3, 0, 2, 0, {0, 5}}, AttentionShape{4, 4, 2, 3, 2, 5, 2, {0, 4}},
        AttentionShape{6, 3, 3, 4, 3, 2, 1, {0, 2, 2, 6}}, AttentionShape{3, 4, 4, 2, 0, 3, 3, {0, 3}},
        AttentionShape{5, 2, 2, 0, 3, 2, 0, {0, 3, 4, 5}}}) {
    Arena arena;
    AttentionProblem p(arena, s);
    checked(ref::attention_backward, p.args);
    const auto sum = [&] {
      p.forward();
      return weighted(p.out.view, p.dout.view);
    };
    const double error = kUnit * sum().magnitude;
    const Loss loss{[&] { return sum().value; }, error}, linear{[&] { return sum().value; }, error, 0.5};
    const std::string name =
        fmt::format("n={} heads={}/{} k={}+{} v={}", s.n, s.heads, s.kv_heads, s.own, s.rest, s.v_dim);
    expect_gradient(p.q.view, p.dq, loss, name + " q");
    if (s.own > 0) expect_gradient(p.k.view, p.dk, loss, name + " k");
    if (s.rest > 0) expect_gradient(p.shared.view, p.dshared, loss, name + " shared");
    expect_gradient(p.v.view, p.dv, linear, name + " v");
  }
}

TEST(AttentionBackward, LeavesOutWhatNobodyWants) {
  Arena arena;
  AttentionProblem p(arena, {4, 4, 2, 3, 2, 5, 1, {0, 4}});
  checked(ref::attention_backward, p.args);
  const Field* gradients[] = {&p.dq, &p.dk, &p.dshared, &p.dv};
  std::vector<float> all[4];
  for (int i = 0; i < 4; ++i) all[i] = gradients[i]->now(), gradients[i]->restore();
  for (int i = 0; i < 4; ++i) {
    AttentionBackwardArgs one = p.args;
    Tensor* wanted[] = {&one.dq, &one.dk, &one.dshared, &one.dv};
    for (int j = 0; j < 4; ++j)
      if (j != i) *wanted[j] = Tensor();
    checked(ref::attention_backward, one);
  }
  for (int i = 0; i < 4; ++i) EXPECT_EQ(gradients[i]->now(), all[i]) << i;
}

// ---- router ----

struct RouterShape {
  int64_t n, rows, experts, k;
  Scoring scoring;
  bool normalize;
};

// The forward picks by score + bias: biases 100 apart fix the choice, so that differences see the weights
// alone.
void test_router(const RouterShape& s) {
  Arena arena;
  const Field logits = field(arena, {s.n, s.rows}, 1), eye = field(arena, {s.rows, s.rows}),
              bias = field(arena, {s.rows}), weights = field(arena, {s.n, s.k}),
              c = field(arena, {s.n, s.k}, 2);
  std::vector<int32_t> order(static_cast<size_t>(s.rows)), chosen;
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), arena.random());
  for (int64_t r = 0; r < s.rows; ++r) {
    for (int64_t e = 0; e < s.rows; ++e) eye.data[r * s.rows + e] = r == e ? 1.0f : 0.0f;
    bias.data[order[static_cast<size_t>(r)]] = 100.0f * static_cast<float>(s.rows - r);
  }
  for (int64_t t = 0; t < s.n; ++t) chosen.insert(chosen.end(), order.begin(), order.begin() + s.k);
  const Tensor ids = ids_tensor(arena, chosen, {s.n, s.k}), out_ids = ids_tensor(arena, chosen, {s.n, s.k});
  RouterArgs forward;
  forward.x = logits.view, forward.gate = matrix_over(eye.view), forward.bias = bias.view;
  forward.scoring = s.scoring, forward.n_experts = s.experts, forward.normalize = s.normalize,
  forward.scale = 2.5f;
  forward.ids = out_ids, forward.weights = weights.view;
  const auto sum = [&] {
    ref::router(forward, true);
    return weighted(weights.view, c.view);
  };
  const double error = gamma(static_cast<double>(s.rows) + 12) * sum().magnitude;
  const Field dlogits = field(arena, {s.n, s.rows}, 3);
  const Loss loss{[&] { return sum().value; }, error, 0x1p-3};
  RouterBackwardArgs args{
      logits.view, ids, field(arena, {s.n, s.k}).view, s.scoring, s.experts, s.normalize, 2.5f, dlogits.view};
  for (int64_t i = 0; i < s.n * s.k; ++i) {
    const int32_t id = ids.i32()[i];
    ASSERT_EQ(out_ids.i32()[i], id < s.experts ? id : -1);
    args.dweights.f32()[i] = id < s.experts ? c.view.f32()[i / s.k * c.view.stride[0] + i % s.k] : kNaN;
  }
  checked(ref::router_backward, args);
  expect_gradient(logits.view, dlogits, loss,
                  fmt::format("n={} rows={} experts={} k={} sigmoid={} normalize={}", s.n, s.rows, s.experts,
                              s.k, s.scoring == Scoring::kSigmoid, s.normalize));
}

TEST(RouterBackward, IsTheDerivative) {
  for (const Scoring scoring : {Scoring::kSoftmax, Scoring::kSigmoid}) {
    for (const bool normalize : {false, true}) {
      test_router({1, 1, 1, 1, scoring, normalize});
      test_router({1, 6, 6, 2, scoring, normalize});
      test_router({3, 8, 5, 4, scoring, normalize});  // three zero experts
      test_router({2, 7, 7, 7, scoring, normalize});
      test_router({4, 9, 2, 5, scoring, normalize});
      test_router({2, 5, 0, 3, scoring, normalize});  // nothing but zero experts
      test_router({2, 5, 3, 0, scoring, normalize});
    }
  }
}

// ---- balance loss ----

// ZEDA's group loss of one sequence from its shares by row, f = slots / T.
double group_loss(const BalanceBackwardArgs& args, const std::vector<double>& f,
                  const std::vector<double>& p) {
  const double real = static_cast<double>(args.n_experts), k = static_cast<double>(args.ids.shape[1]);
  const double zero = static_cast<double>(args.zero_weight) * (static_cast<double>(f.size()) - real);
  const auto sum = [&](const std::vector<double>& v, bool zeros) {
    const auto middle = v.begin() + args.n_experts;
    return zeros ? std::accumulate(middle, v.end(), 0.0) : std::accumulate(v.begin(), middle, 0.0);
  };
  return static_cast<double>(args.alpha) * (real + zero) / k *
         (sum(f, false) * sum(p, false) / real + sum(f, true) * sum(p, true) / zero);
}

// The loss as the papers write it, in double.
double balance_loss(const BalanceBackwardArgs& args) {
  const int64_t rows = args.logits.shape[1], k = args.ids.shape[1];
  double loss = 0;
  for (size_t i = 0; i + 1 < args.starts.size(); ++i) {
    const int64_t tokens = args.starts[i + 1] - args.starts[i];
    std::vector<double> f(static_cast<size_t>(rows)), p(f.size());
    for (int64_t t = args.starts[i]; t < args.starts[i + 1]; ++t) {
      std::vector<double> s(f.size());
      double sum = 0;
      for (int64_t e = 0; e < rows; ++e) {
        const double x = args.logits.f32()[t * args.logits.stride[0] + e];
        sum += s[e] = args.scoring == Scoring::kSigmoid ? 1 / (1 + std::exp(-x)) : std::exp(x);
      }
      for (int64_t e = 0; e < rows; ++e) p[e] += s[e] / sum / static_cast<double>(tokens);
      for (int64_t s_at = 0; s_at < k; ++s_at)
        f[args.ids.i32()[t * k + s_at]] += static_cast<double>(rows) / static_cast<double>(k * tokens);
    }
    if (args.zero_weight > 0 && tokens > 0) {
      for (double& share : f) share *= static_cast<double>(k) / static_cast<double>(rows);
      loss += group_loss(args, f, p);
      continue;
    }
    for (int64_t e = 0; e < rows; ++e) loss += static_cast<double>(args.alpha) * f[e] * p[e];
  }
  return loss;
}

TEST(BalanceBackward, IsTheDerivative) {
  const std::vector<int64_t> starts{0, 3, 3, 8, 9};
  constexpr int64_t kTokens = 9, kRows = 5, kChosen = 2;
  for (const auto& [scoring, zero_weight] :
       {std::pair(Scoring::kSoftmax, 0.0f), std::pair(Scoring::kSigmoid, 0.0f),
        std::pair(Scoring::kSoftmax, 2.0f), std::pair(Scoring::kSigmoid, 0.5f)}) {
    Arena arena;
    const Field logits = field(arena, {kTokens, kRows}, 1), dlogits = field(arena, {kTokens, kRows}, 3);
    std::vector<int32_t> chosen;
    for (int64_t i = 0; i < kTokens; ++i) {
      const int32_t first = static_cast<int32_t>(arena.random()() % kRows);
      chosen.push_back(first), chosen.push_back((first + 1 + static_cast<int32_t>(i) % 3) % kRows);
    }
    const BalanceBackwardArgs args{
        logits.view, ids_tensor(arena, chosen, {kTokens, kChosen}), starts, scoring, 0.5f, dlogits.view, 3,
        zero_weight};
    const Loss loss{[&] { return balance_loss(args); }, gamma(kRows + 12), 0x1p-3};
    checked(ref::balance_backward, args);
    expect_gradient(logits.view, dlogits, loss,
                    fmt::format("sigmoid={} w={}", scoring == Scoring::kSigmoid, zero_weight));
  }
}

// ---- expert_ffn ----

struct ExpertProblem {
  ExpertProblem(Arena& arena, int64_t n, int64_t k, int64_t hidden, const std::vector<int64_t>& widths,
                std::vector<int32_t> chosen, Format format = Format::kF32)
      : x(field(arena, {n, hidden}, 1)),
        weights(field(arena, {n, k}, 2)),
        slots(field(arena, {n, k, hidden})),
        y(field(arena, {n, hidden})),
        dy(field(arena, {n, hidden}, 2)),
        dx(field(arena, {n, hidden}, 2)),
        dslots(field(arena, {n, k, hidden}, 1)),
        dweights(field(arena, {n, k}, 1)),
        ids(ids_tensor(arena, chosen, {n, k})) {
    for (const int64_t width : widths) {
      matrices.push_back(
          {field(arena, {width, hidden}), field(arena, {width, hidden}), field(arena, {hidden, width})});
      sums.push_back({field(arena, {width, hidden}, 1), field(arena, {width, hidden}, 1),
                      field(arena, {hidden, width}, 1)});
      if (format == Format::kF32) {
        experts.push_back({matrix_over(matrices.back()[0].view), matrix_over(matrices.back()[1].view),
                           matrix_over(matrices.back()[2].view)});
      } else {
        experts.push_back({arena_matrix(arena, {format, width, hidden}),
                           arena_matrix(arena, {format, width, hidden}),
                           arena_matrix(arena, {format, hidden, width})});
      }
      gradients.push_back({sums.back()[0].view, sums.back()[1].view, sums.back()[2].view});
    }
    args.x = x.view, args.experts = experts.data(), args.n_experts = static_cast<int64_t>(experts.size());
    args.ids = ids, args.weights = weights.view, args.dy = dy.view;
    args.dslots = dslots.view, args.dweights = dweights.view, args.gradients = gradients.data();
  }
  // The operation, and the sum of its slots.
  void run() {
    checked(ref::expert_ffn_backward, args);
    if (!args.dslots.empty()) ref::combine({dslots.view, ids, Tensor(), dx.view}, true);
  }
  double value() {
    ref::expert_ffn({x.view, experts.data(), args.n_experts, ids, slots.view}, true);
    std::fill_n(y.data, y.before.size(), 0.0f);
    ref::combine({slots.view, ids, weights.view, y.view}, true);
    return weighted(y.view, dy.view).value;
  }
  // Each of gate and up errs by gamma(hidden) * hidden, silu and the product by a few units, down adds width
  // terms, combine k; activations are below 2 * hidden, and every weight and |dy| is at most 1, in one token
  // at a time.
  double error() const {
    const double hidden = static_cast<double>(x.view.shape[1]), k = static_cast<double>(ids.shape[1]);
    return gamma(2) * hidden * hidden * k;
  }
  // dweights is set, not added to: as if it had been zero.
  void expect_dweights(const Loss& loss, const std::string& name) {
    for_each_element(dweights.view,
                     [&](float* at) { dweights.before[static_cast<size_t>(at - dweights.data)] = 0; });
    expect_gradient(weights.view, dweights, loss, name + " weights");
  }

  Field x, weights, slots, y, dy, dx, dslots, dweights;
  Tensor ids;
  std::vector<std::array<Field, 3>> matrices, sums;
  std::vector<ExpertWeights> experts;
  std::vector<ExpertGradients> gradients;
  ExpertFfnBackwardArgs args;
};

TEST(ExpertFfnBackward, IsTheDerivative) {
  struct Shape {
    int64_t n, k, hidden;
    std::vector<int64_t> widths;
    std::vector<int32_t> ids;
  };
  for (const Shape& s :
       {Shape{1, 1, 1, {1}, {0}}, Shape{1, 2, 5, {3, 4}, {1, 0}},
        Shape{3, 2, 6, {4, 0, 2, 3}, {0, -1, 1, 2, 2, 0}}, Shape{2, 3, 4, {2, 5}, {-1, -1, -1, 1, 0, -1}}}) {
    Arena arena;
    ExpertProblem p(arena, s.n, s.k, s.hidden, s.widths, s.ids);
    p.run();
    const Loss loss{[&] { return p.value(); }, p.error(), 0x1p-3};
    const std::string name = fmt::format("n={} k={} hidden={}", s.n, s.k, s.hidden);
    expect_gradient(p.x.view, p.dx, loss, name + " x");
    p.expect_dweights(loss, name);
    for (size_t e = 0; e < s.widths.size(); ++e) {
      if (s.widths[e] == 0) continue;
      for (size_t m = 0; m < 3; ++m)
        expect_gradient(p.matrices[e][m].view, p.sums[e][m], loss,
                        fmt::format("{} expert {} matrix {}", name, e, m));
    }
  }
}

TEST(ExpertFfnBackward, LeavesFrozenMatricesOut) {
  Arena arena;
  ExpertProblem p(arena, 3, 2, 6, {4, 3}, {0, 1, 1, -1, 0, 0});
  p.run();
  const std::vector<float> dx = p.dx.now(), down = p.sums[1][2].now(), dweights = p.dweights.now();
  for (auto& expert : p.sums)
    for (const Field& sum : expert) sum.restore();
  p.dx.restore();
  p.gradients[0] = {}, p.gradients[1].gate = p.gradients[1].up = Tensor();
  p.run();
  EXPECT_EQ(p.dx.now(), dx);
  EXPECT_EQ(p.sums[1][2].now(), down);
  EXPECT_EQ(p.sums[0][0].now(), p.sums[0][0].before);
  EXPECT_EQ(p.sums[1][1].now(), p.sums[1][1].before);
  p.dx.restore(), p.dweights.restore();
  p.args.gradients = nullptr, p.args.dweights = Tensor();
  p.run();
  EXPECT_EQ(p.dx.now(), dx);
  EXPECT_EQ(p.dweights.now(), p.dweights.before);
  p.dx.restore();
  p.args.dweights = p.dweights.view, p.args.dslots = Tensor();
  p.run();
  EXPECT_EQ(p.dx.now(), p.dx.before);
  EXPECT_EQ(p.dweights.now(), dweights);
}

// Adapters on the matrices, against differences by their numbers and through them.
TEST(ExpertFfnBackward, PassesThroughAdapters) {
  Arena arena;
  ExpertProblem p(arena, 3, 2, 6, {4, 3}, {0, 1, 1, -1, 0, 0});
  struct Parts {
    Field a, b, da, db;
    Lora lora;
  };
  std::vector<std::unique_ptr<Parts>> adapters;
  for (Matrix* w : {&p.experts[0].gate, &p.experts[0].down, &p.experts[1].up}) {
    const int64_t rank = 1 + static_cast<int64_t>(adapters.size());
    auto part = std::make_unique<Parts>(Parts{field(arena, {rank, w->cols}),
                                              field(arena, {w->rows, rank}),
                                              field(arena, {rank, w->cols}, 1),
                                              field(arena, {w->rows, rank}, 2),
                                              {}});
    part->lora = {part->a.view, part->b.view, 0.5f, part->da.view, part->db.view};
    w->lora = &part->lora;
    adapters.push_back(std::move(part));
  }
  p.run();
  const Loss loss{[&] { return p.value(); }, 2 * p.error(), 0x1p-3};
  expect_gradient(p.x.view, p.dx, loss, "x");
  p.expect_dweights(loss, "");
  for (size_t i = 0; i < adapters.size(); ++i) {
    expect_gradient(adapters[i]->a.view, adapters[i]->da, loss, fmt::format("a of {}", i));
    expect_gradient(adapters[i]->b.view, adapters[i]->db, loss, fmt::format("b of {}", i));
  }
}

TEST(ExpertFfnBackward, ReadsWeightsOfEveryFormat) {
  for (const Format format : kFormats6) {
    Arena arena;
    ExpertProblem p(arena, 2, 2, 6, {24, 30}, {1, 0, -1, 1}, format);
    p.run();
    expect_gradient(p.x.view, p.dx, {[&] { return p.value(); }, 2 * p.error(), 0x1p-3}, format_name(format));
  }
}

// ---- cross_entropy ----

TEST(CrossEntropy, IsTheLossAndItsDerivative) {
  struct Shape {
    int64_t n, vocab, gap;
    bool weighted;
  };
  for (const Shape& s :
       {Shape{1, 1, 0, false}, Shape{1, 6, 0, true}, Shape{5, 9, 2, true}, Shape{4, 33, 1, false}}) {
    Arena arena;
    const Field logits = field(arena, {s.n, s.vocab}, s.gap), weights = field(arena, {s.n}),
                loss = field(arena, {s.n});
    for (float& x : std::span(logits.data, logits.before.size())) x *= 4;
    std::vector<int32_t> targets;
    for (int64_t i = 0; i < s.n; ++i)
      targets.push_back(s.n > 1 && i == 2 ? -1 : static_cast<int32_t>(arena.below(s.vocab)));
    const Tensor ids = ids_tensor(arena, targets, {s.n});
    Field work = field(arena, {s.n, s.vocab}, s.gap);
    const CrossEntropyArgs args{work.view, ids, s.weighted ? weights.view : Tensor(), loss.view, {}};
    double magnitude = 0;
    const auto sum = [&] {  // the loss that the operation itself states
      std::copy(logits.data, logits.data + logits.before.size(), work.data);
      checked(ref::cross_entropy, args);
      double total = 0;
      magnitude = 0;
      for (int64_t i = 0; i < s.n; ++i) total += loss.data[i], magnitude += std::fabs(loss.data[i]);
      return total;
    };
    sum();
    for (int64_t i = 0; i < s.n; ++i) {  // by the formula
      const float* row = logits.data + i * logits.view.stride[0];
      double normalizer = 0;
      for (int64_t j = 0; j < s.vocab; ++j) normalizer += std::exp(static_cast<double>(row[j]));
      const int32_t target = targets[static_cast<size_t>(i)];
      const double want =
          target < 0 ? 0 : (s.weighted ? weights.data[i] : 1.0) * (std::log(normalizer) - row[target]);
      EXPECT_NEAR(loss.data[i], want, 1e-6 * (1 + std::fabs(want)));
    }
    Field gradient = work;
    gradient.before = gradient.now();
    Arena kept;
    Field copy = field(kept, {s.n, s.vocab}, s.gap);
    std::copy(gradient.before.begin(), gradient.before.end(), copy.data);
    copy.before = copy.now();
    for_each_element(copy.view, [&](float* at) { copy.before[static_cast<size_t>(at - copy.data)] = 0; });
    expect_gradient(logits.view, copy, {sum, 2 * kUnit * (magnitude + 1), 0x1p-3},
                    fmt::format("n={} vocab={}", s.n, s.vocab));
  }
}

TEST(CrossEntropy, StaysFiniteFarOut) {
  Arena arena;
  float logits[] = {1e4f, -1e4f, 0, 0, 0, 0}, loss[2];
  checked(ref::cross_entropy,
          {f32_tensor(logits, {2, 3}), ids_tensor(arena, {1, -1}, {2}), {}, f32_tensor(loss, {2}), {}});
  EXPECT_EQ(loss[0], 2e4f);
  EXPECT_EQ(loss[1], 0);
  EXPECT_EQ(std::vector<float>(logits, logits + 6), (std::vector<float>{1, -1, 0, 0, 0, 0}));
}

// ---- embed ----

TEST(EmbedBackward, IsTheDerivative) {
  struct Shape {
    std::vector<int32_t> ids;
    int64_t vocab, hidden;
  };
  for (const Shape& s : {Shape{{0}, 1, 1}, Shape{{3, 0, 3, 4, 3}, 6, 5}, Shape{{1, 1}, 2, 9}}) {
    Arena arena;
    const int64_t n = static_cast<int64_t>(s.ids.size());
    const Field table = field(arena, {s.vocab, s.hidden}), dy = field(arena, {n, s.hidden}, 1),
                out = field(arena, {n, s.hidden}), dtable = field(arena, {s.vocab, s.hidden}, 2);
    const Tensor ids = ids_tensor(arena, s.ids, {n});
    checked(ref::embed_backward, {ids, dy.view, dtable.view});
    const auto loss = [&] {
      ref::embed({matrix_over(table.view), ids, out.view}, true);
      return weighted(out.view, dy.view).value;
    };
    expect_gradient(table.view, dtable, {loss, 1e-12, kWide}, "table");
  }
}

// ---- shapes ----

TEST(GradOpsDeathTest, RefuseShapesThatDoNotFit) {
  float numbers[64] = {};
  int32_t id[] = {0, 5};
  const auto f = [&](std::initializer_list<int64_t> shape) { return f32_tensor(numbers, shape); };
  const Tensor ids(id, DType::kI32, {1, 2});
  Matrix w;
  w.rows = 2, w.cols = 3, w.data = numbers;
  EXPECT_DEATH(check(RmsNormBackwardArgs{f({2, 3}), f({3}), 0, f({2, 3}), f({2, 4}), {}}),
               "rms_norm_backward");
  EXPECT_DEATH(check(LinearBackwardArgs{w, {}, f({2, 2}), f({2, 4}), {}, {}}), "linear");
  EXPECT_DEATH(check(LinearBackwardArgs{w, {}, f({2, 2}), {}, f({2, 3}), {}}), "linear_backward");
  EXPECT_DEATH(check(LinearBackwardArgs{w, {}, f({2, 2}), {}, {}, f({3})}), "linear_backward");
  EXPECT_DEATH(check(SwigluBackwardArgs{f({1, 2}), f({1, 2}), f({1, 2}), f({1, 2}), f({1, 2})}),
               "swiglu_backward");
  const int64_t starts[] = {0, 1};
  AttentionBackwardArgs attention;
  attention.q = f({1, 2, 2}), attention.k = f({1, 2, 2}), attention.v = f({1, 2, 1});
  attention.out = attention.dout = f({1, 2, 1}), attention.starts = starts;
  check(attention);
  attention.q = f({1, 2, 3});
  EXPECT_DEATH(check(attention), "attention_backward");
  attention.q = f({1, 2, 2}), attention.highest = f({1});
  EXPECT_DEATH(check(attention), "attention_backward");
  attention.highest = Tensor(), attention.starts = std::span(starts).first(1);
  EXPECT_DEATH(check(attention), "attention_backward");
  RouterBackwardArgs router{f({1, 5}), ids, f({1, 2}), Scoring::kSoftmax, 5, false, 1, f({1, 5})};
  EXPECT_DEATH(check(router), "router_backward");
  EXPECT_DEATH(check(CrossEntropyArgs{f({1, 5}), ids.slice(1, 1, 1).reshape({1}), {}, f({1}), {}}),
               "cross_entropy");
  EXPECT_DEATH(check(EmbedBackwardArgs{Tensor(id, DType::kI32, {2}), f({2, 3}), f({5, 3})}),
               "embed_backward");
  const ExpertWeights expert{w, w, Matrix{Format::kF32, 3, 2, numbers}};
  const ExpertGradients wrong{f({2, 3}), {}, f({2, 3})};
  const Tensor one(id, DType::kI32, {1, 1});
  ExpertFfnBackwardArgs args;
  args.x = f({1, 3}), args.experts = &expert, args.n_experts = 1, args.ids = one, args.weights = f({1, 1});
  args.dy = f({1, 3});
  check(args);
  args.gradients = &wrong;
  EXPECT_DEATH(check(args), "expert_ffn_backward");
  args.gradients = nullptr, args.dweights = f({1, 2});
  EXPECT_DEATH(check(args), "expert_ffn_backward");
}

TEST(GradOpsDeathTest, RefuseAdaptersThatDoNotFit) {
  float numbers[64] = {};
  const auto f = [&](std::initializer_list<int64_t> shape) { return f32_tensor(numbers, shape); };
  const auto adapter = [&](int64_t rank, int64_t cols, int64_t rows, int64_t rank_of_b) {
    return Lora{f({rank, cols}), f({rows, rank_of_b}), 1, {}, {}};
  };
  const Lora lora = adapter(2, 3, 4, 2);
  Matrix w;
  w.rows = 4, w.cols = 3, w.data = numbers, w.lora = &lora;
  check(LinearArgs{w, f({2, 3}), {}, f({2, 4})});
  check(LinearBackwardArgs{w, {}, f({2, 4}), f({2, 3}), {}, {}});
  MlaValueArgs other{f({1, 1, 3}), w, 2, 2, f({1, 1, 2})};
  EXPECT_DEATH(check(other), "mla_value");  // it would not add the adapter
  Lora merged = lora;
  merged.merged = true, other.kv_b.lora = &merged;
  check(other);
  Lora wrong_gradient = lora;
  wrong_gradient.da = f({3, 3});
  for (const Lora& wrong :
       {adapter(2, 2, 4, 2), adapter(2, 3, 3, 2), adapter(2, 3, 4, 1), wrong_gradient, Lora{}}) {
    w.lora = &wrong;
    EXPECT_DEATH(check(LinearArgs{w, f({2, 3}), {}, f({2, 4})}), "linear");
    EXPECT_DEATH(check(LinearBackwardArgs{w, {}, f({2, 4}), f({2, 3}), {}, {}}), "linear");
  }
  Lora gradient = lora;
  gradient.da = f({2, 3}), w.lora = &gradient;
  EXPECT_DEATH(check(LinearBackwardArgs{w, {}, f({2, 4}), f({2, 3}), {}, {}}), "linear_backward");  // no x
}

}  // namespace
}  // namespace moebius::test
