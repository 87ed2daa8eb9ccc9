#include <cmath>

#include "kernels/cpu/grad_rows.h"
#include "kernels/cpu/simd_avx2.h"

namespace moebius {
namespace {

// Loads of eight numbers, or of those under a mask; stores likewise.
struct Full {
  __m256 load(const float* at) const { return _mm256_loadu_ps(at); }
  void store(float* at, __m256 x) const { _mm256_storeu_ps(at, x); }
};
struct Masked {
  __m256i mask;
  __m256 load(const float* at) const { return _mm256_maskload_ps(at, mask); }
  void store(float* at, __m256 x) const { _mm256_maskstore_ps(at, mask, x); }
};

// body(offset, access)
template <class Body>
inline void each_eight(int64_t n, const Body& body) {
  by_eight(
      n, [&](int64_t i) { body(i, Full{}); }, [&](int64_t i, __m256i mask) { body(i, Masked{mask}); });
}

// Eight sums in double.
struct Sum8 {
  __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
  void add(__m256 x) {
    low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(x)));
    high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)));
  }
  double total() const {
    alignas(32) double lanes[4];
    _mm256_store_pd(lanes, _mm256_add_pd(low, high));
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  }
};

float highest_of(const float* x, int64_t n) {
  __m256 highest = _mm256_set1_ps(-INFINITY);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) highest = _mm256_max_ps(_mm256_loadu_ps(x + i), highest);
  float most = max_lanes(highest);
  for (; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

// y = e^(x - shift); returns the sum of y.
double exponentials(const float* x, int64_t n, float shift, float* y) {
  const __m256 down = _mm256_set1_ps(shift);
  Sum8 sum;
  by_eight(
      n,
      [&](int64_t i) {
        const __m256 e = exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(x + i), down));
        _mm256_storeu_ps(y + i, e);
        sum.add(e);
      },
      [&](int64_t i, __m256i mask) {
        const __m256 e = exp_avx2(_mm256_sub_ps(_mm256_maskload_ps(x + i, mask), down));
        _mm256_maskstore_ps(y + i, mask, e);
        sum.add(_mm256_and_ps(e, _mm256_castsi256_ps(mask)));
      });
  return sum.total();
}

}  // namespace

float swiglu_gradient_row_avx2(const SwigluGradientRow& row, int64_t n) {
  const __m256 one = _mm256_set1_ps(1.0f), largest = _mm256_set1_ps(0x1.fffffep+127f);
  const __m256 factor = _mm256_set1_ps(row.factor);
  __m256 along = _mm256_setzero_ps();
  each_eight(n, [&](int64_t i, const auto& eight) {
    const __m256 gate = eight.load(row.gate + i), up = eight.load(row.up + i), dh = eight.load(row.dh + i);
    const __m256 e = exp_avx2(_mm256_sub_ps(_mm256_setzero_ps(), gate));
    const __m256 s = _mm256_div_ps(one, _mm256_add_ps(one, e));
    // As in the plain form. The operand order of min lets a NaN through.
    const __m256 rest = _mm256_mul_ps(_mm256_min_ps(largest, e), s), silu = _mm256_mul_ps(gate, s);
    const __m256 h = _mm256_mul_ps(silu, up), scaled = _mm256_mul_ps(factor, dh);
    const __m256 slope = _mm256_mul_ps(s, _mm256_fmadd_ps(gate, rest, one));
    along = _mm256_fmadd_ps(dh, h, along);
    if (row.dgate) eight.store(row.dgate + i, _mm256_mul_ps(_mm256_mul_ps(scaled, up), slope));
    if (row.dup) eight.store(row.dup + i, _mm256_mul_ps(scaled, silu));
    if (row.h) eight.store(row.h + i, _mm256_mul_ps(factor, h));
  });
  return sum_lanes(along);
}

void rms_norm_gradient_row_avx2(const RmsNormGradientRow& row, int64_t n) {
  Sum8 squares, along;  // along: how far the gradient points along x
  each_eight(n, [&](int64_t i, const auto& eight) {
    const __m256 x = eight.load(row.x + i);
    squares.add(_mm256_mul_ps(x, x));
    along.add(_mm256_mul_ps(_mm256_mul_ps(eight.load(row.dy + i), eight.load(row.weight + i)), x));
  });
  const double size = static_cast<double>(n);
  const double factor = 1.0 / std::sqrt(squares.total() / size + static_cast<double>(row.eps));
  const __m256 by = _mm256_set1_ps(static_cast<float>(factor));
  const __m256 pull = _mm256_set1_ps(static_cast<float>(along.total() / size * factor * factor * factor));
  each_eight(n, [&](int64_t i, const auto& eight) {
    const __m256 x = eight.load(row.x + i), dy = eight.load(row.dy + i);
    if (row.dx) {
      const __m256 straight = _mm256_mul_ps(_mm256_mul_ps(dy, eight.load(row.weight + i)), by);
      const __m256 dx = _mm256_fnmadd_ps(x, pull, straight);
      eight.store(row.dx + i, _mm256_add_ps(eight.load(row.dx + i), dx));
    }
    if (row.dweight) {
      const __m256 sum = _mm256_fmadd_ps(dy, _mm256_mul_ps(x, by), eight.load(row.dweight + i));
      eight.store(row.dweight + i, sum);
    }
  });
}

float cross_entropy_row_avx2(float* logits, int64_t n, int64_t target, float weight) {
  const float highest = highest_of(logits, n);
  const double margin = static_cast<double>(logits[target]) - static_cast<double>(highest);
  const double sum = exponentials(logits, n, highest, logits);
  // p - 1 of the target: the rest of the sum, which keeps its digits when p is close to 1.
  const double off = (static_cast<double>(logits[target]) - sum) / sum;
  const __m256 by = _mm256_set1_ps(static_cast<float>(static_cast<double>(weight) / sum));
  each_eight(n, [&](int64_t i, const auto& eight) {
    eight.store(logits + i, _mm256_mul_ps(eight.load(logits + i), by));
  });
  logits[target] = static_cast<float>(static_cast<double>(weight) * off);
  return static_cast<float>(static_cast<double>(weight) * (std::log(sum) - margin));
}

float dot_row_avx2(const float* a, const float* b, int64_t n) {
  __m256 sum = _mm256_setzero_ps();
  each_eight(n, [&](int64_t i, const auto& eight) {
    sum = _mm256_fmadd_ps(eight.load(a + i), eight.load(b + i), sum);
  });
  return sum_lanes(sum);
}

float softmax_gradient_row_avx2(float* scores, float* dp, int64_t n, float scale, float center) {
  const __m256 by = _mm256_set1_ps(scale);
  each_eight(n, [&](int64_t i, const auto& eight) {
    eight.store(scores + i, _mm256_mul_ps(eight.load(scores + i), by));
  });
  const float highest = highest_of(scores, n);
  const double sum = exponentials(scores, n, highest, scores);
  const __m256 norm = _mm256_set1_ps(static_cast<float>(1 / sum));
  const __m256 middle = _mm256_set1_ps(center);
  each_eight(n, [&](int64_t i, const auto& eight) {
    const __m256 p = _mm256_mul_ps(eight.load(scores + i), norm);
    eight.store(scores + i, p);
    const __m256 gap = _mm256_sub_ps(eight.load(dp + i), middle);
    eight.store(dp + i, _mm256_mul_ps(_mm256_mul_ps(by, p), gap));
  });
  return highest;
}

}  // namespace moebius
