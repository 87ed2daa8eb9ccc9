#include "engine/train/full.h"

#include <cmath>

#include <fmt/format.h>

#include "engine/optim/qk_clip.h"
#include "engine/train/random.h"
#include "kernels/half.h"
#include "models/safetensors.h"

namespace moebius {
namespace {

optim::MatrixView view_of(const Matrix& m) {
  return {static_cast<float*>(const_cast<void*>(m.data)), m.rows, m.cols};
}

}  // namespace

Result<std::unique_ptr<FullModel>> FullModel::random(const ModelConfig& config, const FullOptions& options,
                                                     Backend& backend) {
  for (const optim::Recipe* recipe : {&options.matrices, &options.embeddings, &options.vectors})
    MOEBIUS_TRY(optim::check_recipe(*recipe));
  std::unique_ptr<FullModel> model(new FullModel(config, options));
  MOEBIUS_TRY(model->lay_out(backend));
  model->initialise();
  if (options.qk_clip > 0 && config.qk_norm)
    model->notes_.push_back("QK-Clip is not applicable: queries and keys pass a norm of their own");
  return model;
}

Status FullModel::lay_out(Backend& backend) {
  // Twice over the tensors: to measure, then to hand out.
  const auto walk = [&](Weights& tree, Arena& arena, const auto& on_entry) {
    const auto matrix = [&](const std::string& name, Role role, int64_t rows, int64_t cols, Matrix& m) {
      m = Matrix();
      m.rows = rows, m.cols = cols, m.data = arena.take(DType::kF32, {rows, cols}).data;
      return on_entry(name + ".weight", std::optional<Role>(role), view_of(m),
                      std::vector<int64_t>{rows, cols});
    };
    const auto vector = [&](const std::string& name, int64_t size, Tensor& t) {
      t = arena.take(DType::kF32, {size});
      return on_entry(name, std::optional<Role>(), optim::MatrixView(static_cast<float*>(t.data), 1, size),
                      std::vector<int64_t>{size});
    };
    return visit_weights(config_, tree, {matrix, vector});
  };
  const auto nothing = [](const std::string&, std::optional<Role>, optim::MatrixView,
                          const std::vector<int64_t>&) { return Status(); };
  Arena measured(nullptr);
  MOEBIUS_TRY(walk(weights_, measured, nothing));
  MOEBIUS_ASSIGN(values_, backend.alloc(static_cast<size_t>(measured.used())));
  MOEBIUS_ASSIGN(gradient_values_, backend.alloc(static_cast<size_t>(measured.used())));
  Arena values(values_.as<char>()), gradients(gradient_values_.as<char>());
  MOEBIUS_TRY(walk(weights_, values,
                   [&](const std::string& name, std::optional<Role> role, optim::MatrixView view,
                       const std::vector<int64_t>& shape) -> Status {
                     MOEBIUS_ASSIGN(const optim::Rule rule, optim::rule_of(name, role, shape));
                     entries_.push_back({name, rule, role.value_or(Role::kAttention), view, {}, !role, {}});
                     return Status();
                   }));
  size_t next = 0;
  MOEBIUS_TRY(
      walk(gradients_, gradients,
           [&](const std::string&, std::optional<Role>, optim::MatrixView view, const std::vector<int64_t>&) {
             entries_[next++].gradient = view;
             return Status();
           }));
  for (Entry& e : entries_) {
    if (e.rule == optim::Rule::kBalance) continue;
    e.state = optim::make_state(recipe(e.rule), e.weight.rows, e.weight.cols);
    named_.push_back({e.name, e.gradient});
  }
  // The selection bias has no gradient: nothing may take its memory for one.
  for (LayerGradients& layer : gradients_.layers) layer.router_bias = Tensor();
  return Status();
}

void FullModel::initialise() {
  for (const Entry& e : entries_) {
    if (e.vector) {
      const bool norm = e.name.ends_with("norm.weight");
      std::ranges::fill(e.weight.values(), norm ? 1.0f : 0.0f);
      continue;
    }
    const bool table = e.rule == optim::Rule::kAdamW;
    double deviation = table ? 0.02 : std::sqrt(1.0 / (3.0 * static_cast<double>(e.weight.cols)));
    if (e.name.ends_with("o_proj.weight") || e.name.ends_with("down_proj.weight"))
      deviation /= std::sqrt(2.0 * static_cast<double>(config_.layers));
    NamedRandom random(options_.seed, e.name);
    for (float& value : e.weight.values()) value = static_cast<float>(deviation) * random.normal();
  }
}

Status FullModel::start_from(const Weights& weights) {
  size_t next = 0;
  WeightVisitor visitor;
  visitor.matrix = [&](const std::string&, Role, int64_t rows, int64_t cols, Matrix& from) {
    const optim::MatrixView& to = entries_[next++].weight;
    best_kernels(from.format, cpu_features().isa()).dequantize_rows(from, 0, rows, to.values().data(), cols);
    return Status();
  };
  visitor.vector = [&](const std::string&, int64_t size, Tensor& from) {
    std::copy_n(from.f32(), size, entries_[next++].weight.values().begin());
    return Status();
  };
  Weights views = weights;
  return visit_weights(config_, views, visitor);
}

const optim::Recipe& FullModel::recipe(optim::Rule rule) const {
  if (rule == optim::Rule::kMuon) return options_.matrices;
  return rule == optim::Rule::kAdamW ? options_.embeddings : options_.vectors;
}

void FullModel::zero_gradients() { std::memset(gradient_values_.data(), 0, gradient_values_.bytes()); }

Status FullModel::step(double lr, const TrainingPass& statistics, ThreadPool& pool) {
  for (const optim::Rule rule : {optim::Rule::kMuon, optim::Rule::kAdamW, optim::Rule::kAdamW1D}) {
    std::vector<optim::Parameter> parameters;
    for (Entry& e : entries_)
      if (e.rule == rule) parameters.push_back({e.name, e.weight, e.gradient, &e.state});
    MOEBIUS_TRY(optim::apply_step(recipe(rule), lr, parameters, pool));
  }
  for (size_t l = 0; l < weights_.layers.size(); ++l) {
    const Tensor& bias = weights_.layers[l].router_bias;
    if (bias.empty() || options_.balance_gamma == 0) continue;
    optim::balance_bias(statistics.load()[l], static_cast<float>(options_.balance_gamma),
                        {bias.f32(), static_cast<size_t>(bias.numel())});
  }
  return options_.qk_clip > 0 ? clip_heads(statistics.highest_logits()) : Status();
}

Status FullModel::clip_heads(std::span<const float> highest) {
  clipped_heads_ = 0;
  const size_t heads = static_cast<size_t>(config_.heads);
  for (size_t l = 0; l < weights_.layers.size(); ++l) {
    const LayerWeights& w = weights_.layers[l];
    const bool mla = config_.attention == AttentionKind::kMla;
    optim::QkWeights qk;
    qk.q = view_of(mla && config_.q_lora > 0 ? w.q_b : w.q);
    if (mla) qk.kv_b = view_of(w.kv_b);
    if (!mla && !w.q_bias.empty()) qk.q_bias = {w.q_bias.f32(), static_cast<size_t>(w.q_bias.numel())};
    MOEBIUS_ASSIGN(const optim::QkClip clip, optim::clip_qk(config_, highest.subspan(l * heads, heads),
                                                            static_cast<float>(options_.qk_clip), qk));
    for (const float gamma : clip.gamma) clipped_heads_ += gamma < 1;
  }
  return Status();
}

std::vector<optim::StateEntry> FullModel::entries() {
  std::vector<optim::StateEntry> all;
  for (Entry& e : entries_) {
    const std::vector<int64_t> shape =
        e.vector ? std::vector<int64_t>{e.weight.cols} : std::vector<int64_t>{e.weight.rows, e.weight.cols};
    all.push_back(
        {e.name, DType::kF32, shape, e.weight.data, e.weight.size() * static_cast<int64_t>(sizeof(float))});
    if (e.rule == optim::Rule::kBalance) continue;
    for (optim::StateEntry& state : optim::state_entries(e.name, e.state)) all.push_back(std::move(state));
  }
  return all;
}

Status FullModel::write_weights(const std::string& path) const {
  SafetensorsWriter writer(path, {{"format", "pt"}});
  const auto wide = [](const Entry& e) { return e.rule == optim::Rule::kBalance; };
  for (const Entry& e : entries_) {
    writer.declare(
        e.name, wide(e) ? DType::kF32 : DType::kBF16,
        e.vector ? std::vector<int64_t>{e.weight.cols} : std::vector<int64_t>{e.weight.rows, e.weight.cols});
  }
  std::vector<uint16_t> half;
  for (const Entry& e : entries_) {
    const size_t count = static_cast<size_t>(e.weight.size());
    if (wide(e)) {
      MOEBIUS_TRY(writer.append(e.weight.data, count * sizeof(float)));
      continue;
    }
    half.resize(count);
    for (size_t i = 0; i < count; ++i) half[i] = f32_to_bf16(e.weight.data[i]);
    MOEBIUS_TRY(writer.append(half.data(), count * sizeof(uint16_t)));
  }
  return writer.finish();
}

}  // namespace moebius
