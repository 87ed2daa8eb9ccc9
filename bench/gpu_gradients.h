// The backward operations in bench_gpu: shapes of a training step on Moonlight's geometry and on Qwen3's
// heads.
#pragma once

#include <array>
#include <memory>

#include "bench/gpu_bench.h"

namespace moebius {

class GradientBench {
 public:
  explicit GradientBench(GpuBench& bench) : bench_(bench) {}

  void run() {
    for (const Format format : {Format::kInt4, Format::kInt8, Format::kFp8Block, Format::kBF16, Format::kF32})
      for (const int64_t n : {64, 512, 2048}) linear(format, 2048, 2048, n, 0);
    for (const int64_t n : {512, 2048}) linear(Format::kInt4, 2048, 2048, n, 8);
    for (const Format format : {Format::kInt4, Format::kInt8, Format::kFp8Block, Format::kBF16})
      for (const int64_t n : {64, 512, 2048}) experts(format, n, 0);
    for (const int64_t n : {512, 2048}) experts(Format::kInt4, n, 8);
    for (const int64_t n : {512, 2048})
      attention("mla", {16, 16, 128, 64, 128}, n), attention("gqa", {32, 4, 128, 0, 128}, n);
    rows();
  }

 private:
  Tensor zeros(std::initializer_list<int64_t> shape) { return bench_.tensor(DType::kF32, shape); }
  // An adapter of w with its gradients; rank 0: none.
  void adapt(Matrix& w, int64_t rank) {
    if (rank == 0) return;
    loras_.push_back(std::make_unique<Lora>());
    Lora& lora = *loras_.back();
    lora.a = bench_.input({rank, w.cols}), lora.b = bench_.input({w.rows, rank});
    lora.da = zeros({rank, w.cols}), lora.db = zeros({w.rows, rank});
    w.lora = &lora;
  }

  void linear(Format format, int64_t rows, int64_t cols, int64_t n, int64_t rank) {
    const std::string shape = fmt::format("{}[{}x{}] n={} rank={}", format_name(format), rows, cols, n, rank);
    if (!bench_.wants("linear_backward", shape)) return;
    const Tensor x = bench_.input({n, cols}), dy = bench_.input({n, rows}), dx = zeros({n, cols});
    std::vector<std::function<void()>> calls;
    double bytes = 0;
    for (int i = 0; i < 16; ++i) {
      LinearBackwardArgs args{bench_.matrix(format, rows, cols), x, dy, dx, {}, {}};
      adapt(args.w, rank);
      bytes = static_cast<double>(args.w.bytes() + 4 * n * (rows + 2 * cols));
      calls.push_back([this, args] { bench_.gpu().linear_backward(args); });
    }
    bench_.time("linear_backward", shape, bytes, static_cast<double>(2 * n * rows * cols), calls);
  }

  void experts(Format format, int64_t n, int64_t rank) {
    constexpr int64_t kHidden = 2048, kWidth = 1408, kExperts = 64, kTop = 6;
    const std::string shape = fmt::format("moonlight {} n={} rank={}", format_name(format), n, rank);
    if (!bench_.wants("expert_ffn_backward", shape)) return;
    std::vector<ExpertWeights> experts(kExperts);
    double bytes = 0;
    for (ExpertWeights& e : experts) {
      e = {bench_.matrix(format, kWidth, kHidden), bench_.matrix(format, kWidth, kHidden),
           bench_.matrix(format, kHidden, kWidth)};
      bytes += static_cast<double>(3 * e.gate.bytes());
      adapt(e.gate, rank), adapt(e.up, rank), adapt(e.down, rank);
    }
    ExpertFfnBackwardArgs args;
    args.x = bench_.input({n, kHidden}), args.dy = bench_.input({n, kHidden});
    args.experts = experts.data(), args.n_experts = kExperts, args.ids = bench_.ids(n, kTop, kExperts, 0);
    args.weights = bench_.input({n, kTop}), args.dweights = zeros({n, kTop});
    args.dslots = zeros({n, kTop, kHidden});
    bytes += static_cast<double>(4 * n * (2 + kTop) * kHidden);
    bench_.time("expert_ffn_backward", shape, bytes, static_cast<double>(n * kTop * 10 * kWidth * kHidden),
                {[this, args] { bench_.gpu().expert_ffn_backward(args); }});
  }

