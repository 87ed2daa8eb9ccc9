// What a model weighs, counted by the one visitor of its tensors.
#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "engine/mailbox.h"
#include "engine/placement.h"
#include "engine/workspace.h"

namespace moebius {
namespace {

constexpr int64_t kLimit = int64_t{1} << 60;

Status overflow() { return invalid("the model's size overflows; its config.json cannot be that of a model"); }

// Sums by class and layer whatever is shown to it.
class Counter {
 public:
  explicit Counter(ModelBytes& bytes) : bytes_(bytes) {}

  Status add(const std::string& name, Role role, const Matrix& w) {
    const int64_t l = layer_of(name), adapter = w.lora ? w.lora->a.numel() + w.lora->b.numel() : 0;
    const int64_t bytes = w.bytes() + adapter * 4, weights = w.rows * w.cols + adapter;
    if (role == Role::kEmbed) return add(bytes_.embedding, bytes, weights);
    if (role == Role::kHead) return add(bytes_.head, bytes, weights);
    LayerBytes& layer = bytes_.layers[static_cast<size_t>(l)];
    if (role == Role::kExpert && name.ends_with("gate_proj")) {
      if (++experts_ > kMaxPlannedExperts)
        return invalid(fmt::format("more than {} experts; a plan holds at most so many", kMaxPlannedExperts));
      layer.experts.emplace_back();
    }
    if (role == Role::kExpert || (role == Role::kAttention && experts_ == 0)) bytes_.format = w.format;
    return add(of(layer, role), bytes, weights);
  }

  Status add_vector(const std::string& name, int64_t size) {
    const int64_t l = layer_of(name);
    ClassSize& to = l < 0 ? bytes_.head : bytes_.layers[static_cast<size_t>(l)].router;
    return add(to, size * 4, size);
  }

  Status add(ClassSize& to, int64_t bytes, int64_t weights) {
    if (bytes < 0 || weights < 0 || bytes > kLimit - sum_) return overflow();
    sum_ += bytes;
    to.bytes += bytes, to.weights += weights;
    return Status();
  }

 private:
  static int64_t layer_of(const std::string& name) {
    constexpr std::string_view kPrefix = "model.layers.";
    int64_t layer = -1;
    if (name.starts_with(kPrefix))
      std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
    return layer;
  }

  static ClassSize& of(LayerBytes& layer, Role role) {
    switch (role) {
      case Role::kAttention:
        return layer.attention;
      case Role::kDense:
        return layer.dense;
      case Role::kShared:
        return layer.shared;
      case Role::kExpert:
        return layer.experts.back();
      default:
        return layer.router;
    }
  }

