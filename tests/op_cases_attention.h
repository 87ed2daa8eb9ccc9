// Cases of norm, rotary, cache, attention and the element-wise operations for op_test.
#pragma once

#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "tests/op_cases.h"

namespace moebius::test {

inline constexpr int64_t kTokenCounts[] = {1, 2, 3, 17, 64};

// Rows [begin, begin + count) of each tensor of a token-major operation.
template <class Args>
std::function<Args(const Args&, int64_t, int64_t)> part_of(std::vector<Tensor Args::*> tensors) {
  return [tensors](const Args& args, int64_t begin, int64_t count) {
    Args part = args;
    for (Tensor Args::*tensor : tensors)
      if (!(args.*tensor).empty()) part.*tensor = (args.*tensor).rows(begin, count);
    return part;
  };
}

// ---- rms_norm ----

// The reference sums in double. A float sum of d squares errs by gamma(d), of which the square root takes
// half; mean, eps, root, quotient and two products add at most 6 roundings, the reference's own result one.
inline Case<RmsNormArgs> rms_norm_case(int64_t n, int64_t d, int64_t gap, bool in_place) {
  Case<RmsNormArgs> c;
  c.args.x = c.arena.matrix(n, d, gap, -3, 3);
  c.args.weight = f32_tensor(c.arena.floats(d), {d});
  c.args.eps = 1e-6f;
  c.args.y = in_place ? c.args.x : c.arena.matrix(n, d, gap == 4 ? 8 : gap + 1);
  c.outputs = {output_of("y", c.args.y)};
  c.outputs[0].relative = gamma(static_cast<double>(d) / 2 + 8);
  c.part = part_of<RmsNormArgs>({&RmsNormArgs::x, &RmsNormArgs::y});
  c.tokens = n;
  c.bytes = static_cast<double>(n * d * 8), c.flops = static_cast<double>(n * d * 4);
  return c;
}

inline void rms_norm_cases(Mode mode, const Add<RmsNormArgs>& add) {
  const auto at = [&](int64_t n, int64_t d, int64_t gap, bool in_place) {
    add(fmt::format("n={} d={} gap={}{}", n, d, gap, in_place ? " in place" : ""),
        [=] { return rms_norm_case(n, d, gap, in_place); });
  };
  if (mode == Mode::kPerf) return at(1, 7168, 0, false), at(256, 7168, 0, false);
  for (const int64_t n : kTokenCounts)
    for (const int64_t d : {1, 7, 8, 31, 64, 129, 2048}) at(n, d, d % 3, n == 3 || d == 64);
  for (const int64_t d : {4, 12, 64, 2048}) at(3, d, 4, false), at(2, d, 4, true);
}

// ---- rotary ----

// Two products and a sum on either side: gamma(2) of the magnitudes each.
inline Case<RotaryArgs> rotary_case(int64_t n, int64_t heads, int64_t dim, int64_t half, bool interleaved,
                                    bool aligned) {
  Case<RotaryArgs> c;
  const int64_t head_stride = dim + (aligned ? 4 : 3);
  const Tensor rows = c.arena.matrix(n, heads * head_stride, aligned ? 8 : 5);
  c.args.x = f32_tensor(rows.f32(), {n, heads, dim});
  c.args.x.stride[0] = rows.stride[0], c.args.x.stride[1] = head_stride;
  c.args.cos = c.arena.matrix(n, half), c.args.sin = c.arena.matrix(n, half, aligned ? 4 : 1);
  c.args.interleaved = interleaved;
  const RotaryArgs a = c.args;
  c.outputs = {output_of("x", rows, [&](int64_t t, int64_t column) {
    const int64_t i = column % head_stride, pair = interleaved ? i / 2 : i % half;
    if (i >= 2 * half) return 0.0;
    const int64_t base = column - i;
    const float* x = rows.f32() + t * rows.stride[0] + base;
    const float first = interleaved ? x[2 * pair] : x[pair];
    const float second = interleaved ? x[2 * pair + 1] : x[pair + half];
    const double cos = std::fabs(a.cos.f32()[t * a.cos.stride[0] + pair]);
    const double sin = std::fabs(a.sin.f32()[t * a.sin.stride[0] + pair]);
    const double p = std::fabs(first), q = std::fabs(second);
    return 2 * gamma(2) * std::max(p * cos + q * sin, q * cos + p * sin);
  })};
  c.part = part_of<RotaryArgs>({&RotaryArgs::x, &RotaryArgs::cos, &RotaryArgs::sin});
  c.tokens = n;
  c.bytes = static_cast<double>(n * heads * half * 16), c.flops = static_cast<double>(n * heads * half * 6);
  return c;
}

inline void rotary_cases(Mode mode, const Add<RotaryArgs>& add) {
  const auto at = [&](int64_t n, int64_t heads, int64_t dim, int64_t half, bool aligned = false) {
    for (const bool interleaved : {false, true})
      add(fmt::format("n={} heads={} dim={} half={}{}{}", n, heads, dim, half,
                      interleaved ? " interleaved" : "", aligned ? " aligned" : ""),
          [=] { return rotary_case(n, heads, dim, half, interleaved, aligned); });
  };
  if (mode == Mode::kPerf) return at(1, 64, 64, 32, true), at(256, 64, 64, 32, true);
  for (const int64_t half : {4, 12, 32}) at(3, 5, 2 * half + 4, half, true);
  for (const int64_t n : kTokenCounts)
    for (const int64_t half : {1, 3, 4, 8, 13, 32}) at(n, n == 64 ? 2 : 5, 2 * half + half % 2, half);
}

// ---- caches ----

// Pages in random order, some of them never used; rows hold random numbers.
inline CacheView random_cache(Arena& arena, DType dtype, int64_t width, int64_t page_tokens,
                              int64_t positions) {
  const int64_t pages = (positions + page_tokens - 1) / page_tokens, pool = pages + 2;
  CacheView cache;
  cache.dtype = dtype, cache.width = width, cache.page_tokens = page_tokens;
  cache.capacity = pages * page_tokens;
  std::vector<int32_t> order(static_cast<size_t>(pool));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = pool - 1; i > 0; --i) std::swap(order[i], order[arena.below(i + 1)]);
  int32_t* map = arena.take<int32_t>(pages);
  std::copy_n(order.begin(), pages, map);
  cache.pages = map;
  const int64_t numbers = pool * page_tokens * width;
  float* values = arena.floats(numbers);
  cache.base = values;
  if (dtype == DType::kBF16) {
    uint16_t* narrow = arena.take<uint16_t>(numbers);
    for (int64_t i = 0; i < numbers; ++i) narrow[i] = f32_to_bf16(values[i]);
    cache.base = narrow;
  }
  if (dtype == DType::kI8) {
    const int64_t row_bytes = cache.row_bytes(), scales_at = cache_scales_at(width);
    char* rows = arena.take<char>(pool * page_tokens * row_bytes);
    for (int64_t r = 0; r < pool * page_tokens; ++r) {
      char* row = rows + r * row_bytes;
      for (int64_t i = 0; i < width; ++i) row[i] = static_cast<char>(arena.below(255) - 127);
      for (int64_t at = scales_at; at < row_bytes; at += 2) {
        const uint16_t scale = f32_to_bf16(arena.uniform(1.0f / 254, 1.0f / 127));
        std::memcpy(row + at, &scale, 2);
      }
    }
    cache.base = rows;
  }
  return cache;
}

