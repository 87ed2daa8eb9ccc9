#include <vector>

#include "kernels/grad_ops.h"
#include "kernels/ref/router_scores.h"

namespace moebius::ref {
namespace {

void pass_back_sequence(const BalanceBackwardArgs& args, int64_t begin, int64_t end) {
  const int64_t rows = args.logits.shape[1], k = args.ids.shape[1], tokens = end - begin;
  // dP_e = alpha f_e; a token's share of P_e is 1 / tokens.
  std::vector<double> dshare(static_cast<size_t>(rows));
  const double weight = static_cast<double>(args.alpha) * static_cast<double>(rows) /
                        (static_cast<double>(k) * static_cast<double>(tokens) * static_cast<double>(tokens));
  for (int64_t t = begin; t < end; ++t)
    for (int64_t s = 0; s < k; ++s) dshare[args.ids.i32()[t * args.ids.stride[0] + s]] += weight;
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
