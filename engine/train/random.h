// NamedRandom: random numbers for the first values of a tensor, a stream of their own for each name, so that
// a tensor's values do not depend on which others there are. In integers until the end: equal on every
// machine.
#pragma once

#include <cstdint>
#include <string_view>

namespace moebius {

class NamedRandom {
 public:
  NamedRandom(uint64_t seed, std::string_view name) : state_(seed) {
    for (const char c : name) state_ = (state_ ^ static_cast<unsigned char>(c)) * 1099511628211ull;  // FNV-1a
  }

  float uniform() {
    return static_cast<float>(static_cast<int64_t>(next() >> 40) - kHalf) / kHalf;
  }  // [-1, 1)
  // N(0, 1), nearly: the sum of twelve uniform numbers.
  float normal() {
    int64_t sum = 0;
    for (int i = 0; i < 12; ++i) sum += static_cast<int64_t>(next() >> 40) - kHalf;
    return static_cast<float>(static_cast<double>(sum) / (2.0 * kHalf));
  }

 private:
  static constexpr int64_t kHalf = 1 << 23;
  uint64_t next() {  // SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint64_t state_;
};

}  // namespace moebius
