// The host's backward operations against the scalar references, which grad_test and grad_golden_test hold to
// the derivatives: with 1, 2 and 3 threads, the bits of which must agree, for every instruction set.
//
// Those that run the references on slices must give their bits. Those made of float32 products and sums may
// stand off by 1e-5 of the largest number of the gradient: sums of up to some hundred terms of random sign
// err by a few units in the last place of their largest partial sums, which is a tenth of that. Those that
// compute number by number in float32 may stand off by 1e-6 of it: an exponential (4 halves of a unit in the
// last place, and up to 0.4 for the rounding of x in x e^-x), and up to ten products and sums, 2^-24 each.
#include <array>
#include <limits>
#include <memory>
#include <string_view>

#include "kernels/backend.h"
#include "kernels/cpu/host_grad.h"
#include "kernels/gemm.h"
#include "kernels/probe.h"
#include "tests/grad_probe.h"

namespace moebius::test {
namespace {

constexpr Format kFormats6[] = {Format::kF32,      Format::kBF16, Format::kF16,
                                Format::kFp8Block, Format::kInt8, Format::kInt4};

double largest_gap(const std::vector<float>& got, const std::vector<float>& want) {
  double gap = 0, largest = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::fabs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    gap = error <= gap ? gap : error;  // keeps a NaN
    largest = std::max(largest, std::fabs(static_cast<double>(want[i])));
  }
  return largest > 0 ? gap / largest : gap;
}

// Leaves NaN in memory that operations may take for zeroed.
void soil(Scratch& scratch) {
  const Scratch::Frame frame(scratch);
  constexpr int64_t kNumbers = int64_t{1} << 18;
  std::fill_n(scratch.take<float>(kNumbers), kNumbers, std::numeric_limits<float>::quiet_NaN());
}

// written: every field that the operation writes.
template <class Args>
void test_candidates(std::span<const Candidate<Args>> candidates, const Args& args,
                     const std::vector<const Field*>& written, double bound, const std::string& name) {
  check(args);
  const auto run = [&](const Candidate<Args>& candidate, HostContext& context) {
    for (const Field* f : written) f->restore();
    candidate.run(args, context);
    std::vector<std::vector<float>> results;
    for (const Field* f : written) results.push_back(f->now());
    return results;
  };
  HostContext plain;
  const auto want = run(candidates.back(), plain);
  ASSERT_GE(candidates.size(), 2u);
  for (const Candidate<Args>& candidate : candidates.first(candidates.size() - 1)) {
    for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
      if (isa > cpu_features().isa()) continue;
      const bool slices = std::string_view(candidate.name).ends_with("_rows") ||
                          std::string_view(candidate.name).ends_with("_columns");
      std::vector<std::vector<float>> one;
      for (const int threads : {1, 2, 3}) {
        HostContext context(threads);
        context.isa = isa;
        soil(context.scratch);
        if (candidate.declines(args, context)) continue;
        const auto got = run(candidate, context);
        if (threads == 1) one = got;
        for (size_t i = 0; i < got.size(); ++i) {
          const std::string where = fmt::format("{} {} output {} {}", candidate.name, name, i, isa_name(isa));
          EXPECT_EQ(got[i], one[i]) << where << ": " << threads << " threads against one";
          EXPECT_LE(largest_gap(got[i], want[i]), slices ? 0 : bound) << where;
          expect_gaps_kept(*written[i], where);
        }
      }
    }
  }
}

constexpr double kProducts = 1e-5, kNumbers = 1e-6;

// An adapter with its gradients, which are appended to what an operation writes.
struct AdapterFields {
  AdapterFields(Arena& arena, Matrix& w, int64_t rank, bool merged, std::vector<const Field*>& written)
      : a(field(arena, {rank, w.cols})),
        b(field(arena, {w.rows, rank})),
        da(field(arena, {rank, w.cols}, 1)),
        db(field(arena, {w.rows, rank}, 2)),
        lora{a.view, b.view, 0.75f, da.view, db.view, merged} {
    w.lora = &lora;
    written.push_back(&da), written.push_back(&db);
  }
  AdapterFields(const AdapterFields&) = delete;
  AdapterFields& operator=(const AdapterFields&) = delete;
  Field a, b, da, db;
  Lora lora;
};

