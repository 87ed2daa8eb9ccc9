#include "kernels/ref/cache_rows.h"
#include "kernels/ref/softmax_mean.h"

namespace moebius::ref {
namespace {

struct Expanded {                    // of one head, per position
  std::vector<double> keys, values;  // [positions, nope + rope], [positions, v_dim]
};

Expanded expand(const MlaPrefillArgs& args, int64_t head, int64_t positions) {
  const int64_t latent = args.kv_b.cols, rows = args.nope + args.v_dim, dim = args.nope + args.rope;
  std::vector<float> w(static_cast<size_t>(rows * latent));
  format_kernels(args.kv_b.format)
      .back()
      .dequantize_rows(args.kv_b, head * rows, (head + 1) * rows, w.data(), latent);
  Expanded out{std::vector<double>(static_cast<size_t>(positions * dim)),
               std::vector<double>(static_cast<size_t>(positions * args.v_dim))};
  std::vector<double> c(static_cast<size_t>(latent));
  for (int64_t j = 0; j < positions; ++j) {
    double* key = &out.keys[j * dim];
    double* value = &out.values[j * args.v_dim];
    read_cache(args.cache, j, 0, latent, c.data());
    for (int64_t i = 0; i < args.nope; ++i) key[i] = dot(&w[i * latent], c.data(), latent);
    for (int64_t i = 0; i < args.v_dim; ++i) value[i] = dot(&w[(args.nope + i) * latent], c.data(), latent);
    read_cache(args.cache, j, latent, args.rope, key + args.nope);
  }
  return out;
}

}  // namespace

void mla_prefill(const MlaPrefillArgs& args, bool) {
  const int64_t n = args.q.shape[0], heads = args.q.shape[1], dim = args.nope + args.rope;
  for (int64_t h = 0; h < heads && n > 0; ++h) {
    const Expanded expanded = expand(args, h, args.first + n);
    for (int64_t t = 0; t < n; ++t) {
      const float* q = args.q.f32() + t * args.q.stride[0] + h * args.q.stride[1];
      float* out = args.out.f32() + t * args.out.stride[0] + h * args.out.stride[1];
      std::vector<double> scores;
      for (int64_t j = 0; j <= args.first + t; ++j)
        scores.push_back(dot(q, &expanded.keys[j * dim], dim) * args.scale);
      softmax_mean(
          scores, args.v_dim, [&](int64_t j) { return &expanded.values[j * args.v_dim]; }, out);
    }
  }
}

}  // namespace moebius::ref
