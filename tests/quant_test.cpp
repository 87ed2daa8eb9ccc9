#include "kernels/quant.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <memory>
#include <numeric>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "kernels/cpu/onednn.h"
#include "kernels/cpu/products.h"
#include "kernels/cpu/vector_ops.h"
#include "kernels/half.h"
#include "kernels/rows.h"
#include "tests/random_matrix.h"

namespace moebius::test {
namespace {

constexpr Format kAllFormats[kFormats] = {Format::kF32,      Format::kBF16, Format::kF16,
                                          Format::kFp8Block, Format::kInt8, Format::kInt4};

uint32_t bits_of(float value) { return std::bit_cast<uint32_t>(value); }

std::vector<const FormatKernels*> runnable(Format format) {
  std::vector<const FormatKernels*> list;
  for (const FormatKernels& kernels : format_kernels(format))
    if (kernels.isa <= cpu_features().isa()) list.push_back(&kernels);
  return list;
}

// A matrix whose last byte is the last of its memory, so that a sanitizer sees any read past it.
struct Owned {
  std::unique_ptr<uint8_t[]> data, scales;
  Matrix w;

  Owned(const MatrixShape& shape, std::mt19937& random, int64_t misalign = 0)
      : data(new uint8_t[static_cast<size_t>(shape.data_bytes() + misalign)]),
        scales(new uint8_t[static_cast<size_t>(shape.scale_bytes() + misalign)]),
        w(random_matrix(shape, data.get() + misalign, scales.get() + misalign, random)) {}
};

struct Tokens {
  int64_t n, cols;
  std::vector<float> x, scale;
  std::vector<int8_t> q;
  std::vector<int32_t> sum;
  Activations exact, rounded;

  Tokens(int64_t count, int64_t columns, std::mt19937& random) : n(count), cols(columns) {
    std::uniform_real_distribution<float> unit(-1, 1);
    x.resize(static_cast<size_t>(n * cols));
    for (float& value : x) value = unit(random) * std::exp2(4 * unit(random));
    quantize();
  }