Tensor random_ids(Arena& arena, int64_t n, int64_t k, int32_t lowest, int64_t end) {
  int32_t* ids = arena.take<int32_t>(n * k);
  for (int64_t i = 0; i < n * k; ++i) ids[i] = static_cast<int32_t>(lowest + arena.below(end - lowest));
  return Tensor(ids, DType::kI32, {n, k});
}

TEST(GradHost, Linear) {
  for (const Format format : kFormats6) {
    for (const auto& [n, rows, cols, gap] : {std::array<int64_t, 4>{1, 1, 1, 0},
                                             {3, 17, 40, 2},
                                             {70, 300, 130, 1},
                                             {20, 129, 257, 0},
                                             {200, 900, 60, 1}}) {
      Arena arena;
      const Matrix w = arena_matrix(arena, {format, rows, cols});
      const Field x = field(arena, {n, cols}, gap), dy = field(arena, {n, rows}, gap),
                  dx = field(arena, {n, cols}, gap), dw = field(arena, {rows, cols}, gap),
                  dbias = field(arena, {rows});
      const std::string name = fmt::format("{} n={} rows={} cols={}", format_name(format), n, rows, cols);
      const auto test = [&](const LinearBackwardArgs& args) {
        test_candidates(host_linear_backward(), args, {&dx, &dw, &dbias}, kProducts, name);
      };
      test({w, x.view, dy.view, dx.view, dw.view, dbias.view});
      test({w, {}, dy.view, dx.view, {}, {}});
      if (format == Format::kF32) test({{}, x.view, dy.view, {}, dw.view, {}});
      if (format == Format::kF32) test({{}, {}, dy.view, {}, {}, dbias.view});
    }
  }
}

TEST(GradHost, LinearWithAdapter) {
  for (const Format format : kFormats6) {
    for (const auto& [n, rows, cols, rank] :
         {std::array<int64_t, 4>{1, 1, 1, 1}, {5, 17, 40, 3}, {70, 300, 130, 16}, {1200, 90, 60, 8}}) {
      for (const bool merged : {false, true}) {
        Arena arena;
        Matrix w = arena_matrix(arena, {format, rows, cols});
        const Field x = field(arena, {n, cols}, 1), dy = field(arena, {n, rows}, 2),
                    dx = field(arena, {n, cols}, 3), dw = field(arena, {rows, cols}, 1);
        std::vector<const Field*> written = {&dx, &dw};
        AdapterFields adapter(arena, w, rank, merged, written);
        const std::string name = fmt::format("{} n={} rows={} cols={} rank={} merged={}", format_name(format),
                                             n, rows, cols, rank, merged);
        const auto test = [&](const LinearBackwardArgs& args) {
          test_candidates(host_linear_backward(), args, written, kProducts, name);
        };
        test({w, x.view, dy.view, dx.view, {}, {}});
        test({w, x.view, dy.view, {}, dw.view, {}});
        adapter.lora.da = Tensor();
        test({w, x.view, dy.view, dx.view, {}, {}});
        adapter.lora.db = Tensor();
        test({w, {}, dy.view, dx.view, {}, {}});
      }
    }
  }
}

