// GpuBench: what bench_gpu measures with: weights and inputs from a pool of random bytes, times of calls in
// turn, rows of CSV. Tensors of its own live until the row is printed. An error ends the program.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "kernels/gpu.h"

namespace moebius {

inline constexpr int64_t kPoolBytes = int64_t{4} << 30;
inline constexpr size_t kCopyBytes = size_t{1} << 30;

struct GpuBenchOptions {
  std::string filter;
  bool once = false;
};

using Clock = std::chrono::steady_clock;
inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

inline void must(const Status& status) {
  if (status.ok()) return;
  fmt::print(stderr, "bench_gpu: {}\n", status.message());
  std::exit(1);
}
template <class T>
T must(Result<T> result) {
  must(result.status());
  return std::move(*result);
}

class GpuBench {
 public:
  GpuBench(Backend& gpu, GpuBenchOptions options) : gpu_(gpu), options_(std::move(options)) {
    pool_ = must(gpu.alloc(kPoolBytes));
    // Bytes that are harmless as any number: 0.01 or so as BF16 and float32, 1 to 2 as E4M3.
    std::vector<uint32_t> bytes(size_t{16} << 20);
    uint32_t state = 1;
    for (uint32_t& four : bytes) four = ((state = state * 1664525 + 1013904223) & 0x83838383u) | 0x3c3c3c3cu;
    const size_t piece = bytes.size() * sizeof(uint32_t);
    for (size_t at = 0; at < kPoolBytes; at += piece)
      gpu.copy_bytes(Stream::kCompute, bytes.data(), pool_.as<char>() + at, piece);
    must(gpu.sync());
  }

  // The next `bytes` of the pool.
  void* next(int64_t bytes) {
    bytes = (bytes + 255) / 256 * 256;
    MOEBIUS_CHECK(bytes <= kPoolBytes);
    if (used_ + bytes > kPoolBytes) used_ = 0;
    used_ += bytes;
    return pool_.as<char>() + used_ - bytes;
  }
  Matrix matrix(Format format, int64_t rows, int64_t cols) {
    Matrix w;
    w.format = format, w.rows = rows, w.cols = cols, w.space = Space::kDevice;
    if (is_integer(format)) w.group = kActivationGroup, w.scale_dtype = DType::kBF16;
    if (format == Format::kFp8Block) w.group = kFp8Block;
    w.scales = w.group ? this : nullptr;  // for bytes()
    const int64_t data = rows * w.row_bytes(), all = w.bytes();
    char* at = static_cast<char*>(next(all + 256));
    w.data = at;
    if (w.group) w.scales = at + (data + 255) / 256 * 256;
    return w;
  }
  // Memory of its own, zeroed.
  Tensor tensor(DType type, std::initializer_list<int64_t> shape) {
    Tensor t(nullptr, type, shape, Space::kDevice);
    kept_.push_back(must(gpu_.alloc(static_cast<size_t>(t.numel()) * dtype_bytes(type))));
    t.data = kept_.back().data();
    return t;
  }
  // Numbers from the pool, which are only read.
  Tensor input(std::initializer_list<int64_t> shape) {
    Tensor t(nullptr, DType::kF32, shape, Space::kDevice);
    t.data = next(t.numel() * 4);
    return t;
  }
  // Experts chosen evenly: token t has (t * k + i + shift) % experts.
  Tensor ids(int64_t n, int64_t k, int64_t experts, int64_t shift) {
    const Tensor t = tensor(DType::kI32, {n, k});
    std::vector<int32_t> chosen(static_cast<size_t>(n * k));
    for (int64_t i = 0; i < n * k; ++i)
      chosen[static_cast<size_t>(i)] = static_cast<int32_t>((i + shift) % experts);
    gpu_.copy_bytes(Stream::kCompute, chosen.data(), t.data, chosen.size() * sizeof(int32_t));
    must(gpu_.sync());
    return t;
  }

  bool wants(const std::string& op, const std::string& shape) const {
    return (op + " " + shape).find(options_.filter) != std::string::npos;
  }
  // calls: in turn.
  void time(const std::string& op, const std::string& shape, double bytes, double flops,
            const std::vector<std::function<void()>>& calls) {
    const size_t count = options_.once ? 1 : calls.size();
    double best = INFINITY, queue = INFINITY, spent = 0;
    for (size_t runs = count; spent < (options_.once ? 1e-9 : 0.15); runs = std::min<size_t>(2 * runs, 512)) {
      const Clock::time_point start = Clock::now();
      for (size_t i = 0; i < runs; ++i) calls[i % calls.size()]();
      const double queued = seconds_since(start);
      must(gpu_.sync());
      const double all = seconds_since(start), n = static_cast<double>(runs);
      best = std::min(best, all / n), queue = std::min(queue, queued / n), spent += all;
    }
    fmt::print("{},\"{}\",{:.2f},{:.2f},{:.1f},{:.2f},{:.2f}\n", op, shape, best * 1e6, queue * 1e6,
               bytes / best * 1e-9, copy_GBs_ > 0 ? bytes / best * 1e-9 / copy_GBs_ : 0.0,
               flops / best * 1e-12);
    std::fflush(stdout);
    kept_.clear();
  }
  void time_copy() {
    const Buffer to = must(gpu_.alloc(kCopyBytes));
    double best = INFINITY;
    for (int round = 0; round < (options_.once ? 1 : 10); ++round) {
      const Clock::time_point start = Clock::now();
      for (int i = 0; i < 4; ++i)
        gpu_.copy_bytes(Stream::kCompute, pool_.as<char>() + i * (kPoolBytes / 4), to.data(), kCopyBytes);
      must(gpu_.sync());
      best = std::min(best, seconds_since(start) / 4);
    }
    copy_GBs_ = 2 * static_cast<double>(kCopyBytes) / best * 1e-9;
    fmt::print("copy,\"1 GiB on the GPU\",{:.2f},0,{:.1f},1,0\n", best * 1e6, copy_GBs_);
  }

  Backend& gpu() { return gpu_; }
  std::vector<Buffer> keep() { return std::exchange(kept_, {}); }

 private:
  Backend& gpu_;
  const GpuBenchOptions options_;
  Buffer pool_;
  int64_t used_ = 0;
  std::vector<Buffer> kept_;
  double copy_GBs_ = 0;
};

}  // namespace moebius