  struct Heads {
    int64_t heads, kv_heads, own, rest, v_dim;
  };
  void attention(const char* name, const Heads& s, int64_t n) {
    const std::string shape = fmt::format("{} heads={} n={}", name, s.heads, n);
    if (!bench_.wants("attention_backward", shape)) return;
    const std::array<int64_t, 2> starts{0, n};
    AttentionBackwardArgs args;
    args.q = bench_.input({n, s.heads, s.own + s.rest}), args.k = bench_.input({n, s.kv_heads, s.own});
    args.v = bench_.input({n, s.kv_heads, s.v_dim}), args.scale = 0.07f, args.starts = starts;
    args.out = bench_.input({n, s.heads, s.v_dim}), args.dout = bench_.input({n, s.heads, s.v_dim});
    args.dq = zeros({n, s.heads, s.own + s.rest}), args.dk = zeros({n, s.kv_heads, s.own});
    args.dv = zeros({n, s.kv_heads, s.v_dim});
    if (s.rest > 0) args.shared = bench_.input({n, s.rest}), args.dshared = zeros({n, s.rest});
    const double pairs = 0.5 * static_cast<double>(n) * static_cast<double>(n + 1);
    // Of a fused backward: scores, gradients of weights, and three gradients.
    const double flops = 2 * pairs * static_cast<double>(s.heads * (3 * (s.own + s.rest) + 2 * s.v_dim));
    const int64_t moved = s.heads * (3 * (s.own + s.rest) + 2 * s.v_dim) + s.kv_heads * 3 * (s.own + s.v_dim);
    bench_.time("attention_backward", shape, static_cast<double>(4 * n * moved), flops,
                {[this, args] { bench_.gpu().attention_backward(args); }});
  }

  // Those that move memory: a row of the table each.
  void rows() {
    constexpr int64_t kTokens = 2048, kHidden = 2048, kWidth = 1408, kRouted = 64, kTop = 6, kVocab = 163840,
                      kChunk = 64;
    Backend& gpu = bench_.gpu();
    const auto time = [&](const char* op, const std::string& shape, double numbers,
                          const std::function<void()>& call) {
      if (bench_.wants(op, shape)) bench_.time(op, shape, 4 * numbers, 0, {call});
    };
    const Tensor x = bench_.input({kTokens, kHidden}), dy = bench_.input({kTokens, kHidden});
    const Tensor weight = bench_.input({kHidden}), gate = bench_.input({kTokens, kWidth});
    const Tensor up = bench_.input({kTokens, kWidth}), logits = bench_.input({kTokens, kRouted});
    const Tensor dweights = bench_.input({kTokens, kTop});
    const Tensor dx = zeros({kTokens, kHidden}), dweight = zeros({kHidden});
    const Tensor dgate = zeros({kTokens, kWidth}), dup = zeros({kTokens, kWidth});
    const Tensor dlogits = zeros({kTokens, kRouted}), vocab = zeros({kChunk, kVocab});
    const Tensor loss = zeros({kChunk}), table = zeros({kVocab, kHidden});
    const Tensor ids = bench_.ids(kTokens, kTop, kRouted, 0), words = bench_.ids(kTokens, 1, 20000, 0);
    const Tensor targets = bench_.ids(kChunk, 1, kVocab, 7);
    const std::array<int64_t, 2> starts{0, kTokens};
    const std::vector<Buffer> kept = bench_.keep();  // time() releases what its row had
    constexpr double kNumbers = kTokens * kHidden;
    time("rms_norm_backward", "2048x2048 dx", 4 * kNumbers, [&] {
      gpu.rms_norm_backward({x, weight, 1e-5f, dy, dx, {}});
    });
    time("rms_norm_backward", "2048x2048 dx dweight", 6 * kNumbers, [&] {
      gpu.rms_norm_backward({x, weight, 1e-5f, dy, dx, dweight});
    });
    time("swiglu_backward", "2048x1408", 5.0 * kTokens * kWidth, [&] {
      gpu.swiglu_backward({gate, up, gate, dgate, dup});
    });
    time("router_backward", "2048x64 k=6", 3.0 * kTokens * kRouted, [&] {
      gpu.router_backward({logits, ids, dweights, Scoring::kSigmoid, kRouted, true, 2.5f, dlogits});
    });
    time("balance_backward", "2048x64 k=6", 3.0 * kTokens * kRouted, [&] {
      gpu.balance_backward({logits, ids, starts, Scoring::kSigmoid, 1e-4f, dlogits, kRouted, 0});
    });
    time("cross_entropy", "64x163840", 3.0 * kChunk * kVocab, [&] {
      gpu.cross_entropy({vocab, targets.reshape({kChunk}), {}, loss, {}});
    });
    time("embed_backward", "2048x2048", 3 * kNumbers, [&] {
      gpu.embed_backward({words.reshape({kTokens}), dy, table});
    });
  }

  GpuBench& bench_;
  std::vector<std::unique_ptr<Lora>> loras_;
};

}  // namespace moebius