  void quantize() {
    exact.x = x.data(), exact.ld = exact.cols = cols;
    const int64_t groups = exact.groups();
    q.assign(static_cast<size_t>(n * groups * kActivationGroup), 99);
    scale.resize(static_cast<size_t>(n * groups));
    sum.resize(static_cast<size_t>(n * groups));
    for (int64_t i = 0; i < n; ++i)
      quantize_activations(&x[static_cast<size_t>(i * cols)], cols, q.data() + i * groups * kActivationGroup,
                           scale.data() + i * groups, sum.data() + i * groups);
    rounded = exact;
    rounded.q = q.data(), rounded.scale = scale.data(), rounded.sum = sum.data();
  }
};

// What quant.h promises for integer formats, bit for bit.
float quantized_dot(const Matrix& w, int64_t r, const Tokens& x, int64_t token) {
  const int64_t groups = x.exact.groups();
  float acc = 0;
  for (int64_t g = 0; g < groups; ++g) {
    int64_t s = 0;
    const int64_t first = g * 32;
    const double scale = static_cast<double>(matrix_scale(w, r, first));
    for (int64_t c = first; c < std::min(first + 32, w.cols); ++c) {
      const int64_t code = scale != 0 ? std::llround(element_of(w, r, c) / scale) : 0;
      s += code * x.q[static_cast<size_t>(token * groups * 32 + c)];
    }
    acc = std::fma(static_cast<float>(s),
                   matrix_scale(w, r, first) * x.scale[static_cast<size_t>(token * groups + g)], acc);
  }
  return acc;
}

// A float32 sum of `terms` products in any order, each product of at most three roundings, scaled at most
// twice more.
double float_bound(int64_t terms, double magnitude) {
  const double u = 0x1p-24, n = static_cast<double>(terms) + 5;
  return n * u / (1 - n * u) * magnitude + n * 0x1p-149;
}

TEST(Half, EveryF8CodeHasItsValueAndRoundTrips) {
  for (int code = 0; code < 256; ++code) {
    const float value = f8e4m3_to_f32(static_cast<uint8_t>(code));
    const int exponent = (code >> 3) & 15, mantissa = code & 7;
    if (exponent == 15 && mantissa == 7) {
      EXPECT_TRUE(std::isnan(value)) << code;
    } else {
      const double magnitude =
          exponent ? std::ldexp(8 + mantissa, exponent - 7 - 3) : std::ldexp(mantissa, -6 - 3);
      EXPECT_EQ(static_cast<double>(value), code & 128 ? -magnitude : magnitude) << code;
      EXPECT_EQ(std::signbit(value), code >= 128) << code;
    }
    EXPECT_EQ(f32_to_f8e4m3(value), code);
  }
}

TEST(Half, F8RoundsToNearestEvenAndSaturates) {
  for (int code = 0; code < 0x7e; ++code) {
    const float low = f8e4m3_to_f32(static_cast<uint8_t>(code));
    const float high = f8e4m3_to_f32(static_cast<uint8_t>(code + 1));
    const float middle = (low + high) / 2;
    EXPECT_EQ(f32_to_f8e4m3(middle), code + (code & 1)) << code;
    EXPECT_EQ(f32_to_f8e4m3(std::nextafter(middle, 0.0f)), code) << code;
    EXPECT_EQ(f32_to_f8e4m3(std::nextafter(middle, 1e9f)), code + 1) << code;
    EXPECT_EQ(f32_to_f8e4m3(-middle), 128 + code + (code & 1)) << code;
  }
  EXPECT_EQ(f32_to_f8e4m3(449.0f), 0x7e);
  EXPECT_EQ(f32_to_f8e4m3(1e30f), 0x7e);
  EXPECT_EQ(f32_to_f8e4m3(-INFINITY), 0xfe);
  EXPECT_EQ(f32_to_f8e4m3(NAN) & 0x7f, 0x7f);
}

TEST(Half, EveryF16CodeHasItsValueAndRoundTrips) {
  for (int code = 0; code < 65536; ++code) {
    const float value = f16_to_f32(static_cast<uint16_t>(code));
    const int exponent = (code >> 10) & 31, mantissa = code & 1023;
    if (exponent == 31 && mantissa) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(value))));
      continue;
    }
    double magnitude = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
    if (exponent == 31) magnitude = INFINITY;
    ASSERT_EQ(static_cast<double>(value), code & 0x8000 ? -magnitude : magnitude) << code;
    ASSERT_EQ(f32_to_f16(value), code);
  }
}

TEST(Half, F16RoundsToNearestEven) {
  for (int code = 0; code < 0x7bff; ++code) {
    const float low = f16_to_f32(static_cast<uint16_t>(code)),
                high = f16_to_f32(static_cast<uint16_t>(code + 1));
    const float middle = (low + high) / 2;
    ASSERT_EQ(f32_to_f16(middle), code + (code & 1)) << code;
    ASSERT_EQ(f32_to_f16(std::nextafter(middle, 0.0f)), code) << code;
    ASSERT_EQ(f32_to_f16(std::nextafter(middle, 1e9f)), code + 1) << code;
    ASSERT_EQ(f32_to_f16(-middle), 0x8000 + code + (code & 1)) << code;
  }
  EXPECT_EQ(f32_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(INFINITY), 0x7c00);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0);
  EXPECT_EQ(f32_to_f16(0x1p-149f), 0);
}

TEST(Half, Bf16RoundsToNearestEven) {
  for (uint32_t code = 0; code < 65536; ++code) {
    const float value = bf16_to_f32(static_cast<uint16_t>(code));
    ASSERT_EQ(bits_of(value), code << 16);
    const bool nan = (code & 0x7fff) > 0x7f80;
    if (nan) {
      ASSERT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>((code << 16) | 1)))));
      continue;
    }
    ASSERT_EQ(f32_to_bf16(value), code);
    if ((code & 0x7fff) == 0x7f80) continue;
    const auto below = [&](uint32_t low) { return f32_to_bf16(std::bit_cast<float>((code << 16) | low)); };
    ASSERT_EQ(below(0x7fff), code);
    ASSERT_EQ(below(0x8000), code + (code & 1));
    ASSERT_EQ(below(0x8001), code + 1);
  }
}

