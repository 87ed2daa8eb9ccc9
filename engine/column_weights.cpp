#include "engine/column_weights.h"

#include <algorithm>
#include <memory>

#include <fmt/format.h>

#include "engine/forward.h"
#include "kernels/forwarding_backend.h"
#include "kernels/half.h"

namespace moebius {
namespace {

constexpr int64_t kCalibrationTokens = 2048;  // through the model at once, unless a sequence has more
constexpr double kDrawnTokens = 16;           // that count for columns that weigh alike

struct Moments {
  std::vector<float> sum;  // of squares, per column
  int64_t tokens = 0;
};

// Sees the input of every product. Routed experts are computed by `linear` too, so that the inputs of their
// down projections are seen; MLA's kv_b is seen where it expands the cached latents.
class WatchingBackend final : public ForwardingBackend {
 public:
  explicit WatchingBackend(std::unique_ptr<Backend> to) : ForwardingBackend(std::move(to)) {}

  void watch(const Matrix& w, const Tensor& x) {
    totals_.assign(static_cast<size_t>(w.cols), 0.0);
    for (int64_t t = 0; t < x.shape[0]; ++t) add_row(x.rows(t, 1).f32());
    keep(w, x.shape[0]);
  }

  void linear(const LinearArgs& a) override {
    watch(a.w, a.x);
    ForwardingBackend::linear(a);
  }

  void mla_prefill(const MlaPrefillArgs& a) override {
    const int64_t n = a.q.shape[0];
    totals_.assign(static_cast<size_t>(a.kv_b.cols), 0.0);
    for (int64_t p = a.first; p < a.first + n; ++p) add_row(static_cast<const float*>(a.cache.row(p)));
    keep(a.kv_b, n);
    ForwardingBackend::mla_prefill(a);
  }

  void expert_ffn(const ExpertFfnArgs& a) override {
    std::vector<std::vector<int64_t>> slots_of(static_cast<size_t>(a.n_experts));
    for (int64_t i = 0; i < a.ids.numel(); ++i)
      if (const int32_t id = a.ids.i32()[i]; id >= 0) slots_of[static_cast<size_t>(id)].push_back(i);
    for (int64_t e = 0; e < a.n_experts; ++e)
      if (const auto& slots = slots_of[static_cast<size_t>(e)]; !slots.empty())
        expert(a, a.experts[e], slots);
  }

  ColumnWeights take() {
    ColumnWeights weights;
    for (auto& [data, m] : moments_) {
      double mean = 0;
      for (const float s : m.sum) mean += static_cast<double>(s);
      mean /= static_cast<double>(m.sum.size()) * static_cast<double>(m.tokens);
      if (!(mean > 0)) continue;
      const double drawn = kDrawnTokens * mean, tokens = static_cast<double>(m.tokens) + kDrawnTokens;
      for (float& s : m.sum) s = static_cast<float>((static_cast<double>(s) + drawn) / tokens);
      weights.emplace(data, std::move(m.sum));
    }
    return weights;
  }

 private:
  void expert(const ExpertFfnArgs& a, const ExpertWeights& w, const std::vector<int64_t>& slots) {
    const int64_t n = std::ssize(slots), hidden = w.gate.cols, width = w.gate.rows, k = a.ids.shape[1];
    rows_.resize(static_cast<size_t>(n * (hidden + 2 * width)));
    const Tensor x = f32_tensor(rows_.data(), {n, hidden});
    const Tensor gate = f32_tensor(x.f32() + n * hidden, {n, width});
    const Tensor up = f32_tensor(gate.f32() + n * width, {n, width});
    for (int64_t i = 0; i < n; ++i) copy(a.x.rows(slots[static_cast<size_t>(i)] / k, 1), x.rows(i, 1));
    linear({w.gate, x, Tensor(), gate});
    linear({w.up, x, Tensor(), up});
    swiglu({gate, up, gate});
    linear({w.down, gate, Tensor(), x});
    const Tensor out = a.slots.reshape({a.ids.numel(), hidden});
    for (int64_t i = 0; i < n; ++i) copy(x.rows(i, 1), out.rows(slots[static_cast<size_t>(i)], 1));
  }

  void add_row(const float* x) {
    for (size_t c = 0; c < totals_.size(); ++c)
      totals_[c] += static_cast<double>(x[c]) * static_cast<double>(x[c]);
  }

