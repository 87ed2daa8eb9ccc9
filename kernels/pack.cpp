#include "kernels/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/half.h"

namespace moebius {
namespace {

constexpr int kLanes = 8;  // partial sums, so that loops over a group become vector instructions

struct Range {
  float low, high;  // of codes
};

Range range_of(Format format) { return format == Format::kInt4 ? Range{-8, 7} : Range{-128, 127}; }

float nearest(float x) {  // to even; |x| < 2^22
  constexpr float kRound = 0x1.8p23f;
  return (x + kRound) - kRound;
}

// The number nearest to a scale that its type holds, of a magnitude that can be divided by.
float stored(float scale, DType dtype) {
  const float magnitude = std::abs(scale);
  float held = std::max(magnitude, 0x1p-126f);
  if (dtype == DType::kBF16) held = std::max(bf16_to_f32(f32_to_bf16(magnitude)), 0x1p-126f);
  if (dtype == DType::kF16) held = std::max(f16_to_f32(f32_to_f16(magnitude)), 0x1p-24f);
  return std::copysign(held, scale);
}

void store(float scale, DType dtype, uint8_t* to, int64_t index) {
  if (dtype == DType::kF32) {
    std::memcpy(to + 4 * index, &scale, 4);
    return;
  }
  const uint16_t bits = dtype == DType::kF16 ? f32_to_f16(scale) : f32_to_bf16(scale);
  std::memcpy(to + 2 * index, &bits, 2);
}

struct Group {
  const float* w;
  const float* h;
  int64_t n;  // a multiple of kLanes
};

// A sum over a group of term(i), in lanes.
template <class Term>
float sum_of(int64_t n, const Term& term) {
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < n; i += kLanes) {
    float terms[kLanes];
    for (int l = 0; l < kLanes; ++l) terms[l] = term(i + l);
    for (int l = 0; l < kLanes; ++l) lanes[l] += terms[l];
  }
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

// The code of a number whose quotient by the scale is x.
float code_of(float x, Range range) {
  const float above = x > range.low ? x : range.low;
  return nearest(above < range.high ? above : range.high);
}

// sum h (w - s q)^2 of the codes that s gives.
float error_of(const Group& g, float scale, Range range) {
  const float inverse = 1 / scale;
  return sum_of(g.n, [&](int64_t i) {
    const float e = g.w[i] - scale * code_of(g.w[i] * inverse, range);
    return g.h[i] * (e * e);
  });
}

// The scale that serves the codes of another best: sum h w q / sum h q^2, or 0.
float least_squares(const Group& g, float scale, Range range) {
  const float inverse = 1 / scale;
  const auto code = [&](int64_t i) { return code_of(g.w[i] * inverse, range); };
  const float down = sum_of(g.n, [&](int64_t i) { return g.h[i] * (code(i) * code(i)); });
  return down > 0 ? sum_of(g.n, [&](int64_t i) { return g.h[i] * (g.w[i] * code(i)); }) / down : 0;
}

struct Largest {
  float magnitude = 0, value = 0, second = 0;  // the number of largest magnitude, and the next magnitude
  float sum = 0;                               // of magnitudes, which shows infinities and NaNs
};

Largest largest_of(const Group& g) {
  Largest out;
  for (int64_t i = 0; i < g.n; ++i) {
    const float magnitude = std::abs(g.w[i]);
    out.sum += magnitude;
    if (magnitude > out.magnitude) {
      out.second = out.magnitude;
      out.magnitude = magnitude, out.value = g.w[i];
    } else {
      out.second = std::max(out.second, magnitude);
    }
  }
  return out;
}

// The scale by which the format holds the group exactly, or 0: the largest number is then some integer times
// it, and so is the second, which rules out almost every integer before the group is looked at.
float exact_scale(const Group& g, const Largest& top, Range range, DType dtype) {
  const float most = top.value < 0 ? -range.low : range.high;
  const float second = top.second / top.magnitude;
  for (float k = most; k >= 1; --k) {
    const float multiple = second * k;
    if (std::abs(multiple - nearest(multiple)) > 1e-4f) continue;
    const float scale = stored(top.magnitude / k, dtype);
    if (scale * k == top.magnitude && error_of(g, scale, range) == 0) return scale;
  }
  return 0;
}

// The codes that the largest number would get without clamping: from within the range, where rounding may
// happen to suit the others better, to a clear cut. Eight bits gain nothing from cutting.
struct Grid {
  float first, step;
  int count;
};

Grid grid_of(Format format) {
  return format == Format::kInt4 ? Grid{7.25f, 0.25f, 18} : Grid{125.5f, 0.5f, 8};
}

// The largest number takes the side of the range that reaches further, whatever its sign.
float best_scale(const Group& g, const Largest& top, const PackFormat& format) {
  const Range range = range_of(format.format);
  if (const float exact = exact_scale(g, top, range, format.scale_dtype); exact > 0) return exact;
  float best = 0, least = 0;
  const auto take = [&](float asked) {
    const float scale = stored(asked, format.scale_dtype);
    if (scale == best) return false;
    const float error = error_of(g, scale, range);
    if (best != 0 && !(error < least)) return false;
    best = scale, least = error;
    return true;
  };
  const Grid grid = grid_of(format.format);
  for (int i = 0; i < grid.count; ++i) take(-top.value / (grid.first + grid.step * static_cast<float>(i)));
  constexpr int kMoves = 3;
  for (int i = 0; i < kMoves; ++i) {
    const float moved = least_squares(g, best, range);
    if (moved == 0 || !take(moved)) break;
  }
  return best;
}

double square_of(const Group& g) {
  double sum = 0;
  for (int64_t i = 0; i < g.n; ++i) sum += static_cast<double>(g.w[i]) * g.w[i];
  return sum;
}

// Codes of a group behind each other, biased to unsigned; returns sum (w - s q)^2.
float write_codes(const Group& g, float scale, Format format, uint8_t* to) {
  const Range range = range_of(format);
  const float inverse = 1 / scale;
  float error = 0;
  const auto code = [&](int64_t i) {
    const float q = code_of(g.w[i] * inverse, range);
    const float e = g.w[i] - scale * q;
    error += e * e;
    return static_cast<int>(q - range.low);
  };
  if (format == Format::kInt8) {
    for (int64_t i = 0; i < g.n; ++i) to[i] = static_cast<uint8_t>(code(i));
  } else {
    for (int64_t i = 0; i < g.n; i += 2) {
      const int low = code(i), high = code(i + 1);
      to[i / 2] = static_cast<uint8_t>(low | high << 4);
    }
  }
  return error;
}

}  // namespace

int64_t PackFormat::row_bytes(int64_t cols) const {
  Matrix w;
  w.format = format, w.cols = cols;
  return w.row_bytes();
}

int64_t PackFormat::scale_bytes(int64_t cols) const {
  return cols / group * static_cast<int64_t>(dtype_bytes(scale_dtype));
}

bool pack_row(const PackFormat& format, const float* w, int64_t cols, const float* importance, uint8_t* codes,
              uint8_t* scales, PackError& error) {
  MOEBIUS_CHECK(is_integer(format.format) && format.group % kActivationGroup == 0 &&
                cols % format.group == 0);
  const int64_t group_bytes = format.row_bytes(format.group);
  for (int64_t i = 0; i < cols / format.group; ++i) {
    const Group g{w + i * format.group, importance + i * format.group, format.group};
    const Largest top = largest_of(g);
    if (!std::isfinite(top.sum)) return false;
    const float scale = top.magnitude > 0 ? best_scale(g, top, format) : 1;
    if (!std::isfinite(scale)) return false;
    store(scale, format.scale_dtype, scales, i);
    error.error += write_codes(g, scale, format.format, codes + i * group_bytes);
    error.square += square_of(g);
  }
  return true;
}

}  // namespace moebius