// [positions, width] of a cache, exactly.
inline std::vector<double> cached_rows(const CacheView& cache, int64_t positions) {
  std::vector<double> rows;
  for (int64_t j = 0; j < positions; ++j) {
    const char* row = static_cast<const char*>(cache.row(j));
    for (int64_t i = 0; i < cache.width; ++i) {
      if (cache.dtype == DType::kF32) rows.push_back(load_unaligned<float>(row, i));
      if (cache.dtype == DType::kBF16) rows.push_back(bf16_to_f32(load_unaligned<uint16_t>(row, i)));
      if (cache.dtype != DType::kI8) continue;
      const uint16_t scale = load_unaligned<uint16_t>(row + (cache.width + 1) / 2 * 2, i / 32);
      rows.push_back(static_cast<double>(load_unaligned<int8_t>(row, i)) * bf16_to_f32(scale));
    }
  }
  return rows;
}

inline Case<CacheWriteArgs> cache_write_case(DType dtype, int64_t n, int64_t width, int64_t page,
                                             int64_t first, bool aligned) {
  Case<CacheWriteArgs> c;
  const int64_t cache_width = dtype == DType::kI8 ? 32 + width : width + (aligned ? 8 : 4);
  c.args.x = c.arena.matrix(n, width, aligned ? 4 : 2, -100, 100);
  float* x = c.args.x.f32();
  x[0] = std::bit_cast<float>(0x3f808000u);  // a tie
  if (width > 2) x[1] = NAN, x[2] = std::bit_cast<float>(0x7f7fffffu);
  c.args.column = dtype == DType::kI8 ? 32 : aligned ? 4 : 3, c.args.first = first;
  c.host_only = dtype == DType::kI8;
  if (c.host_only && n > 1 && width > 40) {  // groups that are large, tiny, zero, not finite
    float* second = x + c.args.x.stride[0];
    std::fill_n(second, 32, 0.0f), second[1] = 0x1p-111f;
    second[33] = 3e38f, second[34] = -3e38f;
    if (n > 2) x[2 * c.args.x.stride[0] + 5] = INFINITY;
  }
  c.args.cache = random_cache(c.arena, dtype, cache_width, page, first + n);
  const int64_t rows = c.args.cache.capacity + 2 * page;
  c.outputs = {{"cache",
                c.args.cache.base,
                dtype,
                rows * c.args.cache.row_bytes() / static_cast<int64_t>(dtype_bytes(dtype)),
                {}}};
  c.part = [](const CacheWriteArgs& args, int64_t begin, int64_t count) {
    CacheWriteArgs part = args;
    part.x = args.x.rows(begin, count), part.first = args.first + begin;
    return part;
  };
  c.tokens = n;
  c.bytes = static_cast<double>(n * width) * (4 + static_cast<double>(dtype_bytes(dtype)));
  return c;
}

