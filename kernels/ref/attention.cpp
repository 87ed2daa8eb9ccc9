#include "kernels/ref/cache_rows.h"
#include "kernels/ref/softmax_mean.h"

namespace moebius::ref {

void attention(const AttentionArgs& args, bool) {
  const int64_t n = args.q.shape[0], heads = args.q.shape[1], group = heads / args.kv_heads;
  std::vector<double> key(static_cast<size_t>(args.k_dim)), value(static_cast<size_t>(args.v_dim));
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      const float* q = args.q.f32() + t * args.q.stride[0] + h * args.q.stride[1];
      float* out = args.out.f32() + t * args.out.stride[0] + h * args.out.stride[1];
      const int64_t k_column = args.k_column + h / group * args.k_dim;
      const int64_t v_column = args.v_column + h / group * args.v_dim;
      std::vector<double> scores;
      for (int64_t j = 0; j <= args.first + t; ++j) {
        read_cache(args.cache, j, k_column, args.k_dim, key.data());
        scores.push_back(dot(q, key.data(), args.k_dim) * args.scale);
      }
      const auto value_of = [&](int64_t j) {
        read_cache(args.cache, j, v_column, args.v_dim, value.data());
        return value.data();
      };
      softmax_mean(scores, args.v_dim, value_of, out);
    }
  }
}

}  // namespace moebius::ref
