#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ref/cache_rows.h"

namespace moebius::ref {
namespace {

// [k_nope | v] of one head for one cached latent: `rows` is that head's part of kv_b in float32.
void expand(const CacheView& cache, int64_t position, const std::vector<float>& rows, int64_t latent,
            double* out) {
  const int64_t count = static_cast<int64_t>(rows.size()) / latent;
  for (int64_t r = 0; r < count; ++r) {
    out[r] = 0;
    for (int64_t i = 0; i < latent; ++i)
      out[r] += rows[r * latent + i] * double{cache_value(cache, position, i)};
  }
}

}  // namespace

void mla_prefill(const MlaPrefillArgs& args, bool) {
  const int64_t n = args.q.shape[0], heads = args.q.shape[1], latent = args.kv_b.cols;
  const int64_t rows = args.nope + args.v_dim, keys = args.first + n;
  std::vector<float> weights(static_cast<size_t>(rows * latent));
  std::vector<double> expanded(static_cast<size_t>(keys * rows)), p(static_cast<size_t>(keys));
  for (int64_t h = 0; h < heads; ++h) {
    format_kernels(args.kv_b.format)
        .back()
        .dequantize_rows(args.kv_b, h * rows, (h + 1) * rows, weights.data(), latent);
    for (int64_t j = 0; j < keys; ++j) expand(args.cache, j, weights, latent, &expanded[j * rows]);
    for (int64_t t = 0; t < n; ++t) {
      const float* q = args.q.f32() + t * args.q.stride[0] + h * args.q.stride[1];
      float* out = args.out.f32() + t * args.out.stride[0] + h * args.out.stride[1];
      const int64_t visible = args.first + t + 1;
      double highest = -INFINITY, sum = 0;
      for (int64_t j = 0; j < visible; ++j) {
        double dot = 0;
        for (int64_t i = 0; i < args.nope; ++i) dot += q[i] * expanded[j * rows + i];
        for (int64_t i = 0; i < args.rope; ++i)
          dot += q[args.nope + i] * double{cache_value(args.cache, j, latent + i)};
        p[j] = dot * args.scale;
        highest = std::max(highest, p[j]);
      }
      for (int64_t j = 0; j < visible; ++j) sum += p[j] = std::exp(p[j] - highest);
      for (int64_t i = 0; i < args.v_dim; ++i) {
        double value = 0;
        for (int64_t j = 0; j < visible; ++j) value += p[j] * expanded[j * rows + args.nope + i];
        out[i] = static_cast<float>(value / sum);
      }
    }
  }
}

}  // namespace moebius::ref
