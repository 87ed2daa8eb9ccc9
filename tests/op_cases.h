// The form of a case of op_test: arguments, memory, and how far a candidate may stand from the reference.
//
// Each operation <op> of ops.h has one function
//
//   void <op>_cases(Mode mode, const Add<Args>& add);
//
// in namespace moebius::test (op_cases_attention.h, op_cases_matrix.h) that calls add(shape, make) for every
// case: shape names it in messages, make() builds it. Arguments hold plain pointers, so a case owns its
// memory in an Arena, and everything random comes from the arena's generator: a case is the same on every
// run.
#pragma once

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/host.h"
#include "kernels/half.h"
#include "tests/random_matrix.h"

namespace moebius::test {

enum class Mode { kTest, kPerf };  // kPerf: a few cases of real size, with bytes and flops set

class Arena {
 public:
  explicit Arena(uint32_t seed = 1) : random_(seed) {}

  template <class T>
  T* take(int64_t count) {  // zeroed
    Result<Buffer> buffer = Buffer::host(static_cast<size_t>(count) * sizeof(T));
    MOEBIUS_CHECK(buffer.ok(), buffer.status().message());
    buffers_.push_back(std::move(*buffer));
    return buffers_.back().template as<T>();
  }
  std::mt19937& random() { return random_; }
  float uniform(float low, float high) { return std::uniform_real_distribution<float>(low, high)(random_); }
  int64_t below(int64_t end) { return std::uniform_int_distribution<int64_t>(0, end - 1)(random_); }
  float* floats(int64_t count, float low = -1, float high = 1) {
    float* at = take<float>(count);
    for (int64_t i = 0; i < count; ++i) at[i] = uniform(low, high);
    return at;
  }
  // [n, d] of random numbers whose rows lie d + gap apart.
  Tensor matrix(int64_t n, int64_t d, int64_t gap = 0, float low = -1, float high = 1) {
    Tensor t = f32_tensor(floats(n * (d + gap), low, high), {n, d});
    t.stride[0] = d + gap;
    return t;
  }
  const std::vector<Buffer>& buffers() const { return buffers_; }

 private:
  std::mt19937 random_;
  std::vector<Buffer> buffers_;
};

// Memory that an operation writes: the whole allocation, with the gaps between strided rows, so that a stray
// write is seen. Allowed is |got - reference| <= bound[i] + relative * |reference| (bound 0 in gaps); with no
// bound and relative 0 every bit must be equal.
struct Output {
  const char* name;
  void* data;
  DType dtype;  // kF32, kBF16, kI32 or kI8
  int64_t count;
  std::vector<double> bound;
  double relative = 0;
  bool of_largest = false;  // bound[i] is a share of the largest |reference|
};

// random_matrix with its memory from an arena; elements of magnitude up to about 1.
inline Matrix arena_matrix(Arena& arena, MatrixShape shape) {
  if (is_integer(shape.format)) shape.scale = shape.format == Format::kInt8 ? 1.0f / 128 : 1.0f / 8;
  if (shape.format == Format::kFp8Block) shape.scale = 1.0f / 448;
  uint8_t* data = arena.take<uint8_t>(shape.data_bytes());
  uint8_t* scales = arena.take<uint8_t>(shape.scale_bytes());
  return random_matrix(shape, data, scales, arena.random());
}

template <class Args>
struct Case {
  Arena arena;
  Args args;
  std::vector<Output> outputs;  // what they hold after make() is what they hold before each run
  std::vector<Output> rounded;  // the same, with the bounds of the host's candidates *_bf16_*, if any
  bool exact_activations = false;
  bool also_onednn = false;    // the same by --cpu-gemm onednn, which leaves activations exact
  bool host_only = false;      // devices do not know an argument's type
  bool bits_by_place = false;  // bits on a device may depend on where in its memory the arguments lie

  // The same call for tokens [begin, begin + count) only. Set where the contract says that bits do not depend
  // on the company of a token; then token by token, in pieces and whole must agree bit for bit.
  std::function<Args(const Args&, int64_t begin, int64_t count)> part;
  int64_t tokens = 0;  // needed by part

  double bytes = 0, flops = 0;  // read and written, and done, by one run: for perf
};

template <class Args>
using Add = std::function<void(const std::string& shape, const std::function<Case<Args>()>& make)>;

// The allocation behind a [rows, d] view with strided rows, as an output. bound(row, column), if given, is
// asked for each element of the view; elements in the gaps get 0.
inline Output output_of(const char* name, const Tensor& t,
                        const std::function<double(int64_t, int64_t)>& bound = nullptr) {
  const int64_t rows = t.shape[0], width = t.numel() / rows, stride = t.stride[0];
  Output out{name, t.data, t.dtype, rows * stride, {}};
  if (!bound) return out;
  out.bound.assign(static_cast<size_t>(out.count), 0.0);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < width; ++c) out.bound[static_cast<size_t>(r * stride + c)] = bound(r, c);
  return out;
}

// Half a unit in the last place of 1 in float32: every rounded operation errs by at most this, relatively.
inline constexpr double kUnit = 0x1p-24;
// n roundings in a row, or a sum of n products in any order, err by at most gamma(n) * (sum of magnitudes).
inline double gamma(double n) { return n * kUnit / (1 - n * kUnit); }

}  // namespace moebius::test
