// The operations of a training step of a small mixture-of-experts model, forward and backward, float32: time,
// rate, and share of the probed float32 rate. bench_training_ops [threads [tokens [operation]]] prints CSV;
// "count" is how often a step runs the operation (layers recompute their forward), and the last line is the
// whole step. share is of the probe run just before, by the clock; processor_share is by the time that the
// program's threads ran, against the best probe so far: the figure to trust on a machine with other work.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "kernels/backend.h"
#include "kernels/probe.h"

namespace moebius {
namespace {

constexpr int64_t kHidden = 192, kLayers = 6, kDenseLayers = 1, kMoeLayers = kLayers - kDenseLayers;
constexpr int64_t kHeads = 4, kNope = 32, kRope = 16, kValue = 32, kLatent = 64;
constexpr int64_t kExperts = 16, kTopK = 4, kWidth = 96, kDense = 448, kVocab = 1536;
constexpr int kRuns = 9;

class Memory {
 public:
  Tensor floats(std::initializer_list<int64_t> shape, float magnitude = 1) {
    Tensor t = f32_tensor(nullptr, shape);
    float* at = keep(t.numel() * 4).as<float>();
    std::uniform_real_distribution<float> draw(-magnitude, magnitude);
    for (int64_t i = 0; i < t.numel(); ++i) at[i] = draw(random_);
    t.data = at;
    return t;
  }
  Tensor ids(std::initializer_list<int64_t> shape, int64_t end) {
    Tensor t(nullptr, DType::kI32, shape);
    int32_t* at = keep(t.numel() * 4).as<int32_t>();
    for (int64_t i = 0; i < t.numel(); ++i)
      at[i] = static_cast<int32_t>(random_() % static_cast<uint64_t>(end));
    t.data = at;
    return t;
  }
  Matrix matrix(int64_t rows, int64_t cols) {
    Matrix m;
    m.rows = rows, m.cols = cols, m.data = floats({rows, cols}, 0.1f).data;
    return m;
  }
  int64_t length(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }

 private:
  Buffer& keep(int64_t bytes) {
    Result<Buffer> buffer = Buffer::host(static_cast<size_t>(bytes));
    MOEBIUS_CHECK(buffer.ok(), buffer.status().message());
    buffers_.push_back(std::move(*buffer));
    return buffers_.back();
  }
  std::mt19937 random_{1};
  std::vector<Buffer> buffers_;
};

class Bench {
 public:
  Bench(int threads, int64_t n, std::string only) : threads_(threads), n_(n), only_(std::move(only)) {
    HostOptions options;
    options.threads = threads;
    backend_ = make_host_backend(options);
    for (starts_ = {0}; starts_.back() < n;)
      starts_.push_back(std::min(n, starts_.back() + memory_.length(20, 250)));
  }

  void run() {
    fmt::print("operation,shape,count,ms,processor_ms,GFLOPs,share,processor_share\n");
    linears();
    rows();
    attention();
    experts();
    vocabulary();
    report("step", fmt::format("n={} in {}", n_, starts_.size() - 1), 1, total_flops_, total_,
           probed_flops_ / total_.clock);
  }

 private:
  struct Spent {
    double clock = 0, processor = 0;  // ms
  };
  static double median(const std::vector<Spent>& runs, double Spent::*part) {
    std::vector<double> values;
    for (const Spent& run : runs) values.push_back(run.*part);
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }

  // Medians of some runs, and the probe beside them.
  void time(const std::string& name, const std::string& shape, int64_t count, double flops,
            const std::function<void()>& op) {
    if (!only_.empty() && name != only_) return;
    op();
    const double rate = probe_float32_GFLOPs(threads_, 0.05);
    best_rate_ = std::max({best_rate_, rate, probe_float32_GFLOPs(1, 0.05) * threads_});
    std::vector<Spent> runs;
    for (int i = 0; i < kRuns; ++i) {
      const auto start = std::chrono::steady_clock::now();
      const std::clock_t ran = std::clock();
      op();
      const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
      runs.push_back({took.count(), static_cast<double>(std::clock() - ran) * 1e3 / CLOCKS_PER_SEC});
    }
    report(name, shape, count, flops, {median(runs, &Spent::clock), median(runs, &Spent::processor)}, rate);
    const double times = static_cast<double>(count);
    total_.clock += median(runs, &Spent::clock) * times;
    total_.processor += median(runs, &Spent::processor) * times;
    total_flops_ += flops * times, probed_flops_ += median(runs, &Spent::clock) * times * rate;
  }

  void report(const std::string& name, const std::string& shape, int64_t count, double flops, Spent spent,
              double rate) const {
    const double reached = flops / spent.clock * 1e-6;
    fmt::print("{},{},{},{:.3f},{:.3f},{:.1f},{:.2f},{:.2f}\n", name, shape, count, spent.clock,
               spent.processor, reached, reached / rate,
               flops / spent.processor * 1e-6 * threads_ / best_rate_);
    std::fflush(stdout);
  }