TEST(Half, ConvertsAsPyTorchDoes) {
  constexpr int64_t kNumbers = 4096;
  std::ifstream file("tests/golden/number_formats.bin", std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  ASSERT_EQ(bytes.size(), 256 * 4 + kNumbers * (4 + 2 + 2 + 1));
  const char* values = bytes.data() + 256 * 4;
  const char* f16 = values + kNumbers * 4;
  const char* bf16 = f16 + kNumbers * 2;
  const char* f8 = bf16 + kNumbers * 2;
  for (int64_t code = 0; code < 256; ++code) {
    const float want = load_unaligned<float>(bytes.data(), code),
                got = f8e4m3_to_f32(static_cast<uint8_t>(code));
    EXPECT_TRUE(bits_of(got) == bits_of(want) || (std::isnan(got) && std::isnan(want))) << code;
  }
  for (int64_t i = 0; i < kNumbers; ++i) {
    const float value = load_unaligned<float>(values, i);
    ASSERT_EQ(f32_to_f16(value), load_unaligned<uint16_t>(f16, i)) << value;
    ASSERT_EQ(f32_to_bf16(value), load_unaligned<uint16_t>(bf16, i)) << value;
    ASSERT_EQ(f32_to_f8e4m3(value), load_unaligned<uint8_t>(f8, i)) << value;
  }
}

TEST(Quant, KernelsConvertEveryCode) {
  for (Format format : {Format::kF16, Format::kBF16, Format::kFp8Block}) {
    const bool fp8 = format == Format::kFp8Block;
    const int64_t codes = fp8 ? 256 : 65536;
    std::vector<uint8_t> data(static_cast<size_t>(fp8 ? codes : 2 * codes));
    for (int64_t i = 0; i < codes; ++i) {
      if (fp8) data[static_cast<size_t>(i)] = static_cast<uint8_t>(i);
      if (!fp8) store_unaligned(data.data(), i, static_cast<uint16_t>(i));
    }
    const float ones[2] = {1, 1};
    Matrix w = MatrixShape{format, 1, codes}.matrix();
    w.data = data.data();
    if (fp8) w.scales = ones, w.scale_dtype = DType::kF32;
    for (const FormatKernels* kernels : runnable(format)) {
      std::vector<float> out(static_cast<size_t>(codes));
      kernels->dequantize_rows(w, 0, 1, out.data(), codes);
      for (int64_t i = 0; i < codes; ++i) {
        if (fp8 && (i & 0x7f) == 0x7f) continue;
        const float want = fp8                      ? f8e4m3_to_f32(static_cast<uint8_t>(i))
                           : format == Format::kF16 ? f16_to_f32(static_cast<uint16_t>(i))
                                                    : bf16_to_f32(static_cast<uint16_t>(i));
        const float got = out[static_cast<size_t>(i)];
        ASSERT_TRUE(bits_of(got) == bits_of(want) || (std::isnan(got) && std::isnan(want)))
            << kernels->name << " code " << i;
      }
    }
  }
}

TEST(Quant, ActivationsRoundToTheNearestOfTheirGroup) {
  std::mt19937 random(3);
  for (int64_t cols : {1, 5, 31, 32, 33, 64, 100}) {
    Tokens x(3, cols, random);
    const int64_t groups = x.exact.groups();
    for (int64_t g = 0; g < 3 * groups; ++g) {
      const int64_t token = g / groups, first = g % groups * 32;
      float largest = 0;
      int32_t sum = 0;
      for (int64_t c = first; c < first + 32; ++c) {
        const int8_t q = x.q[static_cast<size_t>(g * 32 + c - first)];
        sum += q;
        if (c >= cols) {
          EXPECT_EQ(q, 0);
          continue;
        }
        const float value = x.x[static_cast<size_t>(token * cols + c)];
        largest = std::max(largest, std::fabs(value));
        EXPECT_NEAR(q * x.scale[static_cast<size_t>(g)], value,
                    x.scale[static_cast<size_t>(g)] * (0.5f + 127 * 0x1p-22f));
      }
      EXPECT_EQ(x.scale[static_cast<size_t>(g)], largest / 127);
      EXPECT_EQ(x.sum[static_cast<size_t>(g)], sum);
    }
  }
}

TEST(Quant, ActivationsHaveTheSameBitsWithAvx2) {
  if (!cpu_features().avx2) GTEST_SKIP() << "no AVX2";
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const float odd[] = {0,      -0.0f,     INFINITY,   -INFINITY, NAN,     -NAN,
                       1e-40f, 0x1p-121f, -0x1p-120f, 3.4e38f,   -3.4e38f};
  for (int64_t cols = 1; cols <= 200; ++cols) {
    std::vector<float> x(static_cast<size_t>(cols));
    const float size = std::ldexp(1.0f, static_cast<int>(random() % 250) - 125);
    for (float& value : x)
      value = random() % 64 == 0 ? odd[random() % std::size(odd)] : normal(random) * size;
    const size_t groups = static_cast<size_t>((cols + 31) / 32);
    std::vector<int8_t> q(groups * 32), fast_q(q.size(), 99);
    std::vector<float> scale(groups), fast_scale(groups);
    std::vector<int32_t> sum(groups), fast_sum(groups);
    quantize_activations(x.data(), cols, q.data(), scale.data(), sum.data());
    quantize_activations_avx2(x.data(), cols, fast_q.data(), fast_scale.data(), fast_sum.data());
    ASSERT_EQ(fast_q, q);
    ASSERT_EQ(fast_sum, sum);
    ASSERT_EQ(std::memcmp(fast_scale.data(), scale.data(), groups * sizeof(float)), 0);
  }
}

TEST(Quant, ActivationsAtTheEdges) {
  const auto quantize = [](std::vector<float> x, std::vector<int8_t>* q) {
    q->assign(32, 99);
    float scale = -1;
    int32_t sum = -1;
    quantize_activations(x.data(), static_cast<int64_t>(x.size()), q->data(), &scale, &sum);
    EXPECT_EQ(sum, std::accumulate(q->begin(), q->end(), 0));
    return scale;
  };
  std::vector<int8_t> q;
  const std::vector<int8_t> zeros(32, 0);
  EXPECT_EQ(quantize({0, -0.0f, 0}, &q), 0);
  EXPECT_EQ(q, zeros);
  EXPECT_EQ(quantize({0x1p-121f, 1e-40f}, &q), 0);
  EXPECT_EQ(q, zeros);
  EXPECT_EQ(quantize({0x1p-120f}, &q), 0x1p-120f / 127);
  EXPECT_EQ(q[0], 127);
  EXPECT_EQ(quantize({1, INFINITY}, &q), INFINITY);
  EXPECT_EQ(q, zeros);
  EXPECT_TRUE(std::isnan(quantize({1, -NAN, INFINITY}, &q)));
  EXPECT_EQ(q, zeros);
  EXPECT_EQ(quantize({3.4e38f, -3.4e38f, 0}, &q), 3.4e38f / 127);
  EXPECT_EQ(q[0], 127);
  EXPECT_EQ(q[1], -127);
  quantize({127, 2.5f, 3.5f, -2.5f, -0.5f, 0.5f}, &q);
  EXPECT_EQ(std::vector<int8_t>(q.begin(), q.begin() + 6), (std::vector<int8_t>{127, 2, 4, -2, 0, 0}));
}

TEST(Quant, SizesAndNames) {
  const auto bytes = [](Format format, int64_t cols) {
    return MatrixShape{format, 3, cols}.matrix().row_bytes();
  };
  EXPECT_EQ(bytes(Format::kF32, 5), 20);
  EXPECT_EQ(bytes(Format::kBF16, 5), 10);
  EXPECT_EQ(bytes(Format::kF16, 5), 10);
  EXPECT_EQ(bytes(Format::kFp8Block, 5), 5);
  EXPECT_EQ(bytes(Format::kInt8, 5), 8);
  EXPECT_EQ(bytes(Format::kInt4, 9), 8);
  std::mt19937 random(1);
  const Owned w({Format::kInt4, 3, 72, 32, DType::kBF16}, random);
  EXPECT_EQ(w.w.bytes(), 3 * 36 + 3 * 3 * 2);
  EXPECT_EQ(w.w.describe(), "int4[3, 72]");
  for (Format format : kAllFormats) {
    EXPECT_EQ(&best_kernels(format, Isa::kScalar), &format_kernels(format).back());
    for (const Isa most : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx})
      EXPECT_LE(best_kernels(format, most).isa, most);
  }
}