TEST(GradHost, Attention) {
  struct Shape {
    int64_t n, heads, kv_heads, own, rest, v_dim, gap;
    std::vector<int64_t> starts;
  };
  for (const Shape& s : {Shape{1, 1, 1, 1, 0, 1, 0, {0, 1}}, Shape{7, 4, 1, 6, 3, 7, 2, {0, 3, 3, 7}},
                         Shape{64, 4, 2, 8, 4, 5, 1, {0, 64}}, Shape{65, 3, 3, 9, 0, 16, 0, {0, 65}},
                         Shape{140, 4, 4, 8, 4, 8, 3, {0, 140}}, Shape{9, 2, 2, 0, 3, 2, 0, {0, 1, 9}},
                         Shape{150, 4, 2, 8, 4, 8, 1, {0, 70, 71, 150}}}) {
    Arena arena;
    const Field q = field(arena, {s.n, s.heads, s.own + s.rest}, s.gap),
                k = field(arena, {s.n, s.kv_heads, s.own}, s.gap),
                shared = field(arena, {s.n, s.rest}, s.gap),
                v = field(arena, {s.n, s.kv_heads, s.v_dim}, s.gap),
                out = field(arena, {s.n, s.heads, s.v_dim}),
                dout = field(arena, {s.n, s.heads, s.v_dim}, s.gap),
                dq = field(arena, {s.n, s.heads, s.own + s.rest}, s.gap),
                dk = field(arena, {s.n, s.kv_heads, s.own}, s.gap),
                dshared = field(arena, {s.n, s.rest}, s.gap),
                dv = field(arena, {s.n, s.kv_heads, s.v_dim}, s.gap);
    const bool rest = s.rest > 0;
    const Field highest = field(arena, {s.heads});
    // out need not be the forward's for two implementations of one formula to agree.
    AttentionBackwardArgs args;
    args.q = q.view, args.k = k.view, args.v = v.view, args.scale = 0.7f, args.starts = s.starts;
    args.out = out.view, args.dout = dout.view, args.highest = highest.view;
    args.dq = dq.view, args.dk = dk.view, args.dv = dv.view;
    if (rest) args.shared = shared.view, args.dshared = dshared.view;
    const std::vector<const Field*> written = {&dq, &dk, &dshared, &dv, &highest};
    const std::string name = fmt::format("n={} in {} heads={}/{} k={}+{} v={}", s.n, s.starts.size() - 1,
                                         s.heads, s.kv_heads, s.own, s.rest, s.v_dim);
    test_candidates(host_attention_backward(), args, written, kProducts, name);
    args.highest = Tensor();
    for (int kept = 0; kept < 4; ++kept) {
      AttentionBackwardArgs one = args;
      Tensor* wanted[] = {&one.dq, &one.dk, &one.dshared, &one.dv};
      for (int i = 0; i < 4; ++i)
        if (i != kept) *wanted[i] = Tensor();
      test_candidates(host_attention_backward(), one, written, kProducts, name + " one");
    }
  }
}

struct ExpertShape {
  int64_t n, k, hidden;
  std::vector<int64_t> widths;
  int32_t lowest;  // -1: some slots are not in use
  int64_t rank;    // of adapters on some matrices; 0: none
};

