// Packing rows into integer formats: what is representable comes back exactly, and the search for scales
// finds what a much finer one finds.
#include "kernels/pack.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/half.h"

namespace moebius {
namespace {

struct Packed {
  Matrix w;
  std::vector<uint8_t> codes, scales;
  PackError error;
  bool ok = true;
};

Packed pack(const PackFormat& format, const std::vector<float>& x, int64_t cols,
            const std::vector<float>& importance) {
  Packed p;
  const int64_t rows = std::ssize(x) / cols;
  p.codes.resize(static_cast<size_t>(rows * format.row_bytes(cols)));
  p.scales.resize(static_cast<size_t>(rows * format.scale_bytes(cols)));
  for (int64_t r = 0; r < rows; ++r)
    p.ok &= pack_row(format, x.data() + r * cols, cols, importance.data(),
                     p.codes.data() + r * format.row_bytes(cols),
                     p.scales.data() + r * format.scale_bytes(cols), p.error);
  p.w.format = format.format, p.w.rows = rows, p.w.cols = cols, p.w.group = format.group;
  p.w.data = p.codes.data(), p.w.scales = p.scales.data(), p.w.scale_dtype = format.scale_dtype;
  return p;
}

std::vector<float> unpack(const Packed& p) {
  std::vector<float> out(static_cast<size_t>(p.w.rows * p.w.cols));
  format_kernels(p.w.format).back().dequantize_rows(p.w, 0, p.w.rows, out.data(), p.w.cols);
  return out;
}

std::vector<float> ones(int64_t n) { return std::vector<float>(static_cast<size_t>(n), 1.0f); }

double weighted(const std::vector<float>& a, const std::vector<float>& b, const std::vector<float>& h) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i)
    sum += h[i % h.size()] * std::pow(static_cast<double>(a[i]) - b[i], 2);
  return sum;
}

class Formats : public testing::TestWithParam<std::tuple<Format, int64_t, DType>> {
 protected:
  PackFormat format() const {
    return {std::get<0>(GetParam()), std::get<1>(GetParam()), std::get<2>(GetParam())};
  }
};
INSTANTIATE_TEST_SUITE_P(All, Formats,
                         testing::Combine(testing::Values(Format::kInt4, Format::kInt8),
                                          testing::Values(32, 64, 160),
                                          testing::Values(DType::kBF16, DType::kF16, DType::kF32)));

// Codes over the whole range, or over any part of it, times a scale of the scale's type. The product of a
// code of 8 bits and a scale of at most 16 is exact in float32.
TEST_P(Formats, RepresentableNumbersComeBackExactly) {
  std::mt19937 random(1);
  const PackFormat f = format();
  const int64_t cols = 3 * f.group, rows = 40;
  std::vector<float> x(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < x.size(); i += static_cast<size_t>(f.group)) {
    const float rough =
        std::ldexp(1 + 0.7f * static_cast<float>(random() % 128) / 128, -static_cast<int>(random() % 9));
    const float scale = bf16_to_f32(f32_to_bf16(rough));
    const int most = 1 + static_cast<int>(random() % (f.format == Format::kInt4 ? 8u : 128u));
    const bool whole = random() % 2;
    for (size_t j = 0; j < static_cast<size_t>(f.group); ++j) {
      const int range = whole ? (f.format == Format::kInt4 ? 8 : 128) : most;
      x[i + j] = scale *
                 static_cast<float>(static_cast<int>(random() % (2u * static_cast<unsigned>(range))) - range);
    }
  }
  const Packed p = pack(f, x, cols, ones(cols));
  EXPECT_TRUE(p.ok);
  EXPECT_EQ(p.error.error, 0);
  EXPECT_TRUE(unpack(p) == x);
}

// sum h (w - s q)^2 of a group under a scale.
double error_under(double scale, std::span<const float> w, const std::vector<float>& h, Format format) {
  const double low = format == Format::kInt4 ? -8 : -128, high = -low - 1;
  double error = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double q = std::min(high, std::max(low, std::nearbyint(w[i] / scale)));
    error += h[i] * (w[i] - scale * q) * (w[i] - scale * q);
  }
  return error;
}

// The reported error is that of the stored numbers. It is less than with the scales that take the
// largest number of each group to the end of the range; and with int4 a search of 4000 scales of either sign
// in full precision finds no more than 3 %.
TEST_P(Formats, SearchIsCloseToTheBestScale) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  const PackFormat f = format();
  const int64_t rows = 12, cols = f.group;
  std::vector<float> x(static_cast<size_t>(rows * cols)), h(static_cast<size_t>(cols));
  for (float& number : x) number = bf16_to_f32(f32_to_bf16(0.02f * normal(random)));
  for (float& number : h) number = std::exp(normal(random));
  const Packed p = pack(f, x, cols, h);
  const std::vector<float> back = unpack(p);
  EXPECT_NEAR(p.error.error, weighted(x, back, ones(cols)), 1e-5 * p.error.error);
  double plain = 0, best_sum = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const std::span<const float> row(x.data() + r * cols, static_cast<size_t>(cols));
    const float top =
        *std::max_element(row.begin(), row.end(), [](float a, float b) { return std::abs(a) < std::abs(b); });
    const double end = f.format == Format::kInt4 ? 8 : 128;
    plain += error_under(-top / end, row, h, f.format);
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i < 2000; ++i) {
      const double scale = top / (end * (0.9 + 0.6 * i / 2000));
      best = std::min({best, error_under(scale, row, h, f.format), error_under(-scale, row, h, f.format)});
    }
    best_sum += best;
  }
  EXPECT_LE(weighted(x, back, h), plain);
  if (f.format == Format::kInt4) {
    EXPECT_LE(weighted(x, back, h), best_sum * 1.03);
  }
}

TEST_P(Formats, ImportantColumnsLoseLess) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const PackFormat f = format();
  const int64_t cols = 2 * f.group;
  std::vector<float> x(static_cast<size_t>(64 * cols)), h = ones(cols);
  for (float& number : x) number = normal(random);
  for (size_t c = 0; c < h.size(); c += 5) h[c] = 100;
  const double plain = weighted(x, unpack(pack(f, x, cols, ones(cols))), h);
  EXPECT_LT(weighted(x, unpack(pack(f, x, cols, h)), h), 0.95 * plain);
}

TEST_P(Formats, NumbersThatCannotBeScaledAreRefused) {
  const PackFormat f = format();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    std::vector<float> x = ones(f.group);
    x[7] = bad;
    EXPECT_FALSE(pack(f, x, f.group, ones(f.group)).ok);
  }
  std::vector<float> large = ones(f.group);
  large[3] = 1e8f;
  EXPECT_EQ(pack(f, large, f.group, ones(f.group)).ok, f.scale_dtype != DType::kF16);
}

TEST_P(Formats, ZerosAndTheSmallestNumbersStayFinite) {
  const PackFormat f = format();
  std::vector<float> x(static_cast<size_t>(2 * f.group));
  x[static_cast<size_t>(f.group) + 1] = 1e-44f;
  const Packed p = pack(f, x, f.group, ones(f.group));
  EXPECT_TRUE(p.ok);
  EXPECT_EQ(matrix_scale(p.w, 0, 0), 1);
  const std::vector<float> back = unpack(p);
  for (const float number : back) EXPECT_TRUE(std::abs(number) <= 0x1p-20f);
}

}  // namespace
}  // namespace moebius