void expect_float_dots(const FormatKernels& kernels, const Matrix& w, const Tokens& x,
                       const std::vector<float>& y, const std::string& where) {
  for (int64_t i = 0; i < x.n; ++i) {
    for (int64_t r = 0; r < w.rows; ++r) {
      double want = 0, magnitude = 0;
      for (int64_t c = 0; c < w.cols; ++c) {
        const double term =
            element_of(w, r, c) * static_cast<double>(x.x[static_cast<size_t>(i * w.cols + c)]);
        want += term, magnitude += std::fabs(term);
      }
      ASSERT_NEAR(static_cast<double>(y[static_cast<size_t>(i * w.rows + r)]), want,
                  float_bound(w.cols, magnitude))
          << kernels.name << " " << where << " row " << r << " token " << i;
    }
  }
}

void expect_quantized_dots(const FormatKernels& kernels, const Matrix& w, const Tokens& x,
                           const std::vector<float>& y, const std::string& where) {
  for (int64_t i = 0; i < x.n; ++i)
    for (int64_t r = 0; r < w.rows; ++r)
      ASSERT_EQ(bits_of(y[static_cast<size_t>(i * w.rows + r)]), bits_of(quantized_dot(w, r, x, i)))
          << kernels.name << " " << where << " row " << r << " token " << i;
}