  void linear(const char* what, int64_t rows, int64_t cols, int64_t forward, int64_t backward) {
    const Matrix w = memory_.matrix(rows, cols);
    const Tensor x = memory_.floats({n_, cols}), y = memory_.floats({n_, rows});
    const Tensor dx = memory_.floats({n_, cols}), dw = memory_.floats({rows, cols});
    const double flops = 2.0 * static_cast<double>(n_ * rows * cols);
    const std::string shape = fmt::format("{} {}x{}", what, rows, cols);
    time("linear", shape, forward, flops, [&] { backend_->linear({w, x, {}, y}); });
    time("linear_backward", shape, backward, 2 * flops, [&] {
      backend_->linear_backward({w, x, y, dx, dw, {}});
    });
  }

  void linears() {
    linear("q", kHeads * (kNope + kRope), kHidden, 2 * kLayers, kLayers);
    linear("kv_a", kLatent + kRope, kHidden, 2 * kLayers, kLayers);
    linear("kv_b", kHeads * (kNope + kValue), kLatent, kLayers, kLayers);
    linear("o", kHidden, kHeads * kValue, 2 * kLayers, kLayers);
    linear("dense up", kDense, kHidden, 4 * kDenseLayers, 2 * kDenseLayers);
    linear("dense down", kHidden, kDense, 2 * kDenseLayers, kDenseLayers);
    linear("shared up", kWidth, kHidden, 4 * kMoeLayers, 2 * kMoeLayers);
    linear("shared down", kHidden, kWidth, 2 * kMoeLayers, kMoeLayers);
    linear("gate", kExperts, kHidden, 0, kMoeLayers);
    linear("head", kVocab, kHidden, 1, 1);
  }

  void rows() {
    const Tensor x = memory_.floats({n_, kHidden}), y = memory_.floats({n_, kHidden});
    const Tensor dx = memory_.floats({n_, kHidden}), weight = memory_.floats({kHidden});
    const Tensor dweight = memory_.floats({kHidden});
    time("rms_norm", "hidden", 4 * kLayers + 2, 0, [&] { backend_->rms_norm({x, weight, 1e-6f, y}); });
    time("rms_norm_backward", "hidden", 2 * kLayers + 1, 0, [&] {
      backend_->rms_norm_backward({x, weight, 1e-6f, y, dx, dweight});
    });
    for (const int64_t d : {kDense, kWidth}) {
      const Tensor gate = memory_.floats({n_, d}), up = memory_.floats({n_, d}), dy = memory_.floats({n_, d});
      const Tensor h = memory_.floats({n_, d}), dgate = memory_.floats({n_, d});
      const int64_t layers = d == kDense ? kDenseLayers : kMoeLayers;
      const std::string shape = fmt::format("{}", d);
      time("swiglu", shape, 2 * layers, 0, [&] { backend_->swiglu({gate, up, h}); });
      time("swiglu_backward", shape, layers, 0, [&] { backend_->swiglu_backward({gate, up, dy, dgate, h}); });
    }
    const Tensor q = memory_.floats({n_, kHeads, kRope}), cos = memory_.floats({n_, kRope / 2});
    time("rotary", "q", 3 * kLayers, 0, [&] { backend_->rotary({q, cos, cos, true}); });
    const Tensor ids = memory_.ids({n_}, kVocab), table = memory_.floats({kVocab, kHidden});
    Matrix w = memory_.matrix(kVocab, kHidden);
    time("embed", "", 1, 0, [&] { backend_->embed({w, ids, y}); });
    time("embed_backward", "", 1, 0, [&] { backend_->embed_backward({ids, y, table}); });
  }

