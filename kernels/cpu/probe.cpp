#include "kernels/probe.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include <fmt/format.h>

#ifdef MOEBIUS_HAVE_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif

#include "kernels/backend.h"
#include "kernels/cpu/probe_loops.h"
#include "kernels/parallel.h"

namespace moebius {
namespace {

constexpr int64_t kPiece = 4 << 20;
constexpr int64_t kRead = 256;  // bytes that the loop takes at a time

// Work per second of each pass of `pass`, in units of 1e9, ascending; passes repeat for `seconds`, at least
// twice.
template <class Pass>
std::vector<double> rates(double work, double seconds, const Pass& pass) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> all;
  for (double passed = 0; all.size() < 2 || passed < seconds;) {
    const auto start = Clock::now();
    pass();
    const double took = std::max(1e-9, std::chrono::duration<double>(Clock::now() - start).count());
    passed += took;
    all.push_back(work / took * 1e-9);
  }
  std::sort(all.begin(), all.end());
  return all;
}

uint64_t load_words(const uint8_t* data, int64_t bytes) {
  uint64_t sums[4] = {};
  const auto* words = reinterpret_cast<const uint64_t*>(data);
  for (int64_t i = 0; i < bytes / 8; i += 4) {
    for (int j = 0; j < 4; ++j) sums[j] ^= words[i + j];
  }
  return sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
}

float multiply_add_scalar(int64_t rounds) {
  float chains[kProbeChains * 8];
  for (size_t i = 0; i < std::size(chains); ++i) chains[i] = static_cast<float>(i);
  for (int64_t round = 0; round < rounds; ++round) {
    for (float& chain : chains) chain = chain * 0.999f + 0.5f;
  }
  float sum = 0;
  for (const float chain : chains) sum += chain;
  return sum;
}

// One pass of about 20 ms per thread at the speed of an ordinary core.
constexpr int64_t kRounds = 4'000'000;

template <class Loop>
double compute_rate(int threads, double seconds, double work_per_round, const Loop& loop) {
  ThreadPool pool(threads);
  std::atomic<uint64_t> kept{0};
  return rates(work_per_round * kRounds * threads, seconds,
               [&] {
                 parallel_for(pool, threads, 1, [&](int64_t, int64_t) {
                   kept.fetch_add(static_cast<uint64_t>(loop(kRounds)), std::memory_order_relaxed);
                 });
               })
      .back();
}

}  // namespace

double probe_read_GBs(int threads, const void* memory, int64_t bytes, double seconds) {
  constexpr uintptr_t kLine = 64;
  const uintptr_t at = (reinterpret_cast<uintptr_t>(memory) + kLine - 1) / kLine * kLine;
  const auto* data = reinterpret_cast<const uint8_t*>(at);
  const int64_t skipped = data - static_cast<const uint8_t*>(memory),
                whole = (bytes - skipped) / kRead * kRead;
  if (whole <= 0) return 0;
  ThreadPool pool(threads);
  const bool avx2 = cpu_features().avx2;
  std::atomic<uint64_t> kept{0};
  const std::vector<double> passes = rates(static_cast<double>(whole), seconds, [&] {
    parallel_for(pool, whole, kPiece, [&](int64_t begin, int64_t end) {
      kept.fetch_xor(avx2 ? probe_load_avx2(data + begin, end - begin)
                          : load_words(data + begin, end - begin));
    });
  });
  return passes[passes.size() / 2];
}

Result<double> probe_memory_read_GBs(int threads, int64_t buffer_bytes, double seconds) {
  const int64_t bytes = std::max<int64_t>(buffer_bytes / kPiece, 1) * kPiece;
  MOEBIUS_ASSIGN(const Buffer buffer, Buffer::host(static_cast<size_t>(bytes)));
  uint8_t* data = buffer.as<uint8_t>();
#ifdef MADV_HUGEPAGE
  madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // a hint: without it the probe is a little low
#endif
  ThreadPool pool(threads);
  // Pages that were never written all stand for one page of zeros, which lies in the cache.
  parallel_for(pool, bytes, kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += 4096) data[at] = static_cast<uint8_t>(at >> 12 | 1);
  });
  return probe_read_GBs(threads, data, bytes, seconds);
}

double probe_float32_GFLOPs(int threads, double seconds) {
  const auto loop = cpu_features().avx2 ? probe_fma_avx2 : multiply_add_scalar;
  return compute_rate(threads, seconds, 2. * 8 * kProbeChains, loop);
}

double probe_int8_GOPs(int threads, double seconds) {
  if (!cpu_features().avx2) return 0;
  return compute_rate(threads, seconds, 2. * 32 * kProbeInt8Chains, probe_int8_avx2);
}

int64_t probe_buffer_bytes() {
  constexpr int64_t kLeast = 256 << 20, kMost = 1 << 30;
#ifdef _SC_LEVEL3_CACHE_SIZE
  const int64_t cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
#else
  const int64_t cache = 0;
#endif
  return std::clamp<int64_t>(8 * cache, kLeast, kMost);
}

std::string onednn_version() {
#ifdef MOEBIUS_HAVE_ONEDNN
  const dnnl_version_t* v = dnnl_version();
  return fmt::format("{}.{}.{}", v->major, v->minor, v->patch);
#else
  return "";
#endif
}

}  // namespace moebius