inline void cache_write_cases(Mode mode, const Add<CacheWriteArgs>& add) {
  const auto at = [&](int64_t n, int64_t width, int64_t page, int64_t first, bool aligned = false) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8})
      add(fmt::format("{} n={} width={} page={} first={}{}", dtype_name(dtype), n, width, page, first,
                      aligned ? " aligned" : ""),
          [=] { return cache_write_case(dtype, n, width, page, first, aligned); });
  };
  if (mode == Mode::kPerf) return at(256, 576, 64, 0, true);
  for (const int64_t width : {4, 64, 576}) at(7, width, 4, 6, true);
  at(530, 4, 1, 3);  // more pages than one launch takes
  for (const int64_t n : kTokenCounts)
    for (const int64_t width : {1, 8, 19, 64}) at(n, width, width == 8 ? 1 : 5, n % 3 * 4);
}

// ---- attention ----

// How far a float32 softmax-weighted mean over `keys` may stand from the exact one, per column.
//   E: the largest error of a score. It scales a weight by at most e^E, both above and below the fraction
//   line. Rounded besides: score - maximum (relative to the weight: the range of scores times a unit), the
//   exponential (2 units in the last place = 4 kUnit), a product and an exponential for every tile and block
//   that raises the maximum (whose arguments add up to the range), and the sums over keys.
struct SoftmaxBound {
  std::vector<double> score, score_error, weight;
  double range = 0, relative = 0;

  void finish() {  // from score and score_error to weight and relative
    const double top = *std::max_element(score.begin(), score.end());
    range = top - *std::min_element(score.begin(), score.end());
    const double error = *std::max_element(score_error.begin(), score_error.end());
    double sum = 0;
    weight.clear();
    for (const double s : score) weight.push_back(std::exp(s - top)), sum += weight.back();
    for (double& w : weight) w /= sum;
    const double keys = static_cast<double>(score.size()), steps = keys / 64 + keys / 256 + 4;
    relative = 2 * std::expm1(error) + 2 * gamma(keys + 6 * steps + 2 * range);
  }
};

struct AttentionShape {
  DType dtype;
  int64_t n, first, heads, kv_heads, k_dim, v_dim, page;
  bool mla = false;  // one key/value head, the value a prefix of the key
  float scale = 0.3f;
  bool bf16_q = false;  // queries that BF16 holds
  std::string name() const {
    return fmt::format("{} n={} first={} heads={}/{} dims={}/{} page={}{} scale={}{}", dtype_name(dtype), n,
                       first, heads, kv_heads, k_dim, v_dim, page, mla ? " mla" : "", scale,
                       bf16_q ? " bf16 q" : "");
  }
};