  ModelBytes& bytes_;
  int64_t sum_ = 0, experts_ = 0;
};

// What the operations of a layer on many tokens read and write of a token, in float32: vectors of `hidden`
// for norms, residuals, inputs and outputs of products, and the slots of routed experts, which are added up.
int64_t activation_bytes(const ModelConfig& c) {
  int64_t numbers = 0;
  for (const bool moe : c.moe_layer) {
    const bool mla = c.attention == AttentionKind::kMla;
    const int64_t keys = mla ? c.kv_lora + c.rope : 2 * c.kv_heads * c.head_dim;
    numbers +=
        10 * c.hidden + 4 * c.heads * c.qk_dim() + 2 * c.q_lora + 4 * keys + 2 * c.heads * c.value_dim();
    numbers += 7 * (moe ? c.moe.shared_width : c.dense_width);
    if (moe) numbers += (3 + c.moe.top_k) * c.hidden;
  }
  return 4 * numbers;
}

void add_facts(const ModelConfig& c, DType cache_type, ModelBytes& out) {
  out.tied_head = c.tied_head;
  if (c.tied_head) out.head.bytes += out.embedding.bytes, out.head.weights += out.embedding.weights;
  if (c.tied_head) out.embedding = {};
  if (c.moe.n_experts > 0) out.top_k = c.moe.top_k, out.zero_experts = c.moe.zero_experts;
  out.cache_per_token = cache_row_bytes(cache_type, c.cache_width()) * c.layers;
  out.workspace = WorkspaceMemory::bytes(c, kSliceTokens);
  out.state_per_token = 4 * c.hidden * (2 + c.moe.top_k) + 8 * c.moe.top_k;
  if (out.top_k > 0) out.mail_per_token = mailbox_bytes(c, kPassTokens) / kPassTokens;
  out.activations_per_token = activation_bytes(c);
  out.vector_bytes = vector_bytes(c);
  out.operations_per_pair = 2.0 * static_cast<double>(c.heads * (c.qk_dim() + c.value_dim()) * c.layers);
}

// Of an expert that is stored as `like` is, with so many neurons.
ClassSize expert_size(ExpertWeights like, int64_t width) {
  like.gate.rows = like.up.rows = like.down.cols = width;
  return {like.gate.bytes() + like.up.bytes() + like.down.bytes(), 3 * width * like.gate.cols};
}

// Where layers have their first experts alone: all of them, which count towards the limit.
Status add_experts(const ModelConfig& c, const Weights& first, Counter& counter, ModelBytes& out) {
  ClassSize sum;
  size_t moe_index = 0;
  for (size_t l = 0; l < out.layers.size(); ++l) {
    if (!c.moe_layer[l]) continue;
    std::vector<ClassSize>& experts = out.layers[l].experts;
    experts.assign(static_cast<size_t>(c.moe.n_experts), ClassSize(experts.front()));
    const std::vector<int64_t>* widths = c.moe.widths.empty() ? nullptr : &c.moe.widths[moe_index++];
    for (size_t e = 0; e < experts.size(); ++e) {
      if (widths) experts[e] = expert_size(first.layers[l].experts.front(), (*widths)[e]);
      MOEBIUS_TRY(counter.add(sum, experts[e].bytes, experts[e].weights));
    }
  }
  return Status();
}

}  // namespace

ClassSize ModelBytes::total() const {
  ClassSize sum;
  const auto add = [&](const ClassSize& c) { sum.bytes += c.bytes, sum.weights += c.weights; };
  for (const LayerBytes& layer : layers) {
    for (const ClassSize* part : {&layer.attention, &layer.dense, &layer.shared, &layer.router}) add(*part);
    for (const ClassSize& expert : layer.experts) add(expert);
  }
  add(embedding), add(head);
  return sum;
}

ClassSize ModelBytes::per_token() const {
  double bytes = static_cast<double>(head.bytes), weights = static_cast<double>(head.weights);
  const auto add = [&](const ClassSize& c, double share) {
    bytes += static_cast<double>(c.bytes) * share, weights += static_cast<double>(c.weights) * share;
  };
  for (const LayerBytes& layer : layers) {
    for (const ClassSize* part : {&layer.attention, &layer.dense, &layer.shared, &layer.router})
      add(*part, 1);
    const double choices = static_cast<double>(std::ssize(layer.experts) + zero_experts);
    for (const ClassSize& expert : layer.experts)
      add(expert, std::min(1.0, static_cast<double>(top_k) / choices));
  }
  return {static_cast<int64_t>(bytes), static_cast<int64_t>(weights)};
}

Result<ModelBytes> model_bytes(const ModelConfig& config, const FormatRule& rule, DType cache_type) {
  const int64_t moe_layers = std::count(config.moe_layer.begin(), config.moe_layer.end(), true);
  if (config.moe.n_experts * moe_layers > kMaxPlannedExperts) {
    return invalid(fmt::format("{} experts in {} layers are more than a plan holds ({} in all)",
                               config.moe.n_experts, moe_layers, kMaxPlannedExperts));
  }
  ModelConfig one = config;  // one expert a layer, but the whole router
  one.moe.widths.clear();
  if (config.moe.n_experts > 0) {
    one.moe.n_experts = 1;
    one.moe.zero_experts = config.moe.n_experts - 1 + config.moe.zero_experts;
  }
  ModelBytes out;
  out.layers.resize(static_cast<size_t>(config.layers));
  Counter counter(out);
  WeightVisitor visitor;
  visitor.matrix = [&](const std::string& name, Role role, int64_t rows, int64_t cols, Matrix& w) {
    MOEBIUS_ASSIGN(w, rule.stored(name, role, rows, cols));
    return counter.add(name, role, w);
  };
  visitor.vector = [&](const std::string& name, int64_t size, Tensor&) {
    return counter.add_vector(name, size);
  };
  Weights weights;
  MOEBIUS_TRY(visit_weights(one, weights, visitor));
  MOEBIUS_TRY(add_experts(config, weights, counter, out));
  add_facts(config, cache_type, out);
  return out;
}

Result<ModelBytes> model_bytes(const ModelConfig& config, const Weights& weights, DType cache_type) {
  ModelBytes out;
  out.layers.resize(static_cast<size_t>(config.layers));
  Counter counter(out);
  Weights views = weights;
  WeightVisitor visitor;
  visitor.matrix = [&](const std::string& name, Role role, int64_t, int64_t, Matrix& w) {
    return counter.add(name, role, w);
  };
  visitor.vector = [&](const std::string& name, int64_t size, Tensor&) {
    return counter.add_vector(name, size);
  };
  MOEBIUS_TRY(visit_weights(config, views, visitor));
  add_facts(config, cache_type, out);
  return out;
}

}  // namespace moebius