// Dweights of slots in use grow with the sums over width and hidden; the bound holds for each tensor.
void test_experts(Format format, const ExpertShape& s) {
  Arena arena;
  const int64_t count = static_cast<int64_t>(s.widths.size());
  const Field x = field(arena, {s.n, s.hidden}, 1), weights = field(arena, {s.n, s.k}, 1),
              dy = field(arena, {s.n, s.hidden}, 2), dslots = field(arena, {s.n, s.k, s.hidden}, 3),
              dweights = field(arena, {s.n, s.k}, 1);
  std::vector<ExpertWeights> experts;
  std::vector<ExpertGradients> gradients;
  std::vector<Field> sums;
  sums.reserve(3 * s.widths.size());
  std::vector<const Field*> written = {&dslots, &dweights};
  for (const int64_t width : s.widths) {
    experts.push_back({arena_matrix(arena, {format, width, s.hidden}),
                       arena_matrix(arena, {format, width, s.hidden}),
                       arena_matrix(arena, {format, s.hidden, width})});
    for (int i = 0; i < 3; ++i) {
      sums.push_back(i < 2 ? field(arena, {width, s.hidden}, 1) : field(arena, {s.hidden, width}, 1));
      written.push_back(&sums.back());
    }
    const Field* last = &sums.back();
    gradients.push_back({last[-2].view, last[-1].view, last->view});
  }
  std::vector<std::unique_ptr<AdapterFields>> adapters;
  for (size_t e = 0; e < experts.size() && s.rank > 0; ++e) {
    int place = 0;
    for (Matrix* w : {&experts[e].gate, &experts[e].up, &experts[e].down})
      if ((static_cast<int>(e) + ++place) % 4 > 0)  // some have none
        adapters.push_back(std::make_unique<AdapterFields>(arena, *w, s.rank + place, place == 2, written));
  }
  ExpertFfnBackwardArgs args;
  args.x = x.view, args.experts = experts.data(), args.n_experts = count;
  args.ids = random_ids(arena, s.n, s.k, s.lowest, count), args.weights = weights.view, args.dy = dy.view;
  args.dslots = dslots.view, args.dweights = dweights.view, args.gradients = gradients.data();
  const std::string name =
      fmt::format("{} n={} k={} hidden={} rank={}", format_name(format), s.n, s.k, s.hidden, s.rank);
  const auto test = [&] { test_candidates(host_expert_ffn_backward(), args, written, kProducts, name); };
  test();
  gradients[0].up = gradients.back().down = Tensor();
  args.dslots = Tensor();
  for (auto& adapter : adapters) adapter->lora.da = Tensor();
  test();
  args.dslots = dslots.view, args.gradients = nullptr;
  for (auto& adapter : adapters) adapter->lora.da = adapter->da.view;
  test();
  args.dweights = Tensor();
  for (auto& adapter : adapters) adapter->lora.db = Tensor();
  test();
}

TEST(GradHost, ExpertFfn) {
  for (const Format format : kFormats6)
    for (const int64_t rank : {0, 2, 32})
      for (const ExpertShape& s : {ExpertShape{1, 1, 1, {1}, 0, rank},
                                   {5, 2, 20, {7, 0, 12, 33}, -1, rank},
                                   {40, 3, 70, {40, 72, 1, 16, 5}, -1, rank},
                                   {3, 2, 8, {4}, -1, rank}})
        test_experts(format, s);
}

// So many slots that an expert's fall into chunks, and into parts with sums of their own.
TEST(GradHost, ExpertFfnOfManyTokens) {
  test_experts(Format::kF32, {1300, 2, 12, {6, 9}, 0, 0});
  test_experts(Format::kBF16, {1300, 2, 12, {6, 9}, -1, 3});
}

// ---- products ----

// The three forms of a product and their plain twins, with gaps between rows, against sums in double.
TEST(Gemm, FormsAndTwinsAreTheProduct) {
  using Gemm = void (*)(int64_t, int64_t, int64_t, const float*, int64_t, const float*, int64_t, float*,
                        int64_t, bool);
  struct Form {
    Gemm gemm;
    bool x_turned, w_turned;
  };
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 1}, {3, 40, 17}, {70, 33, 50}, {5, 7, 0}}) {
    for (const Form& form : {Form{gemm_f32, false, true},
                             {gemm_f32_plain, false, true},
                             {gemm_f32_xw, false, false},
                             {gemm_f32_xw_plain, false, false},
                             {gemm_f32_xtw, true, false},
                             {gemm_f32_xtw_plain, true, false}}) {
      for (const bool accumulate : {false, true}) {
        Arena arena;
        const int64_t x_rows = form.x_turned ? k : m, w_rows = form.w_turned ? n : k;
        const Field x = field(arena, {x_rows, m + k - x_rows}, 1),
                    w = field(arena, {w_rows, n + k - w_rows}, 2), y = field(arena, {m, n}, 3);
        if (!accumulate) std::fill_n(y.data, 1, std::numeric_limits<float>::quiet_NaN());
        form.gemm(m, n, k, x.data, x.view.stride[0], w.data, w.view.stride[0], y.data, y.view.stride[0],
                  accumulate);
        const auto at = [](const Field& f, int64_t r, int64_t c, bool turned) {
          return static_cast<double>(f.data[(turned ? c : r) * f.view.stride[0] + (turned ? r : c)]);
        };
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            const int64_t place = i * y.view.stride[0] + j;
            double want = accumulate ? static_cast<double>(y.before[static_cast<size_t>(place)]) : 0;
            double magnitude = std::fabs(want);
            for (int64_t c = 0; c < k; ++c) {
              const double term = at(x, i, c, form.x_turned) * at(w, c, j, form.w_turned);
              want += term, magnitude += std::fabs(term);
            }
            EXPECT_LE(std::fabs(static_cast<double>(y.data[place]) - want),
                      gamma(static_cast<double>(k) + 1) * magnitude)
                << m << " " << n << " " << k << " [" << i << ", " << j << "]";
          }
        }
        expect_gaps_kept(y, "y");
      }
    }
  }
}