// q_unit, weight_unit: the relative error by which queries and weights are rounded besides.
inline std::vector<double> attention_bound(const AttentionArgs& a, double q_unit, double weight_unit) {
  const int64_t n = a.q.shape[0], heads = a.q.shape[1], group = heads / a.kv_heads;
  const std::vector<double> rows = cached_rows(a.cache, a.first + n);
  std::vector<double> bound;
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      const double* key = rows.data() + a.k_column + h / group * a.k_dim;
      const double* value = rows.data() + a.v_column + h / group * a.v_dim;
      const float* q = a.q.f32() + t * a.q.stride[0] + h * a.q.stride[1];
      SoftmaxBound softmax;
      for (int64_t j = 0; j <= a.first + t; ++j) {
        double dot = 0, magnitude = 0;
        for (int64_t i = 0; i < a.k_dim; ++i) {
          const double term = q[i] * key[j * a.cache.width + i];
          dot += term, magnitude += std::fabs(term);
        }
        softmax.score.push_back(dot * a.scale);
        softmax.score_error.push_back(magnitude * a.scale *
                                      (gamma(static_cast<double>(a.k_dim) + 2) + q_unit));
      }
      softmax.finish();
      softmax.relative += weight_unit * (1 + softmax.relative);
      for (int64_t i = 0; i < a.v_dim; ++i) {
        double magnitude = 0;
        for (int64_t j = 0; j <= a.first + t; ++j)
          magnitude += softmax.weight[j] * std::fabs(value[j * a.cache.width + i]);
        bound.push_back(magnitude * softmax.relative);
      }
    }
  }
  return bound;
}

inline Case<AttentionArgs> attention_case(const AttentionShape& s, bool with_bound) {
  Case<AttentionArgs> c;
  AttentionArgs& a = c.args;
  const Tensor q = c.arena.matrix(s.n, s.heads * (s.k_dim + 2), 3);
  for (int64_t i = 0; s.bf16_q && i < s.n * q.stride[0]; ++i)
    q.f32()[i] = bf16_to_f32(f32_to_bf16(q.f32()[i]));
  a.q = f32_tensor(q.f32(), {s.n, s.heads, s.k_dim});
  a.q.stride[0] = q.stride[0], a.q.stride[1] = s.k_dim + 2;
  a.first = s.first, a.kv_heads = s.kv_heads, a.k_dim = s.k_dim, a.v_dim = s.v_dim, a.scale = s.scale;
  a.k_column = s.mla ? 0 : 1;
  a.v_column = s.mla ? 0 : 1 + s.kv_heads * s.k_dim;
  const int64_t width = s.mla ? s.k_dim : 2 + s.kv_heads * (s.k_dim + s.v_dim);
  c.host_only = s.dtype == DType::kI8;
  a.cache = random_cache(c.arena, s.dtype, width, s.page, s.first + s.n);
  const Tensor out = c.arena.matrix(s.n, s.heads * s.v_dim, 1);
  a.out = f32_tensor(out.f32(), {s.n, s.heads, s.v_dim});
  a.out.stride[0] = out.stride[0];
  const auto outputs = [&](double q_unit, double weight_unit) -> std::vector<Output> {
    const std::vector<double> bound = attention_bound(a, q_unit, weight_unit);
    return {output_of("out", out, [&](int64_t t, int64_t column) {
      return bound[static_cast<size_t>(t * s.heads * s.v_dim + column)];
    })};
  };
  if (with_bound) c.outputs = outputs(0, 0);
  constexpr double kBf16Unit = 0x1p-9;
  if (with_bound && s.dtype == DType::kBF16) c.rounded = outputs(s.bf16_q ? 0 : kBf16Unit, kBf16Unit);
  c.part = [](const AttentionArgs& args, int64_t begin, int64_t count) {
    AttentionArgs part = args;
    part.q = args.q.rows(begin, count), part.out = args.out.rows(begin, count);
    part.first = args.first + begin;
    return part;
  };
  c.tokens = s.n;
  const double seen =
      static_cast<double>(s.n) * static_cast<double>(s.first) + 0.5 * static_cast<double>(s.n * (s.n + 1));
  c.flops = 2 * seen * static_cast<double>(s.heads * (s.k_dim + s.v_dim));
  c.bytes = static_cast<double>((s.first + s.n) * width) * static_cast<double>(dtype_bytes(s.dtype));
  return c;
}