// Any rows, any subset of tokens: the same bits as all at once.
void expect_same_in_parts(const FormatKernels& kernels, const Matrix& w, const Activations& x, int64_t n,
                          const std::vector<float>& whole, std::mt19937& random) {
  for (int round = 0; round < 6; ++round) {
    const int64_t begin = static_cast<int64_t>(random() % static_cast<uint64_t>(w.rows));
    const int64_t end = begin + 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(w.rows - begin));
    std::vector<int32_t> tokens(1 + random() % 40);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<uint64_t>(n));
    const int64_t count = static_cast<int64_t>(tokens.size()), ld = end - begin + 3;
    std::vector<float> y(static_cast<size_t>(count * ld), -7.0f);
    kernels.dot_rows(w, begin, end, x, tokens.data(), count, y.data(), ld);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t r = 0; r < ld; ++r) {
        const float want =
            begin + r < end ? whole[static_cast<size_t>(tokens[static_cast<size_t>(i)] * w.rows + begin + r)]
                            : -7.0f;
        ASSERT_EQ(bits_of(y[static_cast<size_t>(i * ld + r)]), bits_of(want)) << kernels.name;
      }
    }
  }
}

void test_dots(const Matrix& w, const Tokens& x, const std::string& where, std::mt19937& random) {
  for (const FormatKernels* kernels : runnable(w.format)) {
    std::vector<float> y(static_cast<size_t>(x.n * w.rows));
    kernels->dot_rows(w, 0, w.rows, x.exact, nullptr, x.n, y.data(), w.rows);
    expect_float_dots(*kernels, w, x, y, where);
    expect_same_in_parts(*kernels, w, x.exact, x.n, y, random);
    if (!is_integer(w.format)) continue;
    kernels->dot_rows(w, 0, w.rows, x.rounded, nullptr, x.n, y.data(), w.rows);
    expect_quantized_dots(*kernels, w, x, y, where);
    expect_same_in_parts(*kernels, w, x.rounded, x.n, y, random);
  }
}

