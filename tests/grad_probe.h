// Central differences of a float32 forward pass, to hold a gradient against.
//
// Inputs lie on a grid of 2^-9 within [-1, 1] and steps are powers of two, so that input +- step is exact.
// With D(h) the fourth-order difference (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h, D(h) misses the
// derivative by about (D(2h) - D(h)) / 15, and an error of the forward by up to E moves it by 1.5 E / h.
// Allowed is (D(2h) - D(h)) / 4 + 2.5 E / h, plus the roundings of the gradient itself; that the allowance
// stays far below the gradients, so that the comparison means something, is asserted too.
#pragma once

#include <cmath>
#include <functional>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "kernels/grad_ops.h"
#include "tests/op_cases.h"

namespace moebius::test {

struct Sum {
  double value = 0, magnitude = 0;
};

// A tensor in memory with gaps between rows, and what the memory held when it was made.
struct Field {
  Tensor view;
  float* data = nullptr;
  std::vector<float> before;

  // What was added to the element of `view` at `at`.
  double added(const float* at) const {
    return static_cast<double>(*at) - static_cast<double>(before[static_cast<size_t>(at - data)]);
  }
  void restore() const { std::copy(before.begin(), before.end(), data); }
  std::vector<float> now() const { return {data, data + before.size()}; }
};

// shape: up to three dimensions; gap numbers lie behind each row and each head.
inline Field field(Arena& arena, std::initializer_list<int64_t> shape, int64_t gap = 0) {
  Field f;
  f.view = f32_tensor(nullptr, shape);
  const int n = f.view.ndim;
  int64_t count = n == 1 ? f.view.shape[0] : f.view.shape[n - 1] + gap;
  for (int d = n - 2; d >= 0; --d) {
    f.view.stride[d] = count + (d == 0 && n > 2 ? gap : 0);
    count = f.view.stride[d] * f.view.shape[d];
  }
  f.data = arena.floats(count + 1);
  for (int64_t i = 0; i < count; ++i) f.data[i] = std::round(f.data[i] * 512) / 512;
  f.view.data = f.data;
  f.before.assign(f.data, f.data + count);
  return f;
}

inline void for_each_element(const Tensor& t, const std::function<void(float*)>& visit) {
  for (int64_t i = 0; i < t.shape[0]; ++i)
    for (int64_t j = 0; j < t.shape[1]; ++j)
      for (int64_t k = 0; k < t.shape[2]; ++k)
        visit(t.f32() + i * t.stride[0] + j * t.stride[1] + k * t.stride[2]);
}

// Nothing outside the view changed.
inline void expect_gaps_kept(const Field& f, const std::string& name) {
  std::vector<float> kept = f.now();
  for_each_element(f.view, [&](float* at) {
    kept[static_cast<size_t>(at - f.data)] = f.before[static_cast<size_t>(at - f.data)];
  });
  EXPECT_EQ(kept, f.before) << name << ": numbers between rows were written";
}

struct Loss {
  std::function<double()> value;  // runs the forward on the inputs as they stand
  double error = 0;               // how far it may stand from the exact loss: E above
  double step = 0x1p-5;
};

inline double difference_quotient(float* at, const Loss& loss, double step) {
  const float center = *at;
  const auto slope = [&](double by) {
    *at = static_cast<float>(center + by);
    const double high = loss.value();
    *at = static_cast<float>(center - by);
    const double low = loss.value();
    *at = center;
    return high - low;
  };
  return (8 * slope(step) - slope(2 * step)) / (12 * step);
}

// What was added to `gradient` is the derivative of the loss with respect to `input`.
inline void expect_gradient(const Tensor& input, const Field& gradient, const Loss& loss,
                            const std::string& name) {
  std::vector<float*> to;
  for_each_element(gradient.view, [&](float* at) { to.push_back(at); });
  size_t next = 0;
  double largest = 0, loosest = 0;
  for_each_element(input, [&](float* at) {
    ASSERT_LT(next, to.size()) << name;
    const float* got_at = to[next++];
    const double got = gradient.added(got_at), want = difference_quotient(at, loss, loss.step);
    const double rounding = 4 * kUnit * (std::fabs(static_cast<double>(*got_at)) + 1) + 2 * loss.error;
    const double allowed = std::fabs(difference_quotient(at, loss, 2 * loss.step) - want) / 4 +
                           2.5 * loss.error / loss.step + rounding;
    largest = std::max(largest, std::fabs(got)), loosest = std::max(loosest, allowed);
    EXPECT_LE(std::fabs(got - want), allowed)
        << name << " [" << next - 1 << "]: got " << got << ", the difference quotient is " << want;
  });
  EXPECT_EQ(next, to.size()) << name;
  EXPECT_LE(loosest, 0.05 * largest + 2e-4) << name << ": the differences are too rough to judge by";
  expect_gaps_kept(gradient, name);
}

// sum of c * y over a [.., d] tensor, and of the magnitudes.
inline Sum weighted(const Tensor& y, const Tensor& c) {
  std::vector<float*> factors;
  for_each_element(c, [&](float* at) { factors.push_back(at); });
  Sum sum;
  size_t next = 0;
  for_each_element(y, [&](float* at) {
    const double term = static_cast<double>(*at) * static_cast<double>(*factors[next++]);
    sum.value += term, sum.magnitude += std::fabs(term);
  });
  return sum;
}

}  // namespace moebius::test
