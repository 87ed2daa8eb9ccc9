// What an operation wrote against what it should have written.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "tests/op_cases.h"

namespace moebius::test {

struct Tally {
  int passed = 0, failed = 0;
};

using Snapshot = std::vector<std::vector<char>>;

inline Snapshot snapshot(const std::vector<Output>& outputs) {
  Snapshot copy;
  for (const Output& out : outputs) {
    const char* data = static_cast<const char*>(out.data);
    copy.emplace_back(data, data + out.count * static_cast<int64_t>(dtype_bytes(out.dtype)));
  }
  return copy;
}

inline void restore(const std::vector<Output>& outputs, const Snapshot& from) {
  for (size_t i = 0; i < outputs.size(); ++i) std::memcpy(outputs[i].data, from[i].data(), from[i].size());
}

inline double number_at(const char* data, DType dtype, int64_t i) {
  if (dtype == DType::kBF16) return bf16_to_f32(load_unaligned<uint16_t>(data, i));
  if (dtype == DType::kI8) return load_unaligned<int8_t>(data, i);
  if (dtype == DType::kI32) return load_unaligned<int32_t>(data, i);
  return load_unaligned<float>(data, i);
}

// What a share of an output's bound is of.
inline double unit_of(const Output& out, const std::vector<char>& want) {
  if (!out.of_largest) return 1;
  double largest = 0;
  for (int64_t i = 0; i < out.count; ++i)
    largest = std::max(largest, std::fabs(number_at(want.data(), out.dtype, i)));
  return largest;
}

inline double allowance(const Output& out, int64_t i, double want, double unit) {
  return (out.bound.empty() ? 0.0 : out.bound[static_cast<size_t>(i)]) * unit +
         out.relative * std::fabs(want);
}

// What stands furthest over its bound, or "" when all is within. exact ignores the bounds: bits must be
// equal.
inline std::string difference(const std::vector<Output>& outputs, const Snapshot& got, const Snapshot& want,
                              bool exact) {
  for (size_t o = 0; o < outputs.size(); ++o) {
    const Output& out = outputs[o];
    const bool bits = exact || (out.bound.empty() && out.relative == 0);
    if (bits && got[o] == want[o]) continue;
    const int64_t width = static_cast<int64_t>(dtype_bytes(out.dtype));
    const double unit = bits ? 0.0 : unit_of(out, want[o]);
    int64_t worst = -1, wrong = 0;
    double excess = 0;
    for (int64_t i = 0; i < out.count; ++i) {
      if (std::memcmp(&got[o][i * width], &want[o][i * width], width) == 0) continue;
      const double g = number_at(got[o].data(), out.dtype, i), w = number_at(want[o].data(), out.dtype, i);
      if (!bits && std::isnan(g) && std::isnan(w)) continue;
      const double allowed = bits ? 0.0 : allowance(out, i, w, unit), error = std::fabs(g - w);
      if (!bits && error <= allowed) continue;
      ++wrong;
      const double over = std::isnan(error) ? INFINITY : error / std::max(allowed, 1e-300);
      if (worst < 0 || over > excess) worst = i, excess = over;
    }
    if (worst < 0) continue;
    const double g = number_at(got[o].data(), out.dtype, worst),
                 w = number_at(want[o].data(), out.dtype, worst);
    return fmt::format("{} of {} elements of {} wrong; worst [{}]: got {:.9g}, want {:.9g}, error {:.3g}, {}",
                       wrong, out.count, out.name, worst, g, w, std::fabs(g - w),
                       bits ? std::string("bits must be equal")
                            : fmt::format("bound {:.3g}", allowance(out, worst, w, unit)));
  }
  return "";
}

}  // namespace moebius::test
