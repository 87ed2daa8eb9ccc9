#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ref/cache_rows.h"

namespace moebius::ref {

void attention(const AttentionArgs& args, bool) {
  const int64_t n = args.q.shape[0], heads = args.q.shape[1], group = heads / args.kv_heads;
  std::vector<double> p(static_cast<size_t>(args.first + n));
  for (int64_t t = 0; t < n; ++t) {
    const int64_t keys = args.first + t + 1;
    for (int64_t h = 0; h < heads; ++h) {
      const float* q = args.q.f32() + t * args.q.stride[0] + h * args.q.stride[1];
      float* out = args.out.f32() + t * args.out.stride[0] + h * args.out.stride[1];
      const int64_t kv = h / group, k_column = args.k_column + kv * args.k_dim;
      const int64_t v_column = args.v_column + kv * args.v_dim;
      double highest = -INFINITY, sum = 0;
      for (int64_t j = 0; j < keys; ++j) {
        double dot = 0;
        for (int64_t i = 0; i < args.k_dim; ++i)
          dot += q[i] * double{cache_value(args.cache, j, k_column + i)};
        p[j] = dot * args.scale;
        highest = std::max(highest, p[j]);
      }
      for (int64_t j = 0; j < keys; ++j) sum += p[j] = std::exp(p[j] - highest);
      for (int64_t i = 0; i < args.v_dim; ++i) {
        double value = 0;
        for (int64_t j = 0; j < keys; ++j) value += p[j] * cache_value(args.cache, j, v_column + i);
        out[i] = static_cast<float>(value / sum);
      }
    }
  }
}

}  // namespace moebius::ref
