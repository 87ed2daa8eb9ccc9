// Reading of PEFT adapters: the keys of the tensors to matrices of the model, in every layout.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>

#include <fmt/format.h>

#include "kernels/half.h"
#include "models/file_io.h"
#include "models/peft.h"
#include "models/peft_config.h"
#include "models/peft_fused.h"
#include "models/peft_matrices.h"
#include "models/safetensors.h"

namespace moebius {
namespace {

constexpr size_t kMaxAdapterConfigBytes = size_t{1} << 20;
constexpr size_t kMaxPatternTrials = size_t{1} << 28;  // comparisons of names
constexpr size_t kMaxRegexTrials = size_t{1} << 22;
constexpr std::string_view kKeyPrefix = "base_model.model.";
constexpr std::string_view kInnerWrapper = ".base_layer";
constexpr std::string_view kExperts = ".mlp.experts";

// The A and B tensors of one adapted module.
struct Pair {
  const TensorEntry* a = nullptr;
  const TensorEntry* b = nullptr;
};

std::string shape_of(const TensorEntry& tensor) { return fmt::format("[{}]", fmt::join(tensor.shape, ", ")); }

bool has_shape(const TensorEntry& tensor, std::initializer_list<int64_t> shape) {
  return std::equal(tensor.shape.begin(), tensor.shape.end(), shape.begin(), shape.end());
}

// count numbers of tensor from first on, as float32.
Status read_floats(const std::string& origin, const TensorEntry& tensor, int64_t first, int64_t count,
                   std::vector<float>* out) {
  out->resize(static_cast<size_t>(count));
  const auto fill = [&](auto convert) {
    for (int64_t i = 0; i < count; ++i) (*out)[static_cast<size_t>(i)] = convert(first + i);
  };
  if (tensor.dtype == DType::kF32) {
    fill([&](int64_t i) { return load_unaligned<float>(tensor.data, i); });
  } else if (tensor.dtype == DType::kBF16) {
    fill([&](int64_t i) { return bf16_to_f32(load_unaligned<uint16_t>(tensor.data, i)); });
  } else if (tensor.dtype == DType::kF16) {
    fill([&](int64_t i) { return f16_to_f32(load_unaligned<uint16_t>(tensor.data, i)); });
  } else {
    return unsupported(fmt::format("{}: tensor {} has dtype {}; F32, BF16 and F16 are supported", origin,
                                   printable(tensor.name), dtype_name(tensor.dtype)));
  }
  if (std::all_of(out->begin(), out->end(), [](float value) { return std::isfinite(value); })) return {};
  return invalid(fmt::format("{}: tensor {} holds numbers that are not finite; its training went wrong",
                             origin, printable(tensor.name)));
}

class Reader {
 public:
  Reader(const ModelConfig& model, const PeftConfig& config, Adapter* adapter)
      : model_(model), matrices_(model), config_(config), adapter_(adapter) {
    slots_.resize(matrices_.all().size());
  }

  Status check_base() const;
  Status read_peft(const SafetensorsFile& file, const std::string& origin);
  Status read_ktransformers(const SafetensorsFile& file, const std::string& origin);
  Status finish();

 private:
  struct Key {
    std::string module;
    bool is_b = false;
  };
  Status wrong(const std::string& name, const std::string& what) const {
    return invalid(fmt::format("{}: {}: {}", origin_, printable(name), what));
  }
  Result<std::optional<Key>> parse_key(const TensorEntry& tensor);
  Status check_copied_base(const TensorEntry& tensor, const std::string& module);
  Status read_module(const std::string& module, const Pair& pair);
  Status read_fused(const std::string& wrapped, const std::string& experts, const Pair& pair);
  Status split_fused(const std::string& experts, const ExpertStack& stack, bool gate_up, float scale);
  Result<PeftConfig::Scaling> scaling_of_module(const std::string& module) const;
  Status add(const std::string& module, int64_t rank, float scale, std::vector<float> a,
             std::vector<float> b);