void test_rows(const Matrix& w, const std::string& where, std::mt19937& random) {
  const int64_t begin = static_cast<int64_t>(random() % static_cast<uint64_t>(w.rows));
  const int64_t count = w.rows - begin, ld = w.cols + 2;
  std::vector<float> coefficient(static_cast<size_t>(count)), start(static_cast<size_t>(w.cols));
  for (float& value : coefficient) value = static_cast<float>(random() % 2001) / 1000 - 1;
  for (float& value : start) value = static_cast<float>(random() % 2001) / 1000 - 1;
  for (const FormatKernels* kernels : runnable(w.format)) {
    std::vector<float> out(static_cast<size_t>(count * ld), -7.0f), y = start;
    kernels->dequantize_rows(w, begin, w.rows, out.data(), ld);
    kernels->axpy_rows(w, begin, w.rows, coefficient.data(), y.data());
    for (int64_t c = 0; c < ld; ++c) {
      double want = c < w.cols ? static_cast<double>(start[static_cast<size_t>(c)]) : 0,
             magnitude = std::fabs(want);
      for (int64_t r = 0; r < count; ++r) {
        const float got = out[static_cast<size_t>(r * ld + c)];
        if (c >= w.cols) {
          ASSERT_EQ(got, -7.0f) << kernels->name << " " << where << " wrote past a row";
          continue;
        }
        const double value = element_of(w, begin + r, c);
        ASSERT_EQ(bits_of(got), bits_of(static_cast<float>(value)))
            << kernels->name << " " << where << " element " << begin + r << ", " << c;
        const double term = value * static_cast<double>(coefficient[static_cast<size_t>(r)]);
        want += term, magnitude += std::fabs(term);
      }
      if (c >= w.cols) continue;
      ASSERT_NEAR(static_cast<double>(y[static_cast<size_t>(c)]), want, float_bound(count, magnitude))
          << kernels->name << " " << where << " column " << c;
    }
  }
}

TEST(Quant, KernelsKeepTheirContractOnManyShapes) {
  std::mt19937 random(11);
  const std::pair<int64_t, int64_t> shapes[] = {
      {1, 1},    {1, 8},     {3, 7},     {8, 32},    {9, 33},   {17, 31},  {5, 96},
      {16, 64},  {23, 100},  {2, 129},   {130, 260}, {7, 40},   {11, 25},  {4, 29},
      {3, 2100}, {1, 17000}, {131, 256}, {3, 2176},  {48, 320}, {33, 480}, {70, 2900}};
  for (Format format : kAllFormats) {
    for (const auto& [rows, cols] : shapes) {
      for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
        if (dtype != DType::kF32 && format < Format::kFp8Block) continue;
        for (const int64_t group : {int64_t{32}, int64_t{96}, cols}) {
          if (group != 32 && (!is_integer(format) || (group != cols && group > cols))) continue;
          const int64_t misalign = static_cast<int64_t>(random() % 4);
          const Owned owned({format, rows, cols, group, dtype}, random, misalign);
          const Tokens x(1 + static_cast<int64_t>(random() % 41), cols, random);
          const std::string where = fmt::format("[{}, {}] group {} {} n {} at +{}", rows, cols, group,
                                                dtype_name(dtype), x.n, misalign);
          test_dots(owned.w, x, where, random);
          test_rows(owned.w, where, random);
        }
      }
    }
  }
}

TEST(Quant, KernelsHoldAtTheEdgesOfTheirRange) {
  std::mt19937 random(12);
  for (Format format : kAllFormats) {
    for (const float scale : {0.0f, 1e-20f, 1e15f}) {
      for (const int fill : {-1, 0x00, 0xff, 0x80, 0x88}) {
        const MatrixShape shape{format, 42, 200, 32, DType::kF32, scale};
        if (fill >= 0 && !is_integer(format)) continue;  // all codes at -128 / -8, 127 / 7, 0
        Owned owned(shape, random);
        if (fill >= 0) std::memset(owned.data.get(), fill, static_cast<size_t>(shape.data_bytes()));
        Tokens x(19, 200, random);
        if (fill >= 0) std::fill(x.x.begin(), x.x.end(), fill & 1 ? -3.0f : 3.0f);
        std::fill(x.x.begin(), x.x.begin() + 200, 0.0f);
        x.quantize();
        test_dots(owned.w, x, fmt::format("scale {} fill {}", scale, fill), random);
        test_rows(owned.w, "edge", random);
      }
    }
  }
}

