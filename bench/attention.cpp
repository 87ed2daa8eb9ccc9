// Decode attention against the limits of the machine: one token over caches far larger than the processor's,
// the median over layers. For every shape, type and depth: bytes of cache per second beside the memory probe,
// operations per second beside the probe of float32 multiply-adds, and the share of what the slower of the
// two would allow. bench_attention [threads] prints CSV.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <numeric>
#include <vector>

#include <fmt/format.h>

#include "kernels/backend.h"
#include "kernels/mapped.h"
#include "kernels/probe.h"

namespace moebius {
namespace {

constexpr int64_t kPageTokens = 64;
constexpr int64_t kCacheBytes = 256 << 20;

struct Shape {
  const char* name;
  int64_t heads, kv_heads, k_dim, v_dim;
  bool mla;  // the value is a prefix of the key
  int64_t width() const { return mla ? k_dim : kv_heads * (k_dim + v_dim); }
};

struct Limits {
  double read_GBs = 0, GFLOPs = 0;
};

// Every layer's cache is its own, so that each call finds its rows in memory only.
double median_seconds(const Shape& s, DType dtype, int64_t depth, Backend& backend) {
  const int64_t pages = (depth + kPageTokens - 1) / kPageTokens;
  CacheView cache;
  cache.dtype = dtype, cache.width = s.width(), cache.page_tokens = kPageTokens;
  cache.capacity = pages * kPageTokens;
  const int64_t layer_bytes = cache.capacity * cache.row_bytes();
  const int64_t layers = std::max<int64_t>(9, kCacheBytes / layer_bytes);
  Result<Buffer> memory = Buffer::host(static_cast<size_t>(layers * layer_bytes));
  MOEBIUS_CHECK(memory.ok(), memory.status().message());
  prefer_large_pages(memory->data(), memory->bytes());  // as KvCache does
  std::vector<int32_t> order(static_cast<size_t>(pages));
  std::iota(order.begin(), order.end(), 0);
  cache.pages = order.data();
  std::vector<float> row(static_cast<size_t>(s.width())), q(static_cast<size_t>(s.heads * s.k_dim)),
      out(static_cast<size_t>(s.heads * s.v_dim));
  const auto fill = [](std::vector<float>& numbers, int64_t seed) {
    for (size_t i = 0; i < numbers.size(); ++i)
      numbers[i] = static_cast<float>((i * 37 + static_cast<size_t>(seed) * 101) % 255) / 127 - 1;
  };
  fill(q, 1);
  std::vector<double> seconds;
  for (const bool write : {true, false}) {
    for (int64_t layer = 0; layer < layers; ++layer) {
      cache.base = memory->as<char>() + layer * layer_bytes;
      for (int64_t p = 0; write && p < depth; ++p) {
        fill(row, p);
        backend.cache_write({f32_tensor(row.data(), {1, s.width()}), cache, 0, p});
      }
      if (write) continue;
      const AttentionArgs args{f32_tensor(q.data(), {1, s.heads, s.k_dim}),
                               cache,
                               depth - 1,
                               s.kv_heads,
                               s.k_dim,
                               s.v_dim,
                               0,
                               s.mla ? 0 : s.kv_heads * s.k_dim,
                               0.05f,
                               f32_tensor(out.data(), {1, s.heads, s.v_dim})};
      const auto start = std::chrono::steady_clock::now();
      backend.attention(args);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      seconds.push_back(took.count());
    }
  }
  std::nth_element(seconds.begin(), seconds.begin() + std::ssize(seconds) / 2, seconds.end());
  return seconds[seconds.size() / 2];
}

Result<Limits> probe(int threads) {
  Limits limits;
  MOEBIUS_ASSIGN(limits.read_GBs, probe_memory_read_GBs(threads, probe_buffer_bytes(), 0.3));
  limits.GFLOPs = probe_float32_GFLOPs(threads, 0.2);
  return limits;
}

int run(int threads) {
  constexpr Shape kShapes[] = {{"mla, 16 heads, 576/512", 16, 1, 576, 512, true},
                               {"gqa, 32 heads of 4 keys, 128", 32, 4, 128, 128, false}};
  HostOptions options;
  options.threads = threads;
  const std::unique_ptr<Backend> backend = make_host_backend(options);
  fmt::print(
      "shape,cache,depth,threads,us,GBs,share_of_read_probe,GFLOPs,share_of_float32_probe,share_of_limit\n");
  for (const Shape& s : kShapes) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
      for (const int64_t depth : {512, 2048, 8192}) {
        const Result<Limits> limits = probe(threads);
        if (!limits.ok()) {
          fmt::print(stderr, "{}\n", limits.status().message());
          return 1;
        }
        const double seconds = median_seconds(s, dtype, depth, *backend);
        CacheView row;
        row.dtype = dtype, row.width = s.width();
        const double GB = static_cast<double>(depth * row.row_bytes()) * 1e-9;
        const double GFLOP = static_cast<double>(2 * depth * s.heads * (s.k_dim + s.v_dim)) * 1e-9;
        const double least = std::max(GB / limits->read_GBs, GFLOP / limits->GFLOPs);
        fmt::print("\"{}\",{},{},{},{:.1f},{:.1f},{:.2f},{:.0f},{:.2f},{:.2f}\n", s.name, dtype_name(dtype),
                   depth, threads, seconds * 1e6, GB / seconds, GB / seconds / limits->read_GBs,
                   GFLOP / seconds, GFLOP / seconds / limits->GFLOPs, least / seconds);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace moebius

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : moebius::physical_cores();
  return moebius::run(std::max(threads, 1));
}
