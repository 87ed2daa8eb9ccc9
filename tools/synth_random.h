// Seeded random contents of tensors, any part of which can be made alone: eight bytes at a time are a
// function of (seed, tensor name, position), by the finaliser of SplitMix64 over a counter
// (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/tensor.h"

namespace moebius {

enum class Fill : uint8_t {
  kNormal,   // BF16 or F32: mean + deviation * N(0, 1), cut at 3.7 deviations
  kUniform,  // BF16 or F32: mean * U(0.75, 1.25), for scales
  kFp8,      // F8_E4M3: N(0, 1) spread over +-448
  kNibbles,  // I32 of int4 codes: uniform over -7 .. 7, twice as often 0
  kBytes,    // I32 of int8 codes: uniform over -127 .. 127, twice as often 0
  kShape,    // I64 [2]: rows and cols
};

// Root mean square of the codes of a fill: a scale of s / kNibblesRms gives weights of deviation s.
inline constexpr float kNibblesRms = 4.1833f;
inline constexpr float kBytesRms = 73.468f;
inline constexpr float kFp8Rms = 154.86f;

struct TensorSpec {
  std::string name;
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  Fill fill = Fill::kNormal;
  float mean = 0, deviation = 0;
  int64_t rows = 0, cols = 0;  // kShape
  int64_t bytes = 0;
};

class RandomContent {
 public:
  RandomContent();

  // Readies the contents of one tensor; spec must outlive the calls of write().
  void start(const TensorSpec& spec, uint64_t seed);
  // The bytes [begin, begin + bytes) of it, begin a multiple of 8. May be called from several threads.
  void write(int64_t begin, int64_t bytes, uint8_t* out) const;

 private:
  template <class Draw>
  void write_draws(int64_t begin, int64_t bytes, uint8_t* out, const Draw& draw) const;

  std::vector<float> normal_;   // quantiles of N(0, 1)
  std::vector<uint8_t> fp8_;    // codes of 256 quantiles of N(0, 1)
  std::vector<uint16_t> half_;  // the values of a BF16 tensor, equally likely
  std::vector<float> single_;   // of an F32 tensor
  const TensorSpec* spec_ = nullptr;
  uint64_t key_ = 0;
};

}  // namespace moebius
