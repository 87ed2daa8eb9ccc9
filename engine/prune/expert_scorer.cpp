#include "engine/prune/expert_scorer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace moebius {
namespace {

constexpr int64_t kChunk = 1024;       // tokens of an expert at once
constexpr int64_t kNeuronGrain = 256;  // neurons that a thread sums at once

struct Products {
  double xx = 0, yy = 0, xy = 0;
};

Products products(const float* x, const float* y, int64_t n) {
  Products p;
  for (int64_t i = 0; i < n; ++i) {
    const double a = x[i], b = y[i];
    p.xx += a * a, p.yy += b * b, p.xy += a * b;
  }
  return p;
}

}  // namespace

void ExpertScorer::lay_out(int64_t n, int64_t width, Arena& arena) {
  for (Tensor* t : {&x_, &y_}) *t = arena.take(DType::kF32, {n, config_.hidden});
  for (Tensor* t : {&gate_, &up_, &m_, &q_}) *t = arena.take(DType::kF32, {n, width});
}

Result<std::unique_ptr<ExpertScorer>> ExpertScorer::create(const ModelConfig& config, Backend& backend,
                                                           int threads) {
  std::unique_ptr<ExpertScorer> scorer(new ExpertScorer(config, backend, threads));
  Arena measured(nullptr);
  scorer->lay_out(kChunk, config.moe.width, measured);
  MOEBIUS_ASSIGN(scorer->memory_, backend.alloc(static_cast<size_t>(measured.used())));
  scorer->over_y_.resize(kChunk);
  scorer->sums_.resize(static_cast<size_t>(config.layers));
  return scorer;
}

std::vector<double>& ExpertScorer::sums_of(const LayerScores& scores) {
  std::vector<double>& sums = sums_[static_cast<size_t>(scores.layer)];
  sums.resize(scores.neurons.size());
  return sums;
}

// m = silu(gate) up by the very arithmetic of the host's expert_ffn, whose bits integer formats are to give; the
// operation swiglu has another exp.
void ExpertScorer::silu_times_up(int64_t count) {
  const float *gate = gate_.f32(), *up = up_.f32();
  float* m = m_.f32();
  parallel_for(pool_, count * config_.moe.width, kNeuronGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) m[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
  });
}

// One expert's slots: x, m, y and q = y down of their tokens, y into the slots.
void ExpertScorer::run_chunk(const ExpertWeights& expert, const RoutedTokens& tokens, const Slot* slots,
                             int64_t count) {
  Arena arena(memory_);
  lay_out(count, config_.moe.width, arena);
  const int64_t hidden = config_.hidden;
  const size_t row_bytes = static_cast<size_t>(hidden) * sizeof(float);
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(x_.f32() + i * hidden, tokens.h.f32() + slots[i].token * hidden, row_bytes);
  backend_.linear({expert.gate, x_, Tensor(), gate_});
  backend_.linear({expert.up, x_, Tensor(), up_});
  silu_times_up(count);
  backend_.linear({expert.down, m_, Tensor(), y_});
  backend_.zero(q_);
  backend_.linear_backward({expert.down, Tensor(), y_, q_, Tensor(), Tensor()});
  for (int64_t i = 0; i < count; ++i) {
    const int64_t slot = slots[i].token * config_.moe.top_k + slots[i].k;
    std::memcpy(tokens.slots.f32() + slot * hidden, y_.f32() + i * hidden, row_bytes);
  }
}

void ExpertScorer::score_expert(const RoutedTokens& tokens, const Slot* slots, int64_t count, int64_t expert,
                                LayerScores& scores) {
  const size_t e = static_cast<size_t>(expert);
  const int64_t hidden = config_.hidden;
  std::vector<Products> of(static_cast<size_t>(count));
  parallel_for(pool_, count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      of[static_cast<size_t>(i)] = products(x_.f32() + i * hidden, y_.f32() + i * hidden, hidden);
  });
  for (int64_t i = 0; i < count; ++i) {
    const Products& p = of[static_cast<size_t>(i)];
    const double g = tokens.weights.f32()[slots[i].token * config_.moe.top_k + slots[i].k];
    const double length = std::sqrt(p.yy), both = std::sqrt(p.xx) * length;
    const double cosine = both > 0 ? p.xy / both : 0;
    over_y_[static_cast<size_t>(i)] = length > 0 ? static_cast<float>(1 / length) : 0;
    scores.gate[e] += g;
    scores.importance[e] += g * length * (1 - cosine);
  }
  scores.tokens[e] += count;
}

// <m_k down[:, k], y> / ||y|| = m_k q_k / ||y||, summed in the order of the tokens.
void ExpertScorer::score_neurons(int64_t count, double* sums) {
  const int64_t width = m_.shape[1];
  parallel_for(pool_, width, kNeuronGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < count; ++i) {
      const float* m = m_.f32() + i * width;
      const float* q = q_.f32() + i * width;
      const float over_y = over_y_[static_cast<size_t>(i)];
      for (int64_t k = begin; k < end; ++k) sums[k] += m[k] * q[k] * over_y;
    }
  });
}

void ExpertScorer::run(const std::vector<ExpertWeights>& experts, const RoutedTokens& tokens,
                       LayerScores& scores) {
  std::vector<std::vector<Slot>> by_expert(experts.size());
  const int64_t k = config_.moe.top_k;
  for (int64_t i = 0; i < tokens.ids.numel(); ++i) {
    const int32_t id = tokens.ids.i32()[i];
    if (id < 0) continue;
    by_expert[static_cast<size_t>(id)].push_back({static_cast<int32_t>(i / k), static_cast<int32_t>(i % k)});
  }
  std::vector<double>& sums = sums_of(scores);
  for (size_t e = 0; e < experts.size(); ++e) {
    const std::vector<Slot>& slots = by_expert[e];
    const int64_t expert = static_cast<int64_t>(e);
    for (int64_t begin = 0; begin < std::ssize(slots); begin += kChunk) {
      const int64_t count = std::min(kChunk, std::ssize(slots) - begin);
      run_chunk(experts[e], tokens, slots.data() + begin, count);
      score_expert(tokens, slots.data() + begin, count, expert, scores);
      score_neurons(count, sums.data() + expert * config_.moe.width);
    }
  }
}

void ExpertScorer::go_on(const PruneScores& scores) {
  for (const LayerScores& layer : scores.layers) {
    std::vector<double>& sums = sums_of(layer);
    for (size_t i = 0; i < sums.size(); ++i)
      sums[i] = static_cast<double>(layer.neurons[i]) *
                static_cast<double>(layer.tokens[i / static_cast<size_t>(scores.width)]);
  }
}

void ExpertScorer::finish(PruneScores& scores) const {
  for (LayerScores& layer : scores.layers) {
    const std::vector<double>& sums = sums_[static_cast<size_t>(layer.layer)];
    for (size_t i = 0; i < sums.size(); ++i) {
      const int64_t tokens = layer.tokens[i / static_cast<size_t>(scores.width)];
      layer.neurons[i] = tokens > 0 ? static_cast<float>(sums[i] / static_cast<double>(tokens)) : 0;
    }
  }
}

}  // namespace moebius
