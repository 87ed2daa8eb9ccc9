#include "engine/adapted_weights.h"

#include <map>

#include <fmt/format.h>

#include "kernels/backend.h"

namespace moebius {
namespace {

void attach(AdaptedMatrix& m, Matrix& w, bool gradients) {
  AdapterFactors& f = m.factors;
  m.base = w;
  m.lora.a = f32_tensor(f.a.data(), {f.rank, f.in});
  m.lora.b = f32_tensor(f.b.data(), {f.out, f.rank});
  m.lora.scale = f.scale;
  if (gradients) {
    m.da.assign(f.a.size(), 0.0f), m.db.assign(f.b.size(), 0.0f);
    m.lora.da = f32_tensor(m.da.data(), {f.rank, f.in});
    m.lora.db = f32_tensor(m.db.data(), {f.out, f.rank});
  }
  if (must_merge(f.module, m.role)) {
    m.lora.merged = true;
    m.merged.resize(static_cast<size_t>(w.rows * w.cols));
    w = Matrix();
    w.rows = f.out, w.cols = f.in, w.data = m.merged.data();
    merge_adapter(m.base, f, 0, f.out, m.merged.data());
  }
  w.lora = &m.lora;
}

}  // namespace

bool must_merge(const std::string& module, Role role) {
  return role == Role::kRouter || module.ends_with(".kv_b_proj");
}

void merge_adapter(const Matrix& w, const AdapterFactors& f, int64_t begin, int64_t end, float* out) {
  best_kernels(w.format, cpu_features().isa()).dequantize_rows(w, begin, end, out, w.cols);
  for (int64_t r = begin; r < end; ++r, out += f.in) {
    for (int64_t k = 0; k < f.rank; ++k) {
      const float b = f.scale * f.b[static_cast<size_t>(r * f.rank + k)];
      const float* a = f.a.data() + k * f.in;
      for (int64_t c = 0; c < f.in; ++c) out[c] += b * a[c];
    }
  }
}

Result<std::unique_ptr<AdaptedWeights>> AdaptedWeights::create(const ModelConfig& config, const Weights& base,
                                                               std::vector<AdapterFactors> factors,
                                                               bool gradients) {
  std::unique_ptr<AdaptedWeights> adapted(new AdaptedWeights());
  adapted->weights_ = base;
  std::map<std::string, AdapterFactors*> wanted;
  for (AdapterFactors& f : factors)
    if (!wanted.emplace(f.module, &f).second)
      return invalid(fmt::format("adapter: {} comes twice", f.module));
  const auto matrix = [&](const std::string& name, Role role, int64_t rows, int64_t cols,
                          Matrix& w) -> Status {
    const auto at = wanted.find(name);
    if (at == wanted.end()) return Status();
    AdapterFactors& f = *at->second;
    const auto wrong = [&](const std::string& what) {
      return invalid(fmt::format("adapter: {}: {}", name, what));
    };
    if (role == Role::kEmbed) return wrong("adapters on embeddings are not supported");
    if (f.out != rows || f.in != cols)
      return wrong(fmt::format("it is for [{}, {}], the model has [{}, {}]", f.out, f.in, rows, cols));
    if (f.rank < 1 || std::ssize(f.a) != f.rank * f.in || std::ssize(f.b) != f.out * f.rank)
      return wrong("its factors do not fit its rank");
    AdaptedMatrix& m = adapted->matrices_.emplace_back();
    m.factors = std::move(f), m.role = role;
    attach(m, w, gradients);
    wanted.erase(at);
    return Status();
  };
  // Vectors stay as they are; visit_weights sizes nothing anew for the same configuration.
  const auto vector = [](const std::string&, int64_t, Tensor&) { return Status(); };
  MOEBIUS_TRY(visit_weights(config, adapted->weights_, {matrix, vector}));
  if (!wanted.empty())
    return invalid(fmt::format("adapter: {} is no matrix of this model", wanted.begin()->first));
  return adapted;
}

int64_t AdaptedWeights::bytes() const {
  size_t numbers = 0;
  for (const AdaptedMatrix& m : matrices_)
    numbers += m.factors.a.size() + m.factors.b.size() + m.da.size() + m.db.size() + m.merged.size();
  return static_cast<int64_t>(numbers * sizeof(float));
}

void AdaptedWeights::merge_again(ThreadPool* pool) {
  constexpr int64_t kRows = 64;  // that a thread merges at a time
  for (AdaptedMatrix& m : matrices_) {
    if (m.merged.empty()) continue;
    auto merge = [&](int64_t begin, int64_t end) {
      merge_adapter(m.base, m.factors, begin, end, m.merged.data() + begin * m.factors.in);
    };
    if (pool)
      parallel_for(*pool, m.factors.out, kRows, merge);
    else
      merge(0, m.factors.out);
  }
}

}  // namespace moebius