// ---- the references on slices ----

TEST(GradHost, RmsNorm) {
  for (const auto& [n, d] : {std::array<int64_t, 2>{1, 1}, {41, 400}, {300, 13}}) {
    Arena arena;
    const Field x = field(arena, {n, d}, 1), weight = field(arena, {d}), dy = field(arena, {n, d}, 2),
                dx = field(arena, {n, d}, 3), dweight = field(arena, {d});
    const auto test = [&](const RmsNormBackwardArgs& args) {
      test_candidates(host_rms_norm_backward(), args, {&dx, &dweight}, kProducts, "");
    };
    test({x.view, weight.view, 1e-5f, dy.view, dx.view, dweight.view});
    test({x.view, weight.view, 1e-5f, dy.view, {}, dweight.view});
    test({x.view, weight.view, 1e-5f, dy.view, dx.view, {}});
  }
}

TEST(GradHost, Swiglu) {
  Arena arena;
  const int64_t n = 41, d = 400;
  const Field gate = field(arena, {n, d}, 1), up = field(arena, {n, d}, 2), dy = field(arena, {n, d}, 3),
              dgate = field(arena, {n, d}, 1), dup = field(arena, {n, d}, 2);
  const auto test = [&](const SwigluBackwardArgs& args) {
    test_candidates(host_swiglu_backward(), args, {&gate, &up, &dgate, &dup}, kNumbers, "");
  };
  test({gate.view, up.view, dy.view, dgate.view, dup.view});
  test({gate.view, up.view, dy.view, gate.view, up.view});
  test({gate.view, up.view, dy.view, {}, dup.view});
}

TEST(GradHost, Router) {
  for (const Scoring scoring : {Scoring::kSoftmax, Scoring::kSigmoid}) {
    Arena arena;
    const int64_t n = 300, rows = 40, k = 3;
    const Field logits = field(arena, {n, rows}, 1), dweights = field(arena, {n, k}, 1),
                dlogits = field(arena, {n, rows}, 2);
    const Tensor ids = random_ids(arena, n, k, 0, rows);
    test_candidates(host_router_backward(),
                    {logits.view, ids, dweights.view, scoring, 30, true, 2.5f, dlogits.view}, {&dlogits}, 0,
                    "");
  }
}

TEST(GradHost, CrossEntropy) {
  for (const auto& [n, vocab] : {std::array<int64_t, 2>{1, 1}, {50, 300}, {3, 5}}) {
    Arena arena;
    const Field logits = field(arena, {n, vocab}, 1), weights = field(arena, {n}), loss = field(arena, {n});
    const Tensor targets = random_ids(arena, n, 1, -1, vocab).reshape({n});
    test_candidates(host_cross_entropy(), {logits.view, targets, weights.view, loss.view, {}},
                    {&logits, &loss}, kNumbers, "");
    test_candidates(host_cross_entropy(), {logits.view, targets, {}, loss.view, {}}, {&logits, &loss},
                    kNumbers, "");
  }
}