  const ModelConfig& model_;
  const ModelMatrices matrices_;
  const PeftConfig& config_;
  Adapter* adapter_;
  std::string origin_;
  std::vector<std::optional<AdapterFactors>> slots_;  // by index of the matrix
};

std::string letters_of(std::string_view name) {
  std::string letters;
  for (const char c : name) {
    if (c >= 'A' && c <= 'Z') letters += static_cast<char>(c + 32);
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) letters += c;
  }
  return letters;
}

// auto_mapping names the class of the base model, "DeepseekV3ForCausalLM".
Status Reader::check_base() const {
  constexpr std::string_view kEnd = "ForCausalLM", kZeroExperts = "_plus_plus";
  std::string_view base = config_.base_class();
  if (!base.ends_with(kEnd)) return {};
  base.remove_suffix(kEnd.size());
  std::string_view ours = model_.model_type;
  if (ours.ends_with(kZeroExperts)) ours.remove_suffix(kZeroExperts.size());
  const std::string theirs = letters_of(base);
  if (theirs == letters_of(ours) || (ours == "kimi_k2" && theirs == "deepseekv3")) return {};
  return invalid(fmt::format("{}: made for a {}, but the model is a {}; load it with its own base model{}",
                             config_.origin(), printable(config_.base_class(), 64), model_.model_type,
                             config_.base_model().empty() ? "" : " " + printable(config_.base_model())));
}

// No key for a tensor that repeats a weight of the base model.
Result<std::optional<Reader::Key>> Reader::parse_key(const TensorEntry& tensor) {
  std::string_view name = tensor.name;
  if (name.starts_with(kKeyPrefix)) name.remove_prefix(kKeyPrefix.size());
  for (const char* known :
       {"lora_embedding_", "lora_magnitude_vector", "modules_to_save", "trainable_tokens"}) {
    if (name.find(known) == name.npos) continue;
    return unsupported(fmt::format("{}: tensor {}: {} is not supported", origin_, printable(tensor.name),
                                   std::string(known)));
  }
  const bool is_b = name.rfind(".lora_B.") != name.npos;
  const size_t mark = name.rfind(is_b ? ".lora_B." : ".lora_A.");
  if (mark == name.npos) {
    constexpr std::string_view kCopy = ".base_layer.weight";
    if (name.ends_with(kCopy)) {
      MOEBIUS_TRY(check_copied_base(tensor, std::string(name.substr(0, name.size() - kCopy.size()))));
      return std::optional<Key>();
    }
    return wrong(tensor.name, "not a LoRA tensor; only .lora_A.weight and .lora_B.weight are understood");
  }
  std::string_view rest = name.substr(mark + 8);
  const size_t dot = rest.find('.');
  if (dot != rest.npos) rest.remove_prefix(dot + 1);  // the adapter's name
  if (rest == "bias") {
    return unsupported(fmt::format("{}: tensor {}: a bias of LoRA (lora_bias) is not supported", origin_,
                                   printable(tensor.name)));
  }
  if (rest != "weight") return wrong(tensor.name, "must end in .lora_A.weight or .lora_B.weight");
  return std::optional<Key>({std::string(name.substr(0, mark)), is_b});
}

// peft saves the unchanged head with an adapter on it.
Status Reader::check_copied_base(const TensorEntry& tensor, const std::string& module) {
  const ModelMatrix* matrix = matrices_.at(module);
  if (!matrix || matrix->role != Role::kHead || !has_shape(tensor, {matrix->rows, matrix->cols})) {
    return wrong(tensor.name,
                 "a base weight that is not this model's; base weights in adapters are not read");
  }
  adapter_->notes.push_back(
      fmt::format("{} is taken for the base model's own and not read", printable(tensor.name)));
  return {};
}

Status Reader::read_peft(const SafetensorsFile& file, const std::string& origin) {
  origin_ = origin;
  std::map<std::string, Pair> pairs;
  for (const TensorEntry& tensor : file.tensors()) {
    ++adapter_->tensors;
    MOEBIUS_ASSIGN(const std::optional<Key> key, parse_key(tensor));
    if (!key) continue;
    Pair& pair = pairs[key->module];
    const TensorEntry*& side = key->is_b ? pair.b : pair.a;
    if (side)
      return wrong(tensor.name, "the second tensor for this module; only one adapter per file is read");
    side = &tensor;
  }
  if (pairs.size() * config_.patterns() > kMaxPatternTrials ||
      pairs.size() * config_.regular_expressions() > kMaxRegexTrials) {
    return invalid(fmt::format("{}: {} patterns for {} modules are too many", config_.origin(),
                               config_.patterns(), pairs.size()));
  }
  for (const auto& [module, pair] : pairs) {
    const TensorEntry& one = pair.a ? *pair.a : *pair.b;
    if (!pair.a || !pair.b) {
      return wrong(one.name, fmt::format("its lora_{} is missing", pair.a ? "B" : "A"));
    }
    for (const TensorEntry* tensor : {pair.a, pair.b}) {
      if (tensor->shape.size() == 2) continue;
      return wrong(tensor->name, fmt::format("shape {} is not a matrix", shape_of(*tensor)));
    }
    std::string experts = module;
    if (experts.ends_with(kInnerWrapper)) experts.resize(experts.size() - kInnerWrapper.size());
    if (experts.ends_with(kExperts)) {
      MOEBIUS_TRY(read_fused(module, experts, pair));
    } else {
      MOEBIUS_TRY(read_module(module, pair));
    }
  }
  return {};
}

Result<PeftConfig::Scaling> Reader::scaling_of_module(const std::string& module) const {
  const std::string parameter = module + ".weight";
  if (config_.targets_parameter(parameter)) return config_.scaling(parameter);
  MOEBIUS_ASSIGN(const bool targeted, config_.targets_module(module));
  if (targeted) return config_.scaling(module);
  return wrong(module, "has tensors, but adapter_config.json does not target it; add it to target_modules");
}

Status Reader::read_module(const std::string& module, const Pair& pair) {
  const ModelMatrix* matrix = matrices_.at(module);
  if (!matrix) {
    return wrong(pair.a->name, fmt::format("matches no matrix of this {}; the adapter is for another model",
                                           model_.model_type));
  }
  MOEBIUS_ASSIGN(const PeftConfig::Scaling scaling, scaling_of_module(module));
  const int64_t rank = pair.a->shape[0];
  if (!has_shape(*pair.a, {rank, matrix->cols}) || !has_shape(*pair.b, {matrix->rows, rank})) {
    return wrong(module,
                 fmt::format("lora_A {} and lora_B {} do not fit the matrix [{}, {}]; the adapter is for "
                             "another model",
                             shape_of(*pair.a), shape_of(*pair.b), matrix->rows, matrix->cols));
  }
  if (rank != scaling.rank) {
    return wrong(module,
                 fmt::format("lora_A has rank {}, but adapter_config.json says {}", rank, scaling.rank));
  }
  if (rank > std::min(matrix->rows, matrix->cols)) {
    return wrong(module, fmt::format("rank {} is larger than the smaller side of the matrix [{}, {}]", rank,
                                     matrix->rows, matrix->cols));
  }
  std::vector<float> a, b;
  MOEBIUS_TRY(read_floats(origin_, *pair.a, 0, rank * matrix->cols, &a));
  MOEBIUS_TRY(read_floats(origin_, *pair.b, 0, rank * matrix->rows, &b));
  return add(module, rank, scaling.scale, std::move(a), std::move(b));
}

// Which of the two fused weights a pair adapts follows from its shapes, whatever the order of peft's
// wrappers.
Status Reader::read_fused(const std::string& wrapped, const std::string& experts, const Pair& pair) {
  const ModelMatrix* gate = matrices_.at(experts + ".0.gate_proj");
  if (!gate || !model_.moe.widths.empty()) {
    return wrong(pair.a->name,
                 "fused factors of experts, but this model has none of one width here; the "
                 "adapter is for another model");
  }
  const int64_t n = model_.moe.n_experts, width = gate->rows, hidden = gate->cols;
  const int64_t rows = pair.a->shape[0], rank = rows / n;
  const auto fits = [&](int64_t a_cols, int64_t b_rows) {
    return has_shape(*pair.a, {rank * n, a_cols}) && has_shape(*pair.b, {b_rows, rank * n});
  };
  const bool gate_up_plain = fits(hidden, 2 * width), gate_up_old = fits(2 * width, hidden);
  const bool down_plain = fits(width, hidden), down_old = fits(hidden, width);
  const bool gate_up = gate_up_plain || gate_up_old;
  if (rank < 1 || !(gate_up || down_plain || down_old)) {
    return wrong(wrapped,
                 fmt::format("lora_A {} and lora_B {} fit neither gate_up_proj [{}, {}] nor down_proj "
                             "[{}, {}] of {} experts; the adapter is for another model",
                             shape_of(*pair.a), shape_of(*pair.b), 2 * width, hidden, hidden, width, n));
  }
  bool old = gate_up ? !gate_up_plain : !down_plain;
  if (gate_up ? gate_up_plain && gate_up_old : down_plain && down_old) {
    if (config_.fused_input() == PeftConfig::FusedInput::kUnknown) {
      return invalid(
          fmt::format("{}: {} may be stored in the order of peft before or since 0.19.1; add the "
                      "peft_version that wrote it",
                      config_.origin(), printable(wrapped)));
    }
    old = config_.fused_input() == PeftConfig::FusedInput::kOut;
  }
  const std::string parameter = experts + (gate_up ? ".gate_up_proj" : ".down_proj");
  if (!config_.targets_parameter(parameter)) {
    return wrong(parameter,
                 "has tensors, but adapter_config.json does not target it; add it to "
                 "target_parameters");
  }
  MOEBIUS_ASSIGN(const PeftConfig::Scaling scaling, config_.scaling(parameter));
  if (rank != scaling.rank) {
    return wrong(parameter, fmt::format("lora_A has rank {} per expert, but adapter_config.json says {}",
                                        rank, scaling.rank));
  }
  const int64_t in = gate_up ? hidden : width, out = gate_up ? 2 * width : hidden;
  std::vector<float> a, b;
  MOEBIUS_TRY(read_floats(origin_, *pair.a, 0, pair.a->shape[0] * pair.a->shape[1], &a));
  MOEBIUS_TRY(read_floats(origin_, *pair.b, 0, pair.b->shape[0] * pair.b->shape[1], &b));
  if (old) return split_fused(experts, from_transposed(n, rank, in, out, a, b), gate_up, scaling.scale);
  ExpertStack stack;
  stack.experts = n, stack.rank = rank, stack.in = in, stack.out = out;
  stack.a = std::move(a), stack.b = std::move(b);
  return split_fused(experts, stack, gate_up, scaling.scale);
}

Status Reader::split_fused(const std::string& experts, const ExpertStack& stack, bool gate_up, float scale) {
  const ExpertStack::Halves halves = gate_up ? stack.halves() : ExpertStack::Halves{{0, 0}, {stack.rank, 0}};
  const int64_t part_out = gate_up ? stack.out / 2 : stack.out;
  for (int half = 0; half < (gate_up ? 2 : 1); ++half) {
    const int64_t rank = halves.rank[half];
    if (rank == 0) continue;
    // A pair shared by gate and up may use the ranks of both.
    const bool shared = gate_up && halves.rank[0] == stack.rank && halves.rank[1] == stack.rank;
    const int64_t limit = std::min(stack.in, shared ? stack.out : part_out);
    if (rank > limit) {
      return wrong(experts,
                   fmt::format("rank {} is larger than the smaller side {} of the matrix", rank, limit));
    }
    const char* part = !gate_up ? "down_proj" : half == 0 ? "gate_proj" : "up_proj";
    for (int64_t e = 0; e < stack.experts; ++e) {
      std::vector<float> a, b;
      stack.take(e, halves.first_rank[half], rank, half * part_out, part_out, &a, &b);
      MOEBIUS_TRY(add(fmt::format("{}.{}.{}", experts, e, part), rank, scale, std::move(a), std::move(b)));
    }
  }
  return {};
}

// layers.L.experts.{gate,up,down}_lora_{a,b}; the rank is the tensors', one alpha holds for all.
Status Reader::read_ktransformers(const SafetensorsFile& file, const std::string& origin) {
  origin_ = origin;
  std::map<std::string, Pair> pairs;  // by "model.layers.L.mlp.experts|gate_proj"
  for (const TensorEntry& tensor : file.tensors()) {
    ++adapter_->tensors;
    std::string_view name = tensor.name;
    if (name.starts_with("model.")) name.remove_prefix(6);
    const size_t mark = name.find(".experts.");
    const size_t part = mark == name.npos ? name.npos : mark + 9;
    const size_t end = name.rfind("_lora_");
    const bool known = part != name.npos && end != name.npos && end >= part && end + 7 == name.size() &&
                       (name.back() == 'a' || name.back() == 'b') && tensor.shape.size() == 3;
    if (!known) return wrong(tensor.name, "is not of the form layers.L.experts.gate_lora_a [E, r, in]");
    const std::string key =
        fmt::format("model.{}.mlp.experts|{}_proj", name.substr(0, mark), name.substr(part, end - part));
    Pair& pair = pairs[key];
    (name.back() == 'b' ? pair.b : pair.a) = &tensor;
  }
  const PeftConfig::Scaling scaling = config_.default_scaling();
  for (const auto& [key, pair] : pairs) {
    const size_t bar = key.find('|');
    const std::string experts = key.substr(0, bar), part = key.substr(bar + 1);
    const TensorEntry& one = pair.a ? *pair.a : *pair.b;
    if (!pair.a || !pair.b) return wrong(one.name, "its other factor is missing");
    const ModelMatrix* matrix = matrices_.at(fmt::format("{}.0.{}", experts, part));
    if (!matrix || !model_.moe.widths.empty()) {
      return wrong(one.name, "matches no experts of one width of this model");
    }
    const int64_t n = model_.moe.n_experts, rank = pair.a->shape[1], rows = matrix->rows, cols = matrix->cols;
    if (!has_shape(*pair.a, {n, rank, cols}) || !has_shape(*pair.b, {n, rows, rank})) {
      return wrong(one.name, fmt::format("factors {} and {} do not fit {} experts of [{}, {}]",
                                         shape_of(*pair.a), shape_of(*pair.b), n, rows, cols));
    }
    if (rank != scaling.rank || rank > std::min(rows, cols)) {
      return wrong(one.name, fmt::format("rank {} is not the {} of adapter_config.json, or larger than the "
                                         "smaller side of the matrix [{}, {}]",
                                         rank, scaling.rank, rows, cols));
    }
    for (int64_t e = 0; e < n; ++e) {
      std::vector<float> a, b;
      MOEBIUS_TRY(read_floats(origin_, *pair.a, e * rank * cols, rank * cols, &a));
      MOEBIUS_TRY(read_floats(origin_, *pair.b, e * rank * rows, rank * rows, &b));
      MOEBIUS_TRY(
          add(fmt::format("{}.{}.{}", experts, e, part), rank, scaling.scale, std::move(a), std::move(b)));
    }
  }
  return {};
}

Status Reader::add(const std::string& module, int64_t rank, float scale, std::vector<float> a,
                   std::vector<float> b) {
  const int64_t index = matrices_.find(module);
  MOEBIUS_CHECK(index >= 0, module);
  const ModelMatrix& matrix = matrices_.all()[static_cast<size_t>(index)];
  if (matrix.role == Role::kEmbed) {
    return unsupported(fmt::format("{}: {}: adapters of the embedding are not supported", origin_, module));
  }
  std::optional<AdapterFactors>& slot = slots_[static_cast<size_t>(index)];
  if (slot) return wrong(module, "is adapted twice, in two layouts; remove one");
  slot = AdapterFactors{module, rank, matrix.cols, matrix.rows, std::move(a), std::move(b), scale};
  return {};
}

Status Reader::finish() {
  for (size_t i = 0; i < slots_.size(); ++i) {
    const size_t role = static_cast<size_t>(matrices_.all()[i].role);
    ++adapter_->matrices[role];
    if (!slots_[i]) continue;
    ++adapter_->adapted[role];
    adapter_->factors.push_back(std::move(*slots_[i]));
  }
  if (!adapter_->factors.empty()) return {};
  return invalid(fmt::format("{}: holds no LoRA factors", origin_));
}

}  // namespace

