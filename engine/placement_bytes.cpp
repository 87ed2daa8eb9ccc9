// What a model weighs, counted by the one visitor of its tensors.
#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "engine/placement.h"
#include "engine/workspace.h"

namespace moebius {
namespace {

constexpr int64_t kLimit = int64_t{1} << 60;

Format format_of(const FormatRule& rule, Role role) {
  if (role == Role::kEmbed || role == Role::kRouter) return Format::kBF16;
  return rule.experts_only && role != Role::kExpert ? Format::kBF16 : rule.linear;
}

// The matrix as it would lie in a file; nothing may look at its data.
Matrix sized(Format format, int64_t rows, int64_t cols) {
  static constexpr char kSomewhere = 0;
  Matrix w;
  w.format = format, w.rows = rows, w.cols = cols;
  if (format != Format::kFp8Block && !is_integer(format)) return w;
  w.group = format == Format::kFp8Block ? kFp8Block : kActivationGroup;
  w.scale_dtype = is_integer(format) ? DType::kBF16 : DType::kF32;
  w.scales = &kSomewhere;
  return w;
}

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
  if (out.top_k > 0) out.mail_per_token = 4 * (c.hidden * (1 + c.moe.top_k) + c.moe.top_k);
  out.activations_per_token = activation_bytes(c);
  out.vector_bytes = 4 * c.hidden;
  out.operations_per_pair = 2.0 * static_cast<double>(c.heads * (c.qk_dim() + c.value_dim()) * c.layers);
}

// Fills in layers that are like `dense` or like `sparse`, whose experts are all like its first.
Status repeat(const ModelConfig& c, const FormatRule& rule, const LayerBytes& dense, const LayerBytes& sparse,
              ModelBytes& out) {
  Counter counter(out);
  ClassSize sum;  // counts towards the limit again, layer by layer
  size_t moe_index = 0;
  for (const bool moe : c.moe_layer) {
    LayerBytes& layer = out.layers.emplace_back(moe ? sparse : dense);
    for (const ClassSize* part : {&layer.attention, &layer.dense, &layer.shared, &layer.router})
      MOEBIUS_TRY(counter.add(sum, part->bytes, part->weights));
    if (!moe) continue;
    layer.experts.assign(static_cast<size_t>(c.moe.n_experts), sparse.experts.front());
    if (!c.moe.widths.empty()) {
      const std::vector<int64_t>& widths = c.moe.widths[moe_index++];
      for (size_t e = 0; e < widths.size(); ++e) {
        const Matrix in = sized(rule.linear, widths[e], c.hidden),
                     down = sized(rule.linear, c.hidden, widths[e]);
        layer.experts[e] = {2 * in.bytes() + down.bytes(), 3 * widths[e] * c.hidden};
      }
    }
    for (const ClassSize& expert : layer.experts) MOEBIUS_TRY(counter.add(sum, expert.bytes, expert.weights));
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
  ModelConfig two = config;  // a layer of each kind, with one expert but the whole router
  two.layers = 2;
  two.moe_layer = {false, config.moe.n_experts > 0};
  two.moe.widths.clear();
  if (config.moe.n_experts > 0) {
    two.moe.n_experts = 1;
    two.moe.zero_experts = config.moe.n_experts - 1 + config.moe.zero_experts;
  }
  ModelBytes kinds;
  kinds.layers.resize(2);
  Counter counter(kinds);
  WeightVisitor visitor;
  visitor.matrix = [&](const std::string& name, Role role, int64_t rows, int64_t cols, Matrix&) {
    return counter.add(name, role, sized(format_of(rule, role), rows, cols));
  };
  visitor.vector = [&](const std::string& name, int64_t size, Tensor&) {
    return counter.add_vector(name, size);
  };
  Weights weights;
  MOEBIUS_TRY(visit_weights(two, weights, visitor));
  ModelBytes out = kinds;
  out.layers.clear();
  MOEBIUS_TRY(repeat(config, rule, kinds.layers[0], kinds.layers[1], out));
  out.format = moe_layers > 0 ? format_of(rule, Role::kExpert) : format_of(rule, Role::kAttention);
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