// Numbers so large, so small or so wrong that a kernel which moves bits cannot take them, beside others: each
// token is what it is alone.
TEST(Quant, Fp8RowsTakeNumbersOfAnyRange) {
  std::mt19937 random(14);
  const Owned owned({Format::kFp8Block, 20, 384, kFp8Block, DType::kF32}, random);
  Tokens x(7, 384, random);
  const auto token = [&](int64_t i) { return std::span(x.x).subspan(static_cast<size_t>(i * 384), 384); };
  for (float& v : token(1)) v *= 0x1p40f;
  for (float& v : token(2)) v *= 0x1p-60f;
  token(4)[200] = 0x1p31f;
  test_dots(owned.w, x, "of any range", random);
  token(3)[7] = std::numeric_limits<float>::infinity();
  token(5)[383] = std::numeric_limits<float>::quiet_NaN();
  for (const FormatKernels* kernels : runnable(Format::kFp8Block)) {
    std::vector<float> y(7 * 20), want(y);
    format_kernels(Format::kFp8Block).back().dot_rows(owned.w, 0, 20, x.exact, nullptr, 7, want.data(), 20);
    kernels->dot_rows(owned.w, 0, 20, x.exact, nullptr, 7, y.data(), 20);
    for (size_t i = 0; i < y.size(); ++i)
      EXPECT_EQ(std::isfinite(y[i]), std::isfinite(want[i])) << kernels->name << " " << i;
  }
}

// Parts as kernels/rows.h lays them out, of tokens that are named out of order.
TEST(Parts, AddUpToTheirNumber) {
  if (cpu_features().isa() < Isa::kAmx) GTEST_SKIP() << "no AMX";
  std::mt19937 random(17);
  constexpr int64_t kTokens = 9, kCols = 70;
  std::vector<float> x(kTokens * kCols);
  for (float& value : x) {
    const int exponent = static_cast<int>(random() % 230) - 105;
    value = std::ldexp(static_cast<float>(static_cast<int>(random())) / 0x1p31f, exponent);
  }
  x[3] = 0, x[71] = std::numeric_limits<float>::max(), x[500] = -std::numeric_limits<float>::infinity();
  x[141] = std::numeric_limits<float>::quiet_NaN();
  std::vector<int32_t> tokens(kTokens);
  std::iota(tokens.rbegin(), tokens.rend(), 0);
  std::vector<uint16_t> parts(static_cast<size_t>(parts_block(kCols)));
  split_tokens_amx(x.data(), kCols, tokens.data(), kTokens, kCols, parts.data());
  for (int64_t i = 0; i < kPartTokens; ++i) {
    for (int64_t c = 0; c < 96; ++c) {
      double sum = 0;
      for (int64_t p = 0; p < kParts; ++p)
        sum += static_cast<double>(bf16_to_f32(parts[static_cast<size_t>(
            (((c / 32 * kParts + p) * 16 + c % 32 / 2) * kPartTokens + i) * 2 + c % 2)]));
      const bool there = i < kTokens && c < kCols;
      const float want = there ? x[static_cast<size_t>((kTokens - 1 - i) * kCols + c)] : 0;
      EXPECT_EQ(std::isnan(sum), std::isnan(want)) << i << " " << c;
      if (!std::isnan(want)) {
        EXPECT_EQ(sum, static_cast<double>(want)) << i << " " << c;
      }
    }
  }
}

std::vector<uint16_t> parts_of(const std::vector<float>& x, int64_t cols, const int32_t* tokens, int64_t n) {
  const int64_t blocks = (n + kPartTokens - 1) / kPartTokens;
  std::vector<uint16_t> parts(static_cast<size_t>(blocks * parts_block(cols)));
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = b * kPartTokens;
    split_tokens_amx(x.data() + (tokens ? 0 : first * cols), cols, tokens ? tokens + first : nullptr,
                     std::min(kPartTokens, n - first), cols, parts.data() + b * parts_block(cols));
  }
  return parts;
}

// More tokens than pass at once, by numbers, and rows from the middle of a matrix on.
TEST(Amx, ServesManyTokensInOneCall) {
  if (cpu_features().isa() < Isa::kAmx) GTEST_SKIP() << "no AMX";
  std::mt19937 random(23);
  for (const Format format : {Format::kBF16, Format::kFp8Block, Format::kInt8, Format::kInt4}) {
    constexpr int64_t kTokens = 81, kRows = 150, kCols = 384, kFirst = 16;
    const Owned owned({format, kRows, kCols}, random, 1);
    Tokens x(kTokens, kCols, random);
    std::vector<int32_t> tokens(kTokens);
    std::iota(tokens.rbegin(), tokens.rend(), 0);
    const std::vector<uint16_t> parts = parts_of(x.x, kCols, tokens.data(), kTokens);
    Activations given = is_integer(format) ? x.rounded : x.exact;
    given.parts = parts.data();
    const FormatKernels& kernels = best_kernels(format, Isa::kAmx);
    std::vector<float> turned(kTokens * kRows), y(turned.size());
    kernels.dot_rows(owned.w, 0, kFirst, given, tokens.data(), kTokens, turned.data(), kRows);
    kernels.dot_rows(owned.w, kFirst, kRows, given, tokens.data(), kTokens, turned.data() + kFirst, kRows);
    for (size_t i = 0; i < kTokens; ++i)
      std::copy_n(turned.data() + i * kRows, kRows, y.data() + (kTokens - 1 - i) * kRows);
    is_integer(format) ? expect_quantized_dots(kernels, owned.w, x, y, "many")
                       : expect_float_dots(kernels, owned.w, x, y, "many");
  }
}

