#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/grad_ops.h"
#include "kernels/ref/router_scores.h"

namespace moebius::ref {
namespace {

// Of the group loss a row's part is that of its group: its members' sum over their weighted count.
void gather_groups(const BalanceBackwardArgs& args, std::vector<double>& dshare) {
  const int64_t rows = args.logits.shape[1], real = args.n_experts, zero = rows - real;
  const double zero_size = static_cast<double>(args.zero_weight) * static_cast<double>(zero);
  const auto middle = dshare.begin() + real;
  const double scale = (static_cast<double>(real) + zero_size) / static_cast<double>(rows);
  const double of_real = std::accumulate(dshare.begin(), middle, 0.0) * scale / static_cast<double>(real);
  const double of_zero = std::accumulate(middle, dshare.end(), 0.0) * scale / zero_size;
  std::fill(dshare.begin(), middle, of_real);
  std::fill(middle, dshare.end(), of_zero);
}

void pass_back_sequence(const BalanceBackwardArgs& args, int64_t begin, int64_t end) {
  const int64_t rows = args.logits.shape[1], k = args.ids.shape[1], tokens = end - begin;
  // dP_e = alpha f_e; a token's share of P_e is 1 / tokens.
  std::vector<double> dshare(static_cast<size_t>(rows));
  const double weight = static_cast<double>(args.alpha) * static_cast<double>(rows) /
                        (static_cast<double>(k) * static_cast<double>(tokens) * static_cast<double>(tokens));
  for (int64_t t = begin; t < end; ++t)
    for (int64_t s = 0; s < k; ++s) dshare[args.ids.i32()[t * args.ids.stride[0] + s]] += weight;
  if (args.zero_weight > 0) gather_groups(args, dshare);
  for (int64_t t = begin; t < end; ++t) {
    float* dlogits = args.dlogits.f32() + t * args.dlogits.stride[0];
    const std::vector<double> scores =
        router_scores(args.logits.f32() + t * args.logits.stride[0], rows, args.scoring);
    double sum = 0, mean = 0;
    for (int64_t e = 0; e < rows; ++e) sum += scores[e], mean += scores[e] * dshare[e];
    mean /= sum;
    for (int64_t e = 0; e < rows; ++e) {
      const double slope = args.scoring == Scoring::kSigmoid ? 1.0 - scores[e] : 1.0;
      dlogits[e] = static_cast<float>(dlogits[e] + scores[e] / sum * slope * (dshare[e] - mean));
    }
  }
}

}  // namespace

void balance_backward(const BalanceBackwardArgs& args) {
  for (size_t i = 0; i + 1 < args.starts.size(); ++i)
    if (args.starts[i] < args.starts[i + 1]) pass_back_sequence(args, args.starts[i], args.starts[i + 1]);
}

}  // namespace moebius::ref