inline void attention_cases(Mode mode, const Add<AttentionArgs>& add) {
  const auto at = [&](const AttentionShape& s) {
    add(s.name(), [=] { return attention_case(s, mode == Mode::kTest); });
  };
  constexpr DType kF32 = DType::kF32, kBF16 = DType::kBF16, kI8 = DType::kI8;
  if (mode == Mode::kPerf) {
    at({kI8, 1, 8191, 16, 1, 576, 512, 64, true});
    at({kBF16, 1, 8191, 16, 1, 576, 512, 64, true});
    at({kBF16, 1, 8191, 128, 1, 576, 512, 64, true});
    at({kBF16, 1, 8191, 32, 4, 128, 128, 64});
    at({kF32, 1, 8191, 32, 4, 128, 128, 64});
    at({kBF16, 1, 300, 16, 1, 576, 512, 64, true});
    at({kBF16, 128, 1024, 32, 4, 128, 128, 64});
    return;
  }
  for (const DType dtype : {kF32, kBF16, kI8}) {
    for (const int64_t n : kTokenCounts) {
      for (const int64_t first : {0, 5, 63, 250}) {
        at({dtype, n, first, 4, 2, 20, 13, 7});              // two heads a group, odd dims
        at({dtype, n, first, 5, 1, 40, 32, 16, true});       // absorbed MLA
        if (n <= 17) at({dtype, n, first, 3, 3, 8, 24, 1});  // a key/value head each
      }
    }
    for (const int64_t kv_heads : {1, 2, 4, 8}) at({dtype, 3, 100, 8, kv_heads, 16, 16, 16});
    at({dtype, 1, 0, 1, 1, 1, 1, 1});
    at({dtype, 1, 2000, 4, 1, 72, 64, 16, true});  // blocks on several threads
    at({dtype, 2, 1030, 6, 3, 16, 16, 16});
    at({dtype, 1, 255, 4, 1, 16, 16, 64}), at({dtype, 1, 256, 4, 1, 16, 16, 64});
    at({dtype, 3, 600, 130, 1, 8, 8, 16});                    // more heads in a group than a unit takes
    at({dtype, 2, 300, 16, 1, 576, 512, 64, true, 0.0416f});  // DeepSeek's dims
    at({dtype, 17, 300, 2, 1, 64, 64, 16, false, 8.0f});      // one key takes nearly all the weight
    at({dtype, 3, 280, 5, 1, 144, 136, 16, true, 0.1f});      // several chunks of columns
    at({dtype, 40, 10, 4, 2, 72, 68, 5, false, 0.1f});
    at({dtype, 1, 2300, 4, 4, 8, 8, 16});  // more splits than a device takes at once
    at({dtype, 65, 440, 4, 4, 4, 4, 16});  // walks through splits; a token alone takes them side by side
    at({dtype, 2, 70, 1, 1, 8, 520, 16}), at({dtype, 2, 70, 1, 1, 1300, 8, 16, false, 0.02f});  // long rows
  }
  at({kBF16, 2, 700, 16, 1, 576, 512, 64, true, 0.0416f, true});
  at({kBF16, 17, 70, 8, 2, 128, 128, 16, false, 0.0884f, true});
  at({kBF16, 5, 61, 6, 2, 33, 47, 16, false, 0.3f, true});
  at({kBF16, 1, 66, 16, 1, 1024, 1000, 16, true, 0.03f, true});  // as many columns as are rounded at once
  at({kBF16, 1, 66, 16, 1, 1025, 1000, 16, true, 0.03f, true});
}

// ---- mla_prefill ----

struct MlaShape {
  Format format;
  DType dtype;
  int64_t n, first, heads, nope, rope, v_dim, latent, page;
  std::string name() const {
    return fmt::format("{} {} n={} first={} heads={} nope={} rope={} v={} latent={} page={}",
                       format_name(format), dtype_name(dtype), n, first, heads, nope, rope, v_dim, latent,
                       page);
  }
};