// Tokens of any range by parts, as far as the reference's results are finite.
TEST(Parts, GiveNoNumberWhereTheReferenceGivesNone) {
  if (cpu_features().isa() < Isa::kAmx) GTEST_SKIP() << "no AMX";
  std::mt19937 random(19);
  for (const Format format : {Format::kBF16, Format::kFp8Block}) {
    const Owned owned({format, 48, 256}, random, 1);
    Tokens x(18, 256, random);
    x.x[200] = 0x1p100f, x.x[300] = std::numeric_limits<float>::infinity();
    x.x[700] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<uint16_t> parts = parts_of(x.x, 256, nullptr, 18);
    Activations tokens = x.exact;
    tokens.parts = parts.data();
    std::vector<float> y(18 * 48), want(y);
    format_kernels(format).back().dot_rows(owned.w, 0, 48, x.exact, nullptr, 18, want.data(), 48);
    best_kernels(format, Isa::kAmx).dot_rows(owned.w, 0, 48, tokens, nullptr, 18, y.data(), 48);
    for (size_t i = 0; i < y.size(); ++i) {
      EXPECT_EQ(std::isfinite(y[i]), std::isfinite(want[i])) << i;
      double magnitude = 0;
      for (int64_t c = 0; c < 256; ++c)
        magnitude += std::fabs(element_of(owned.w, static_cast<int64_t>(i % 48), c) *
                               static_cast<double>(x.x[i / 48 * 256 + static_cast<size_t>(c)]));
      if (std::isfinite(want[i])) {
        EXPECT_NEAR(y[i], want[i], 2 * float_bound(256, magnitude)) << i;
      }
    }
  }
}

// --cpu-gemm: own keeps to rows; onednn multiplies with exact activations, few tokens or many.
TEST(Products, CpuGemmChoosesTheNumericsOfIntegerFormats) {
  std::mt19937 random(13);
  for (const CpuGemm gemm : {CpuGemm::kAuto, CpuGemm::kOneDnn, CpuGemm::kOwn}) {
    for (const int64_t n : {1, 2, 70}) {
      const Owned owned({Format::kInt4, 150, 100}, random, 1);
      Tokens x(n, 100, random);
      std::vector<float> y(static_cast<size_t>(n * 150));
      LinearArgs args{owned.w, f32_tensor(x.x.data(), {n, 100}), {}, f32_tensor(y.data(), {n, 150}), false};
      HostContext context;
      context.gemm = gemm, context.isa = cpu_features().isa();
      for (const Candidate<LinearArgs>& candidate : host_linear()) {
        if (candidate.declines(args, context)) continue;
        candidate.run(args, context);
        const FormatKernels& named = context.kernels(Format::kInt4);
        if (gemm == CpuGemm::kOneDnn && !onednn_missing()) {
          expect_float_dots(named, owned.w, x, y, candidate.name);
        } else {
          expect_quantized_dots(named, owned.w, x, y, candidate.name);
        }
      }
      const bool panels = declines_panels(owned.w, n, context) == nullptr;
      EXPECT_EQ(panels, gemm == CpuGemm::kOneDnn && n > 1 && !onednn_missing());
      Matrix bf16 = owned.w;
      bf16.format = Format::kBF16;
      EXPECT_EQ(declines_panels(bf16, 70, context) == nullptr, gemm != CpuGemm::kOwn && !onednn_missing());
    }
  }
}

}  // namespace
}  // namespace moebius::test
