// Row kernels of every format against the memory probe: bytes of weights per second, one token, weights far
// larger than the caches. bench_rows [threads] prints CSV.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <random>
#include <vector>

#include <fmt/format.h>

#include "kernels/backend.h"
#include "kernels/parallel.h"
#include "kernels/probe.h"
#include "tests/random_matrix.h"

namespace moebius {
namespace {

constexpr int64_t kCols = 2048;

double best_GBs(const Matrix& w, const FormatKernels& kernels, int threads) {
  std::vector<float> x(kCols, 0.5f), scale(kCols / kActivationGroup), y(static_cast<size_t>(w.rows));
  std::vector<int8_t> q(kCols);
  std::vector<int32_t> sum(scale.size());
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17) - 8;
  quantize_activations(x.data(), kCols, q.data(), scale.data(), sum.data());
  Activations a{x.data(), kCols, kCols, nullptr, nullptr, nullptr};
  if (is_integer(w.format)) a.q = q.data(), a.scale = scale.data(), a.sum = sum.data();
  ThreadPool pool(threads);
  double best = 0;
  for (int run = 0; run < 9; ++run) {
    const auto start = std::chrono::steady_clock::now();
    parallel_for(pool, w.rows, 256, [&](int64_t begin, int64_t end) {
      kernels.dot_rows(w, begin, end, a, nullptr, 1, y.data() + begin, w.rows);
    });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(w.bytes()) / took.count() * 1e-9);
  }
  return best;
}

int run(int threads) {
  const bool avx2 = cpu_features().avx2;
  fmt::print("kernel,threads,GBs,share_of_probe\n");
  for (const Format format :
       {Format::kF32, Format::kBF16, Format::kF16, Format::kFp8Block, Format::kInt8, Format::kInt4}) {
    test::MatrixShape shape{format, 1, kCols};
    shape.rows = (256 << 20) / shape.matrix().row_bytes();
    std::vector<uint8_t> data(static_cast<size_t>(shape.data_bytes()));
    std::vector<uint8_t> scales(static_cast<size_t>(shape.scale_bytes()));
    std::mt19937 random(1);
    const Matrix w = test::random_matrix(shape, data.data(), scales.data(), random);
    const Result<double> limit = probe_memory_read_GBs(threads, probe_buffer_bytes(), 0.3);
    if (!limit.ok()) {
      fmt::print(stderr, "{}\n", limit.status().message());
      return 1;
    }
    const FormatKernels& kernels = best_kernels(format, avx2);
    const double rate = best_GBs(w, kernels, threads);
    fmt::print("{},{},{:.1f},{:.2f}\n", kernels.name, threads, rate, rate / *limit);
  }
  return 0;
}

}  // namespace
}  // namespace moebius

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : moebius::physical_cores();
  return moebius::run(std::max(threads, 1));
}
