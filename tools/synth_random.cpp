#include "tools/synth_random.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/half.h"

namespace moebius {
namespace {

constexpr int kTableBits = 12;
constexpr size_t kTable = size_t{1} << kTableBits;
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ull;

uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

uint64_t hash_name(std::string_view name) {  // FNV-1a
  uint64_t hash = 14695981039346656037ull;
  for (const char byte : name) hash = (hash ^ static_cast<unsigned char>(byte)) * 1099511628211ull;
  return hash;
}

double normal_quantile(double p) {
  double low = -10, high = 10;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

// The middles of n equally likely slices of N(0, 1); exactly symmetric, so that their mean is 0. A mean of
// weights other than 0 would add one common vector to every layer's output and grow with depth.
std::vector<float> normal_quantiles(size_t n) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n / 2; ++i) {
    const double q = normal_quantile((static_cast<double>(i) + 0.5) / static_cast<double>(n));
    out[i] = static_cast<float>(q);
    out[n - 1 - i] = static_cast<float>(-q);
  }
  return out;
}

// Codes that are 0 become the middle of the range, which stands for 0: the rest is symmetric around it.
// high_bits: the highest bit of every code in the word.
uint64_t centred(uint64_t codes, uint64_t high_bits) {
  const uint64_t low_bits = ~high_bits;
  const uint64_t not_zero = ((codes & low_bits) + low_bits) | codes;
  return codes | (~not_zero & high_bits);
}

}  // namespace

RandomContent::RandomContent() : normal_(normal_quantiles(kTable)) {
  const std::vector<float> coarse = normal_quantiles(256);
  for (const float q : coarse) fp8_.push_back(f32_to_f8e4m3(q * 448 / coarse.back()));
}

void RandomContent::start(const TensorSpec& spec, uint64_t seed) {
  spec_ = &spec;
  key_ = mix(mix(seed + kGolden) ^ hash_name(spec.name));
  half_.clear();
  single_.clear();
  if (spec.fill != Fill::kNormal && spec.fill != Fill::kUniform) return;
  for (size_t i = 0; i < kTable; ++i) {
    const float share = (static_cast<float>(i) + 0.5f) / static_cast<float>(kTable);
    const float value = spec.fill == Fill::kNormal ? spec.mean + spec.deviation * normal_[i]
                                                   : spec.mean * (0.75f + 0.5f * share);
    if (spec.dtype == DType::kBF16) {
      half_.push_back(f32_to_bf16(value));
    } else {
      single_.push_back(value);
    }
  }
}

template <class Draw>
void RandomContent::write_draws(int64_t begin, int64_t bytes, uint8_t* out, const Draw& draw) const {
  MOEBIUS_CHECK(begin % 8 == 0);
  uint64_t counter = key_ + static_cast<uint64_t>(begin / 8) * kGolden;
  for (int64_t at = 0; at < bytes; at += 8) {
    const uint64_t value = draw(mix(counter += kGolden));
    std::memcpy(out + at, &value, static_cast<size_t>(std::min<int64_t>(8, bytes - at)));
  }
}

void RandomContent::write(int64_t begin, int64_t bytes, uint8_t* out) const {
  switch (spec_->fill) {
    case Fill::kNibbles:
      return write_draws(begin, bytes, out, [](uint64_t r) { return centred(r, 0x8888888888888888ull); });
    case Fill::kBytes:
      return write_draws(begin, bytes, out, [](uint64_t r) { return centred(r, 0x8080808080808080ull); });
    case Fill::kFp8:
      return write_draws(begin, bytes, out, [codes = fp8_.data()](uint64_t r) {
        uint64_t value = 0;
        for (int i = 0; i < 64; i += 8) value |= static_cast<uint64_t>(codes[(r >> i) & 255]) << i;
        return value;
      });
    case Fill::kShape: {
      const int64_t shape[2] = {spec_->rows, spec_->cols};
      std::memcpy(out, reinterpret_cast<const char*>(shape) + begin, static_cast<size_t>(bytes));
      return;
    }
    default:
      break;
  }
  if (spec_->dtype == DType::kBF16) {
    return write_draws(begin, bytes, out, [values = half_.data()](uint64_t r) {
      uint64_t value = 0;
      for (int i = 0; i < 64; i += 16) {
        value |= static_cast<uint64_t>(values[(r >> (i + 16 - kTableBits)) & (kTable - 1)]) << i;
      }
      return value;
    });
  }
  write_draws(begin, bytes, out, [values = single_.data()](uint64_t r) {
    const uint64_t low = std::bit_cast<uint32_t>(values[(r >> 20) & (kTable - 1)]);
    const uint64_t high = std::bit_cast<uint32_t>(values[r >> (64 - kTableBits)]);
    return low | high << 32;
  });
}

}  // namespace moebius