// As for attention, and besides: a rebuilt key or value is a dot product of `latent` terms, off by
// gamma(latent + 1) of its magnitude (one more rounding where a weight is dequantised).
inline std::vector<double> mla_prefill_bound(const MlaPrefillArgs& a) {
  const int64_t n = a.q.shape[0], heads = a.q.shape[1], latent = a.kv_b.cols, keys = a.first + n;
  const int64_t rows = a.nope + a.v_dim, dim = a.nope + a.rope;
  std::vector<double> bound(static_cast<size_t>(n * heads * a.v_dim));
  const std::vector<double> cache = cached_rows(a.cache, keys);
  std::vector<float> w(static_cast<size_t>(rows * latent));
  std::vector<double> value(static_cast<size_t>(keys * rows)), off(value.size());
  for (int64_t h = 0; h < heads; ++h) {
    format_kernels(a.kv_b.format).back().dequantize_rows(a.kv_b, h * rows, (h + 1) * rows, w.data(), latent);
    for (int64_t j = 0; j < keys; ++j) {
      for (int64_t r = 0; r < rows; ++r) {
        double dot = 0, magnitude = 0;
        for (int64_t i = 0; i < latent; ++i) {
          const double term = w[r * latent + i] * cache[j * a.cache.width + i];
          dot += term, magnitude += std::fabs(term);
        }
        value[j * rows + r] = dot;
        off[j * rows + r] = magnitude * gamma(static_cast<double>(latent) + 1);
      }
    }
    for (int64_t t = 0; t < n; ++t) {
      const float* q = a.q.f32() + t * a.q.stride[0] + h * a.q.stride[1];
      SoftmaxBound softmax;
      for (int64_t j = 0; j <= a.first + t; ++j) {
        double dot = 0, magnitude = 0, from_key = 0;
        for (int64_t i = 0; i < dim; ++i) {
          const double key =
              i < a.nope ? value[j * rows + i] : cache[j * a.cache.width + latent + i - a.nope];
          dot += q[i] * key, magnitude += std::fabs(q[i] * key);
          if (i < a.nope) from_key += std::fabs(q[i]) * off[j * rows + i];
        }
        softmax.score.push_back(dot * a.scale);
        softmax.score_error.push_back(a.scale * (from_key + magnitude * gamma(static_cast<double>(dim) + 2)));
      }
      softmax.finish();
      for (int64_t i = 0; i < a.v_dim; ++i) {
        double magnitude = 0, from_value = 0;
        for (int64_t j = 0; j <= a.first + t; ++j) {
          magnitude += softmax.weight[j] * std::fabs(value[j * rows + a.nope + i]);
          from_value += softmax.weight[j] * off[j * rows + a.nope + i];
        }
        bound[(t * heads + h) * a.v_dim + i] = magnitude * softmax.relative + 1.01 * from_value;
      }
    }
  }
  return bound;
}

inline Case<MlaPrefillArgs> mla_prefill_case(const MlaShape& s, bool with_bound) {
  Case<MlaPrefillArgs> c;
  MlaPrefillArgs& a = c.args;
  const int64_t dim = s.nope + s.rope;
  const Tensor q = c.arena.matrix(s.n, s.heads * (dim + 1), 2);
  a.q = f32_tensor(q.f32(), {s.n, s.heads, dim});
  a.q.stride[0] = q.stride[0], a.q.stride[1] = dim + 1;
  a.kv_b = arena_matrix(c.arena, {s.format, s.heads * (s.nope + s.v_dim), s.latent});
  a.cache = random_cache(c.arena, s.dtype, s.latent + s.rope, s.page, s.first + s.n);
  c.host_only = s.dtype == DType::kI8;
  a.first = s.first, a.nope = s.nope, a.rope = s.rope, a.v_dim = s.v_dim, a.scale = 0.1f;
  const Tensor out = c.arena.matrix(s.n, s.heads * s.v_dim, 1);
  a.out = f32_tensor(out.f32(), {s.n, s.heads, s.v_dim});
  a.out.stride[0] = out.stride[0];
  if (with_bound) {
    const std::vector<double> bound = mla_prefill_bound(a);
    c.outputs = {output_of("out", out, [&](int64_t t, int64_t column) {
      return bound[static_cast<size_t>(t * s.heads * s.v_dim + column)];
    })};
  }
  c.part = [](const MlaPrefillArgs& args, int64_t begin, int64_t count) {
    MlaPrefillArgs part = args;
    part.q = args.q.rows(begin, count), part.out = args.out.rows(begin, count);
    part.first = args.first + begin;
    return part;
  };
  c.tokens = s.n;
  const double keys = static_cast<double>(s.first + s.n), heads = static_cast<double>(s.heads);
  const double seen =
      static_cast<double>(s.n) * static_cast<double>(s.first) + 0.5 * static_cast<double>(s.n * (s.n + 1));
  c.flops =
      2 * heads *
      (seen * static_cast<double>(dim + s.v_dim) + keys * static_cast<double>((s.nope + s.v_dim) * s.latent));
  c.bytes = static_cast<double>(a.kv_b.bytes());
  return c;
}