  void attention() {
    const int64_t key = kNope + kRope;
    const Tensor q = memory_.floats({n_, kHeads, key}), out = memory_.floats({n_, kHeads, kValue});
    const Tensor latent = memory_.floats({n_, kLatent + kRope}),
                 cached = memory_.floats({n_, kLatent + kRope});
    const Matrix kv_b = memory_.matrix(kHeads * (kNope + kValue), kLatent);
    std::vector<int32_t> pages(static_cast<size_t>(n_));
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
    double seen = 0;  // pairs of query and key
    for (size_t s = 0; s + 1 < starts_.size(); ++s) {
      const double length = static_cast<double>(starts_[s + 1] - starts_[s]);
      seen += length * (length + 1) / 2;
    }
    const auto each = [&](const std::function<void(int64_t, int64_t, const CacheView&)>& op) {
      for (size_t s = 0; s + 1 < starts_.size(); ++s) {
        const int64_t first = starts_[s], count = starts_[s + 1] - first;
        CacheView cache;
        cache.base = cached.f32() + first * cached.stride[0], cache.width = kLatent + kRope;
        cache.page_tokens = 1, cache.pages = pages.data(), cache.capacity = count;
        op(first, count, cache);
      }
    };
    time("cache_write", "by sequence", 2 * kLayers, 0, [&] {
      each([&](int64_t first, int64_t count, const CacheView& cache) {
        backend_->cache_write({latent.rows(first, count), cache, 0, 0});
      });
    });
    const double expand = 2.0 * static_cast<double>(n_ * kv_b.rows * kLatent);
    const double heads = static_cast<double>(kHeads), one = 2.0 * seen * heads;
    time("mla_prefill", "by sequence", 2 * kLayers, expand + one * (key + kValue), [&] {
      each([&](int64_t first, int64_t count, const CacheView& cache) {
        MlaPrefillArgs args;
        args.q = q.rows(first, count), args.out = out.rows(first, count), args.kv_b = kv_b,
        args.cache = cache;
        args.nope = kNope, args.rope = kRope, args.v_dim = kValue, args.scale = 0.1f;
        backend_->mla_prefill(args);
      });
    });
    const Tensor kv = memory_.floats({n_, kHeads, kNope + kValue}),
                 dkv = memory_.floats({n_, kHeads, kNope + kValue});
    const Tensor dq = memory_.floats({n_, kHeads, key}), dout = memory_.floats({n_, kHeads, kValue});
    AttentionBackwardArgs args;
    args.q = q, args.k = kv.slice(2, 0, kNope), args.v = kv.slice(2, kNope, kValue);
    args.shared = latent.slice(1, kLatent, kRope), args.dshared = cached.slice(1, kLatent, kRope);
    args.scale = 0.1f, args.starts = starts_, args.out = out, args.dout = dout, args.dq = dq;
    args.dk = dkv.slice(2, 0, kNope), args.dv = dkv.slice(2, kNope, kValue);
    time("attention_backward", "all sequences", kLayers, one * (3 * key + 2 * kValue),
         [&] { backend_->attention_backward(args); });
  }

  void experts() {
    const Tensor x = memory_.floats({n_, kHidden}), dy = memory_.floats({n_, kHidden});
    const Tensor slots = memory_.floats({n_, kTopK, kHidden});
    const Tensor weights = memory_.floats({n_, kTopK}), dweights = memory_.floats({n_, kTopK});
    const Tensor ids = memory_.ids({n_, kTopK}, kExperts), chosen = memory_.ids({n_, kTopK}, kExperts);
    const Matrix gate = memory_.matrix(kExperts, kHidden);
    RouterArgs route;
    route.x = x, route.gate = gate, route.n_experts = kExperts, route.normalize = true;
    route.ids = ids, route.weights = weights, route.chosen = chosen, route.scoring = Scoring::kSigmoid;
    time("router", "", 2 * kMoeLayers, 2.0 * static_cast<double>(n_ * kExperts * kHidden),
         [&] { backend_->router(route); });
    const Tensor logits = memory_.floats({n_, kExperts}), dlogits = memory_.floats({n_, kExperts});
    time("router_backward", "", kMoeLayers, 0, [&] {
      backend_->router_backward({logits, chosen, dweights, Scoring::kSigmoid, kExperts, true, 1, dlogits});
    });
    std::vector<ExpertWeights> experts;
    std::vector<ExpertGradients> gradients;
    for (int64_t e = 0; e < kExperts; ++e) {
      experts.push_back({memory_.matrix(kWidth, kHidden), memory_.matrix(kWidth, kHidden),
                         memory_.matrix(kHidden, kWidth)});
      gradients.push_back({memory_.floats({kWidth, kHidden}), memory_.floats({kWidth, kHidden}),
                           memory_.floats({kHidden, kWidth})});
    }
    const double flops = 2.0 * static_cast<double>(n_ * kTopK * kWidth * kHidden);
    time("expert_ffn", "16 experts", 2 * kMoeLayers, 3 * flops, [&] {
      backend_->expert_ffn({x, experts.data(), kExperts, ids, slots});
    });
    time("combine", "", 2 * kMoeLayers, 0, [&] { backend_->combine({slots, ids, weights, dy}); });
    ExpertFfnBackwardArgs args;
    args.x = x, args.experts = experts.data(), args.n_experts = kExperts, args.ids = ids;
    args.weights = weights, args.dy = dy, args.dslots = slots, args.dweights = dweights;
    args.gradients = gradients.data();
    time("expert_ffn_backward", "16 experts", kMoeLayers, 8 * flops,
         [&] { backend_->expert_ffn_backward(args); });
  }

  void vocabulary() {
    const Tensor logits = memory_.floats({n_, kVocab}, 4), loss = memory_.floats({n_});
    const Tensor targets = memory_.ids({n_}, kVocab);
    time("cross_entropy", "", 1, 0, [&] { backend_->cross_entropy({logits, targets, {}, loss, {}}); });
  }

  int threads_;
  int64_t n_;
  std::string only_;
  std::unique_ptr<Backend> backend_;
  Memory memory_;
  std::vector<int64_t> starts_;
  Spent total_;
  double best_rate_ = 0, total_flops_ = 0, probed_flops_ = 0;
};

}  // namespace
}  // namespace moebius

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : moebius::physical_cores();
  const int64_t tokens = argc > 2 ? std::atoll(argv[2]) : 4096;
  moebius::Bench(std::max(threads, 1), std::max<int64_t>(tokens, 1), argc > 3 ? argv[3] : "").run();
}
