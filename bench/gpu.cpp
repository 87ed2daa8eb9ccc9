// Operations on a GPU against its limits: bench_gpu [--filter TEXT] [--once] prints CSV.
//
// Weights, caches and experts lie in a pool of random bytes much larger than the GPU's caches, and every call
// takes the next ones, so that they come from its memory. us: of one of many calls queued in one go, the
// fastest of some rounds; queue_us: the host's part of it. Bytes are the least that the operation must move;
// their share is of a copy's speed, read and write counted, in the same run. --once: each call once, for a
// profiler.
#include <numeric>
#include <string_view>
#include <thread>

#include "bench/gpu_gradients.h"

namespace moebius {
namespace {

constexpr int64_t kPage = 64;

using Calls = std::vector<std::function<void()>>;

struct MoeShape {
  const char* name;
  int64_t hidden, width, experts, k;
};

void bench_experts(GpuBench& bench, const MoeShape& s, Format format, int64_t n) {
  const std::string shape = fmt::format("{} {} n={}", s.name, format_name(format), n);
  if (!bench.wants("expert_ffn", shape)) return;
  std::vector<ExpertWeights> experts(static_cast<size_t>(s.experts));
  for (ExpertWeights& e : experts)
    e = {bench.matrix(format, s.width, s.hidden), bench.matrix(format, s.width, s.hidden),
         bench.matrix(format, s.hidden, s.width)};
  const int64_t active = std::min(n * s.k, s.experts);
  const double bytes = static_cast<double>(active * 3 * bench.matrix(format, s.width, s.hidden).bytes());
  const double flops = static_cast<double>(n * s.k * 6 * s.width * s.hidden);
  const Tensor slots = bench.tensor(DType::kF32, {n, s.k, s.hidden});
  Calls calls;
  for (int64_t i = 0; i < 8; ++i) {
    const ExpertFfnArgs args{bench.input({n, s.hidden}), experts.data(), s.experts,
                             bench.ids(n, s.k, s.experts, i * active), slots};
    calls.push_back([&bench, args] { bench.gpu().expert_ffn(args); });
  }
  bench.time("expert_ffn", shape, bytes, flops, calls);
}

void bench_linear(GpuBench& bench, Format format, int64_t rows, int64_t cols, int64_t n) {
  const std::string shape = fmt::format("{}[{}x{}] n={}", format_name(format), rows, cols, n);
  if (!bench.wants("linear", shape)) return;
  const Tensor x = bench.input({n, cols}), y = bench.tensor(DType::kF32, {n, rows});
  Calls calls;
  double bytes = 0;
  for (int i = 0; i < 32; ++i) {
    const LinearArgs args{bench.matrix(format, rows, cols), x, Tensor(), y};
    bytes = static_cast<double>(args.w.bytes() + 4 * n * (rows + cols));
    calls.push_back([&bench, args] { bench.gpu().linear(args); });
  }
  bench.time("linear", shape, bytes, static_cast<double>(2 * n * rows * cols), calls);
}

struct HeadShape {
  const char* name;
  int64_t heads, kv_heads, k_dim, v_dim;
  bool mla;
  int64_t width() const { return mla ? k_dim : kv_heads * (k_dim + v_dim); }
};

struct Cached {
  std::vector<int32_t> pages;
  CacheView view;
};
Cached cached(GpuBench& bench, int64_t width, int64_t positions) {
  Cached c;
  c.pages.resize(static_cast<size_t>((positions + kPage - 1) / kPage));
  std::iota(c.pages.rbegin(), c.pages.rend(), 0);
  c.view.dtype = DType::kBF16, c.view.space = Space::kDevice, c.view.width = width;
  c.view.page_tokens = kPage, c.view.capacity = std::ssize(c.pages) * kPage;
  c.view.base = bench.next(c.view.capacity * c.view.row_bytes());
  c.view.pages = c.pages.data();
  return c;
}

void bench_attention(GpuBench& bench, const HeadShape& s, int64_t depth, int64_t n) {
  const std::string shape = fmt::format("{} heads={} depth={} n={}", s.name, s.heads, depth, n);
  if (!bench.wants("attention", shape)) return;
  const Tensor out = bench.tensor(DType::kF32, {n, s.heads, s.v_dim});
  std::vector<Cached> caches(16);
  Calls calls;
  for (Cached& c : caches) {
    c = cached(bench, s.width(), depth + n);
    c.view.pages = c.pages.data();
    const AttentionArgs args{
        bench.input({n, s.heads, s.k_dim}), c.view, depth, s.kv_heads, s.k_dim, s.v_dim, 0,
        s.mla ? 0 : s.kv_heads * s.k_dim,   0.05f,  out};
    calls.push_back([&bench, args] { bench.gpu().attention(args); });
  }
  const double pairs =
      static_cast<double>(n) * (static_cast<double>(depth) + 0.5 * static_cast<double>(n + 1));
  bench.time("attention", shape, static_cast<double>((depth + n) * s.width() * 2),
             2 * pairs * static_cast<double>(s.heads * (s.k_dim + s.v_dim)), calls);
}

void bench_mla_prefill(GpuBench& bench, int64_t heads, int64_t depth, int64_t n) {
  constexpr int64_t kNope = 128, kRope = 64, kValue = 128, kLatent = 512;
  const std::string shape = fmt::format("heads={} depth={} n={}", heads, depth, n);
  if (!bench.wants("mla_prefill", shape)) return;
  const Cached c = cached(bench, kLatent + kRope, depth + n);
  const MlaPrefillArgs args{bench.input({n, heads, kNope + kRope}),
                            bench.matrix(Format::kBF16, heads * (kNope + kValue), kLatent),
                            c.view,
                            depth,
                            kNope,
                            kRope,
                            kValue,
                            0.05f,
                            bench.tensor(DType::kF32, {n, heads, kValue})};
  const double pairs =
      static_cast<double>(n) * (static_cast<double>(depth) + 0.5 * static_cast<double>(n + 1));
  const double flops =
      2 * static_cast<double>(heads) *
      (pairs * (kNope + kRope + kValue) + static_cast<double>(depth + n) * kLatent * (kNope + kValue));
  bench.time("mla_prefill", shape, static_cast<double>((depth + n) * (kLatent + kRope) * 2), flops,
             {[&bench, args] { bench.gpu().mla_prefill(args); }});
}

// The small operations of a step of one token of Moonlight: launches more than bytes.
void bench_small(GpuBench& bench) {
  constexpr int64_t kHidden = 2048, kHeads = 16, kNope = 128, kRope = 64, kValue = 128, kLatent = 512,
                    kTop = 6;
  const auto run = [&](const char* op, double bytes, const std::function<void()>& call) {
    if (bench.wants(op, "moonlight n=1")) bench.time(op, "moonlight n=1", bytes, 0, {call});
  };
  Backend& gpu = bench.gpu();
  const Tensor x = bench.tensor(DType::kF32, {1, kHidden}), y = bench.tensor(DType::kF32, {1, kHidden});
  const Tensor norm = bench.input({kHidden}), weights = bench.tensor(DType::kF32, {1, kTop});
  const Tensor slots = bench.input({1, kTop, kHidden}), ids = bench.ids(1, kTop, 64, 0);
  const Tensor q = bench.tensor(DType::kF32, {1, kHeads, kNope + kRope});
  const Tensor absorbed = bench.tensor(DType::kF32, {1, kHeads, kLatent + kRope});
  const Tensor cos = bench.input({1, kRope / 2}), sin = bench.input({1, kRope / 2});
  const Matrix gate = bench.matrix(Format::kBF16, 64, kHidden);
  const Matrix kv_b = bench.matrix(Format::kBF16, kHeads * (kNope + kValue), kLatent);
  const Tensor chosen = bench.tensor(DType::kI32, {1, kTop}),
               out = bench.tensor(DType::kF32, {1, kHeads, kValue});
  const Cached c = cached(bench, kLatent + kRope, 256);
  const Tensor latent = bench.input({1, kLatent});
  std::vector<std::pair<const char*, std::function<void()>>> all = {
      {"rms_norm",
       [&] {
         gpu.rms_norm({x, norm, 1e-5f, y});
       }},
      {"rotary",
       [&] {
         gpu.rotary({q.slice(2, kNope, kRope), cos, sin, true});
       }},
      {"cache_write",
       [&] {
         gpu.cache_write({latent, c.view, 0, 100});
       }},
      {"mla_absorb",
       [&] {
         gpu.mla_absorb({q, kv_b, kNope, kValue, absorbed});
       }},
      {"mla_value",
       [&] {
         gpu.mla_value({absorbed.slice(2, 0, kLatent), kv_b, kNope, kValue, out});
       }},
      {"router",
       [&] {
         gpu.router({x, gate, Tensor(), Scoring::kSigmoid, GroupScore::kNone, 64, 1, 1, true, 1, 0, 0, chosen,
                     weights, Tensor(), Tensor()});
       }},
      {"combine",
       [&] {
         gpu.combine({slots, ids, weights, y});
       }},
      {"swiglu", [&] {
         gpu.swiglu({x, norm.reshape({1, kHidden}), y});
       }}};
  const std::vector<Buffer> kept = bench.keep();  // time() releases what its row had
  for (const auto& [op, call] : all) run(op, 0, call);
}

// A flag raised by the stream, seen by a thread of the host, and its answer awaited by the stream: as the
// host's experts are asked and answer.
void bench_handoff(GpuBench& bench) {
  if (!bench.wants("handoff", "there and back")) return;
  Backend& gpu = bench.gpu();
  const Buffer memory = must(gpu.alloc_pinned(4096));
  Flag& asked = *new (memory.data()) Flag(0);
  Flag& answered = *new (memory.as<char>() + 64) Flag(0);
  constexpr uint64_t kRounds = 500;
  std::thread host([&] {
    for (uint64_t i = 1; i <= kRounds; ++i) {
      gpu.wait_on_host(asked, i);
      answered.store(i, std::memory_order_release);
      answered.notify_all();
    }
  });
  const Tensor x = bench.tensor(DType::kF32, {1, 2048});
  const Tensor there(memory.as<char>() + 256, DType::kF32, {1, 512}, Space::kPinned);
  const Clock::time_point start = Clock::now();
  for (uint64_t i = 1; i <= kRounds; ++i) {
    gpu.copy(x.slice(1, 0, 512), there);
    gpu.raise(asked, i), gpu.await(answered, i);
  }
  const double queued = seconds_since(start);
  must(gpu.sync());
  const double all = seconds_since(start);
  host.join();
  fmt::print("handoff,\"there and back, with a copy of 2 KiB\",{:.2f},{:.2f},0,0,0\n", all / kRounds * 1e6,
             queued / kRounds * 1e6);
}

int run(const GpuBenchOptions& options) {
  Result<std::unique_ptr<Backend>> opened = make_cuda_backend({});
  if (!opened.ok()) {
    fmt::print(stderr, "bench_gpu: skipped: {}\n", opened.status().message());
    return 0;  // `make bench` runs every bench
  }
  const std::unique_ptr<Backend> gpu = std::move(*opened);
  fmt::print("# {}\nop,shape,us,queue_us,GBs,share_of_copy,TFLOPs\n", gpu->name());
  GpuBench bench(*gpu, options);
  bench.time_copy();
  const MoeShape moonlight{"moonlight", 2048, 1408, 64, 6}, kimi{"kimi-k2", 7168, 2048, 48, 8};
  for (const Format format : {Format::kInt4, Format::kInt8, Format::kFp8Block, Format::kBF16})
    for (const int64_t n : {1, 4, 8, 64, 512, 2048}) bench_experts(bench, moonlight, format, n);
  for (const int64_t n : {1, 8, 2048}) bench_experts(bench, kimi, Format::kInt4, n);
  for (const Format format : {Format::kInt4, Format::kInt8, Format::kFp8Block, Format::kBF16})
    for (const int64_t n : {1, 8, 64, 2048}) bench_linear(bench, format, 4096, 4096, n);
  bench_linear(bench, Format::kBF16, 163840, 2048, 1), bench_linear(bench, Format::kBF16, 2048, 2048, 1);
  for (const int64_t heads : {16, 64, 128})
    for (const int64_t depth : {2047, 8191, 32767})
      bench_attention(bench, {"mla", heads, 1, 576, 512, true}, depth, 1);
  for (const int64_t depth : {2047, 8191, 32767})
    bench_attention(bench, {"gqa", 32, 4, 128, 128, false}, depth, 1);
  bench_attention(bench, {"gqa", 32, 4, 128, 128, false}, 0, 2048);
  for (const int64_t depth : {0, 8192}) bench_mla_prefill(bench, 16, depth, 2048);
  bench_small(bench);
  GradientBench(bench).run();
  bench_handoff(bench);
  return 0;
}

}  // namespace
}  // namespace moebius

int main(int argc, char** argv) {
  moebius::GpuBenchOptions options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--filter" && i + 1 < argc) {
      options.filter = argv[++i];
    } else if (argument == "--once") {
      options.once = true;
    } else {
      fmt::print(stderr, "usage: bench_gpu [--filter TEXT] [--once]\n");
      return 2;
    }
  }
  return moebius::run(options);
}