inline void mla_prefill_cases(Mode mode, const Add<MlaPrefillArgs>& add) {
  const auto at = [&](const MlaShape& s) {
    add(s.name(), [=] { return mla_prefill_case(s, mode == Mode::kTest); });
  };
  constexpr DType kF32 = DType::kF32, kBF16 = DType::kBF16;
  if (mode == Mode::kPerf) {
    at({Format::kBF16, kBF16, 256, 0, 16, 128, 64, 128, 512, 64});
    at({Format::kBF16, kBF16, 256, 2048, 16, 128, 64, 128, 512, 64});
    at({Format::kInt4, kBF16, 256, 2048, 16, 128, 64, 128, 512, 64});
    return;
  }
  for (const Format format :
       {Format::kF32, Format::kBF16, Format::kF16, Format::kFp8Block, Format::kInt8, Format::kInt4})
    for (const DType dtype : {kF32, kBF16}) at({format, dtype, 3, 70, 2, 32, 8, 24, 64, 16});
  for (const int64_t n : kTokenCounts)
    for (const int64_t first : {0, 60, 250})
      at({Format::kBF16, n % 2 ? kBF16 : kF32, n, first, 3, 13, 6, 11, 32, 5});
  at({Format::kBF16, DType::kI8, 17, 60, 3, 13, 6, 11, 32, 5});
  at({Format::kF32, kBF16, 40, 530, 2, 40, 8, 33, 24, 16});  // several waves, pieces with a rest
  at({Format::kInt4, kBF16, 2, 10, 1, 64, 0, 64, 512, 16});  // no rotary part
  at({Format::kBF16, kBF16, 70, 0, 4, 12, 8, 12, 16, 16});   // whole blocks of tokens on a device
  at({Format::kF32, kF32, 2, 2100, 1, 8, 4, 8, 8, 16});      // several waves on a device,
  at({Format::kF32, kBF16, 2, 2100, 8, 4, 0, 4, 4, 16});     // also where it walks through them
}

// ---- swiglu ----

// On either side an exponential (2 units in the last place), a sum, a quotient and a product: 8 roundings;
// where exp(-gate) overflows on one side only, the other's quotient is below 90 / 2^127.
inline Case<SwigluArgs> swiglu_case(int64_t n, int64_t d, int in_place, bool aligned) {
  Case<SwigluArgs> c;
  c.args.gate = c.arena.matrix(n, d, aligned ? 4 : 1, -20, 20);
  c.args.up = c.arena.matrix(n, d, aligned ? 8 : 2, -5, 5);
  const float extremes[] = {0.0f,  -0.0f,   87.0f, -87.0f, -88.7f, -88.8f,
                            89.0f, -200.0f, 1e30f, -1e30f, 1e-40f};
  for (int64_t i = 0; i < std::min<int64_t>(d, 11); ++i) c.args.gate.f32()[i] = extremes[i];
  c.args.y = in_place == 1 ? c.args.gate : in_place == 2 ? c.args.up : c.arena.matrix(n, d, aligned ? 4 : 3);
  const SwigluArgs a = c.args;
  c.outputs = {output_of("y", a.y, [&](int64_t t, int64_t i) {
    return 0x1p-120 * std::fabs(a.up.f32()[t * a.up.stride[0] + i]);
  })};
  c.outputs[0].relative = 2 * gamma(8);
  c.part = part_of<SwigluArgs>({&SwigluArgs::gate, &SwigluArgs::up, &SwigluArgs::y});
  c.tokens = n;
  c.bytes = static_cast<double>(n * d * 12), c.flops = static_cast<double>(n * d * 4);
  return c;
}

inline void swiglu_cases(Mode mode, const Add<SwigluArgs>& add) {
  const auto at = [&](int64_t n, int64_t d, int in_place, bool aligned = false) {
    add(fmt::format("n={} d={} in place {}{}", n, d, in_place, aligned ? " aligned" : ""),
        [=] { return swiglu_case(n, d, in_place, aligned); });
  };
  if (mode == Mode::kPerf) return at(1, 18432, 0, true), at(256, 2048, 0, true);
  for (const int64_t d : {4, 100, 2052})
    for (const int in_place : {0, 1, 2}) at(3, d, in_place, true);
  for (const int64_t n : kTokenCounts)
    for (const int64_t d : {1, 8, 13, 100, 5000})
      for (const int in_place : {0, 1, 2}) at(n, d, in_place);
}

}  // namespace moebius::test
