// What a metered backend notes of operations: forward and backward apart, products by their matrix, and the
// floating-point operations of flops.h, here counted by hand.
#include <vector>

#include <gtest/gtest.h>

#include "kernels/flops.h"
#include "kernels/op_meter.h"

namespace moebius {
namespace {

struct Numbers {
  explicit Numbers(std::initializer_list<int64_t> shape) : view(f32_tensor(nullptr, shape)) {
    values.assign(static_cast<size_t>(view.numel()), 0.5f);
    view.data = values.data();
  }
  std::vector<float> values;
  Tensor view;
};

Matrix matrix_of(const Numbers& n) {
  Matrix m;
  m.rows = n.view.shape[0], m.cols = n.view.shape[1], m.data = n.view.data;
  return m;
}

TEST(OpMeter, TellsForwardFromBackwardOfOneMatrix) {
  const Numbers w({6, 4}), x({3, 4}), y({3, 6}), dx({3, 4}), dw({6, 4});
  const Matrix m = matrix_of(w);
  OpMeter meter;
  meter.label(m.data, "q");
  const auto backend = make_metered_backend(make_host_backend({1}), meter);
  backend->linear({m, x.view, {}, y.view});
  backend->linear_backward({m, x.view, y.view, dx.view, dw.view, {}});
  backend->linear_backward({m, {}, y.view, dx.view, {}, {}});
  ASSERT_EQ(meter.totals().size(), 2u);
  const OpTotal &forward = meter.totals().at("linear q"), &backward = meter.totals().at("linear_backward q");
  EXPECT_EQ(forward.calls, 1);
  EXPECT_EQ(backward.calls, 2);
  EXPECT_EQ(forward.flops, 2. * 3 * 6 * 4);
  EXPECT_EQ(backward.flops, 3 * 2. * 3 * 6 * 4);
  EXPECT_EQ(forward.stored_bytes, 6. * 4 * 4);
}

TEST(Flops, CountAdaptersAndExpertsInUse) {
  constexpr int64_t kHidden = 8, kWidth = 5, kRank = 2;
  const Numbers up({kWidth, kHidden}), down({kHidden, kWidth}), a({kRank, kHidden}), b({kWidth, kRank}),
      x({3, kHidden});
  const Lora lora{a.view, b.view, 1, a.view, b.view, false};
  std::vector<ExpertWeights> experts(3, {matrix_of(up), matrix_of(up), matrix_of(down)});
  experts[1].gate.lora = &lora;
  std::vector<int32_t> ids = {1, 1, -1, 2, 1, -1};  // expert 1 three times, 2 once, 0 never
  ExpertFfnArgs forward{x.view, experts.data(), 3, Tensor(ids.data(), DType::kI32, {3, 2}), {}};
  const double weights = 2. * kWidth * kHidden, adapter = 2. * kRank * (kWidth + kHidden);
  EXPECT_EQ(Flops::of(forward), 4 * 3 * weights + 3 * adapter);

  ExpertFfnBackwardArgs backward;
  backward.x = x.view, backward.experts = experts.data(), backward.n_experts = 3;
  backward.ids = forward.ids, backward.dslots = Numbers({3, 2, kHidden}).view;
  EXPECT_EQ(Flops::of(backward), 4 * 5 * weights + 3 * 3 * adapter);
}

TEST(Flops, CountCausalPairsOfEachSequence) {
  AttentionBackwardArgs args;
  const int64_t starts[] = {0, 3, 5};
  args.starts = starts;
  args.q = Numbers({5, 2, 7}).view, args.v = Numbers({5, 2, 4}).view;
  EXPECT_EQ(Flops::of(args), 2. * (6 + 3) * 2 * (3 * 7 + 2 * 4));
}

}  // namespace
}  // namespace moebius