TEST(GradHost, CrossEntropyTellsHits) {
  HostContext context(2);
  for (const Candidate<CrossEntropyArgs>& candidate : host_cross_entropy()) {
    // A hit, a tie, which is one too, a miss, and no target.
    float logits[] = {1, 3, 2, 2, 2, 1, 0, 5, 4, 9, 8, 7}, loss[4];
    int32_t targets[] = {1, 0, 2, -1}, hits[] = {7, 7, 7, 7};
    const CrossEntropyArgs args{f32_tensor(logits, {4, 3}),
                                Tensor(targets, DType::kI32, {4}),
                                {},
                                f32_tensor(loss, {4}),
                                Tensor(hits, DType::kI32, {4})};
    check(args);
    if (candidate.declines(args, context)) continue;
    candidate.run(args, context);
    EXPECT_EQ(std::vector<int32_t>(hits, hits + 4), (std::vector<int32_t>{1, 1, 0, 0})) << candidate.name;
  }
}

// Far out, every candidate gives what the references give there.
TEST(GradHost, StaysFiniteFarOut) {
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2}) {
    if (isa > cpu_features().isa()) continue;
    HostContext context(1);
    context.isa = isa;
    for (const Candidate<CrossEntropyArgs>& candidate : host_cross_entropy()) {
      float logits[] = {1e4f, -1e4f, 0, 0, 30, 0, 1e4f, -1e4f, 0}, loss[3];
      int32_t targets[] = {1, 1, 0};
      const CrossEntropyArgs args{
          f32_tensor(logits, {3, 3}), Tensor(targets, DType::kI32, {3}), {}, f32_tensor(loss, {3}), {}};
      if (candidate.declines(args, context)) continue;
      candidate.run(args, context);
      EXPECT_EQ(loss[0], 2e4f) << candidate.name;
      EXPECT_NEAR(loss[1], 2 * std::exp(-30), 1e-15) << candidate.name;
      EXPECT_EQ(loss[2], 0) << candidate.name;
      EXPECT_EQ(std::vector<float>(logits, logits + 3), (std::vector<float>{1, -1, 0})) << candidate.name;
      EXPECT_NEAR(logits[4], -2 * std::exp(-30), 1e-15) << candidate.name;  // p - 1, to its own digits
    }
    for (const Candidate<SwigluBackwardArgs>& candidate : host_swiglu_backward()) {
      float gate[] = {-1e30f, -90, 90, 1e30f}, one[] = {1, 1, 1, 1}, dgate[4], dup[4];
      const Tensor ones = f32_tensor(one, {1, 4});
      const SwigluBackwardArgs args{f32_tensor(gate, {1, 4}), ones, ones, f32_tensor(dgate, {1, 4}),
                                    f32_tensor(dup, {1, 4})};
      if (candidate.declines(args, context)) continue;
      candidate.run(args, context);
      EXPECT_EQ(dgate[0], 0) << candidate.name;
      EXPECT_EQ(dup[0], 0) << candidate.name;
      EXPECT_NEAR(dgate[1], 0, 1e-30) << candidate.name;
      EXPECT_NEAR(dgate[2], 1, 1e-6) << candidate.name;
      EXPECT_EQ(dgate[3], 1) << candidate.name;
      EXPECT_EQ(dup[3], 1e30f) << candidate.name;
    }
  }
}

TEST(GradHost, Embed) {
  Arena arena;
  const int64_t n = 90, vocab = 11, hidden = 200;
  const Field dy = field(arena, {n, hidden}, 1), dtable = field(arena, {vocab, hidden}, 2);
  const Tensor ids = random_ids(arena, n, 1, 0, vocab).reshape({n});
  test_candidates(host_embed_backward(), {ids, dy.view, dtable.view}, {&dtable}, 0, "");
}

}  // namespace
}  // namespace moebius::test