  void keep(const Matrix& w, int64_t tokens) {
    Moments& m = moments_[w.data];
    m.sum.resize(totals_.size());
    for (size_t c = 0; c < totals_.size(); ++c) m.sum[c] += static_cast<float>(totals_[c]);
    m.tokens += tokens;
  }

  std::unordered_map<const void*, Moments> moments_;
  std::vector<double> totals_;  // of one product
  std::vector<float> rows_;     // of one expert
};

// Whole sequences, as many as fit.
std::vector<std::span<const std::vector<int32_t>>> passes_of(
    std::span<const std::vector<int32_t>> sequences) {
  std::vector<std::span<const std::vector<int32_t>>> passes;
  int64_t tokens = 0;
  for (size_t i = 0, first = 0; i < sequences.size(); ++i) {
    const bool fits = i > first && tokens + std::ssize(sequences[i]) <= kCalibrationTokens;
    if (!fits) first = i, tokens = 0, passes.emplace_back();
    tokens += std::ssize(sequences[i]);
    passes.back() = sequences.subspan(first, i - first + 1);
  }
  return passes;
}

int64_t tokens_of(std::span<const std::vector<int32_t>> sequences) {
  int64_t tokens = 0;
  for (const std::vector<int32_t>& ids : sequences) tokens += std::ssize(ids);
  return tokens;
}

class Run {
 public:
  Run(const ModelFiles& files, const ColumnWeightsOptions& options)
      : files_(files),
        options_(options),
        rotary_(rotary_table(files.config().rotary)),
        backend_(make_host_backend({options.threads})) {}

  Status passes(std::span<const std::vector<int32_t>> sequences) {
    const auto all = passes_of(sequences);
    int64_t most = 0, positions = 0;
    for (const auto& pass : all) {
      int64_t in_pages = 0;
      for (const std::vector<int32_t>& ids : pass)
        in_pages += (std::ssize(ids) + kPageTokens - 1) / kPageTokens;
      most = std::max(most, tokens_of(pass)), positions = std::max(positions, in_pages * kPageTokens);
    }
    const ModelConfig& config = files_.config();
    MOEBIUS_ASSIGN(KvCache cache, KvCache::create(config, DType::kF32, positions, backend_));
    MOEBIUS_ASSIGN(const WorkspaceMemory memory, WorkspaceMemory::create(config, most, backend_));
    total_ = std::ssize(all) * config.layers;
    for (const auto& pass : all) MOEBIUS_TRY(run(pass, cache, memory));
    return Status();
  }

  ColumnWeights take() { return backend_.take(); }

 private:
  Status run(std::span<const std::vector<int32_t>> pass, KvCache& cache, const WorkspaceMemory& memory) {
    std::vector<PageTable> tables(pass.size());
    std::vector<Segment> segments;
    std::vector<int32_t> ids;
    for (size_t i = 0; i < pass.size(); ++i) {
      MOEBIUS_TRY(cache.reserve(tables[i], 0, std::ssize(pass[i])));
      segments.push_back({&tables[i], std::ssize(ids), std::ssize(pass[i]), 0});
      ids.insert(ids.end(), pass[i].begin(), pass[i].end());
    }
    const Model model{files_.config(), files_.weights(), rotary_, backend_};
    const Batch batch{ids, segments};
    const Workspace ws = memory.view(std::ssize(ids));
    start_forward(model, batch, ws);
    for (int64_t layer = 0; layer < files_.config().layers; ++layer) {
      attention_forward(model, layer, batch, cache, ws);
      ffn_forward(model, layer, ws);
      if (options_.progress && !options_.progress(++done_, total_)) return {Code::kCancelled, "cancelled"};
    }
    const Weights& w = files_.weights();
    backend_.rms_norm({ws.x, w.final_norm, files_.config().norm_eps, ws.h});
    backend_.watch(w.head, ws.h);
    for (PageTable& table : tables) cache.release(table);
    return Status();
  }

  const ModelFiles& files_;
  const ColumnWeightsOptions& options_;
  RotaryTable rotary_;
  WatchingBackend backend_;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

Result<ColumnWeights> column_weights(const ModelFiles& model, std::span<const std::vector<int32_t>> sequences,
                                     const ColumnWeightsOptions& options) {
  for (const std::vector<int32_t>& ids : sequences)
    for (const int32_t id : ids)
      if (id < 0 || id >= model.config().vocab)
        return invalid(fmt::format("the calibration text holds token id {}; the vocabulary has {} ids", id,
                                   model.config().vocab));
  Run run(model, options);
  MOEBIUS_TRY(run.passes(sequences));
  return run.take();
}

}  // namespace moebius