Result<Adapter> read_adapter(const std::string& dir, const ModelConfig& model) {
  namespace fs = std::filesystem;
  const std::string config_path = dir + "/adapter_config.json";
  MOEBIUS_ASSIGN(const std::string text, read_text_file(config_path, kMaxAdapterConfigBytes));
  MOEBIUS_ASSIGN(const PeftConfig config, PeftConfig::parse(text, config_path));
  Adapter adapter;
  adapter.base_model = config.base_model();
  adapter.revision = config.revision();
  Reader reader(model, config, &adapter);
  MOEBIUS_TRY(reader.check_base());

  const std::string weights = dir + "/adapter_model.safetensors";
  const std::string experts = dir + "/fused_expert_lora.safetensors";
  std::error_code ignored;
  const bool has_experts = fs::exists(experts, ignored);
  if (!fs::exists(weights, ignored)) {
    if (fs::exists(dir + "/adapter_model.bin", ignored)) {
      return unsupported(fmt::format(
          "{}: adapter_model.bin is a pickle, which is not read; save it as safetensors with peft", dir));
    }
    if (!has_experts) {
      return not_found(
          fmt::format("{}: adapter_model.safetensors is missing; the folder is no adapter", dir));
    }
  } else {
    MOEBIUS_ASSIGN(const std::unique_ptr<SafetensorsFile> file, SafetensorsFile::open(weights));
    MOEBIUS_TRY(reader.read_peft(*file, weights));
  }
  if (has_experts) {
    MOEBIUS_ASSIGN(const std::unique_ptr<SafetensorsFile> file, SafetensorsFile::open(experts));
    MOEBIUS_TRY(reader.read_ktransformers(*file, experts));
  }
  MOEBIUS_TRY(reader.finish());
  return adapter;
}

std::string describe_adapter(const Adapter& adapter) {
  constexpr const char* kNames[kRoleCount] = {"embedding", "head",   "attention", "dense",
                                              "shared",    "expert", "router"};
  int64_t adapted = 0, all = 0;
  std::string roles;
  for (size_t i = 0; i < kRoleCount; ++i) {
    adapted += adapter.adapted[i];
    all += adapter.matrices[i];
    if (adapter.adapted[i] == 0) continue;
    roles += fmt::format("{}{} of {} {}", roles.empty() ? ": " : ", ", adapter.adapted[i],
                         adapter.matrices[i], kNames[i]);
  }
  return fmt::format("{} of {} matrices{}", adapted, all, roles);
}

}  // namespace moebius
