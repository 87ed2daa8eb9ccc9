// Writing of PEFT adapters: a plan of the tensors and targets of the layout, then the three files.
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "models/file_io.h"
#include "models/peft.h"
#include "models/peft_card.h"
#include "models/peft_fused.h"
#include "models/peft_matrices.h"
#include "models/safetensors.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr size_t kMaxPatterns = 4096;  // the reader's limit leaves room for two sets of them

// One adapted module or parameter, as peft sees it.
struct Stored {
  std::string key;     // of its tensors, without ".lora_A.weight"
  std::string target;  // the module, or the parameter
  bool parameter = false;
  int64_t rank = 0;
  double alpha = 0;
  const AdapterFactors* plain = nullptr;  // or fused:
  std::string experts;                    // "model.layers.1.mlp.experts"
  bool gate_up = false;
};

using Factors = std::map<std::string, const AdapterFactors*, std::less<>>;

double alpha_of(const AdapterFactors& factors) {
  return static_cast<double>(factors.scale) * static_cast<double>(factors.rank);
}

Status check_factors(const ModelMatrices& matrices, const AdapterFactors& f) {
  const ModelMatrix* matrix = matrices.at(f.module);
  const auto wrong = [&](const std::string& what) {
    return invalid(fmt::format("cannot write the adapter of {}: {}", printable(f.module), what));
  };
  if (!matrix) return wrong("the model has no such matrix");
  if (matrix->role == Role::kEmbed) {
    return unsupported("cannot write an adapter of the embedding: PEFT's layout of it is not supported");
  }
  if (f.in != matrix->cols || f.out != matrix->rows) {
    return wrong(
        fmt::format("[{}, {}] is not the matrix's [{}, {}]", f.out, f.in, matrix->rows, matrix->cols));
  }
  if (f.rank < 1 || f.rank > std::min(f.in, f.out)) {
    return wrong(fmt::format("rank {} is not in 1 .. {}, its smaller side", f.rank, std::min(f.in, f.out)));
  }
  if (f.a.size() != static_cast<size_t>(f.rank * f.in) || f.b.size() != static_cast<size_t>(f.out * f.rank)) {
    return wrong("the factors do not have the sizes of their rank");
  }
  const auto finite = [](float value) { return std::isfinite(value); };
  if (std::isfinite(f.scale) && std::all_of(f.a.begin(), f.a.end(), finite) &&
      std::all_of(f.b.begin(), f.b.end(), finite)) {
    return {};
  }
  return wrong("it holds numbers that are not finite; lower the learning rate");
}

const AdapterFactors* find(const Factors& factors, const std::string& module) {
  const auto found = factors.find(module);
  return found == factors.end() ? nullptr : found->second;
}

class Writer {
 public:
  Writer(const ModelConfig& model, const AdapterWriteOptions& options)
      : model_(model), options_(options), matrices_(model) {}

  Status plan(std::span<const AdapterFactors* const> factors);
  Status write_weights(const std::string& path);
  Result<std::string> config();
  std::string card() const;

 private:
  bool fused() const { return options_.layout == AdapterLayout::kFused; }
  void plan_plain(const ModelMatrix& matrix, const AdapterFactors& factors);
  void plan_experts(const std::string& experts);
  std::vector<Stored> fused_when_loaded(int64_t rank, double alpha) const;
  int64_t part_rank(const std::string& experts, const char* part) const;
  float layer_scale(const std::string& experts, bool gate_up) const;
  ExpertStack build(const Stored& stored) const;
  std::vector<std::string> targets(bool parameters) const;
  Status add_patterns(int64_t rank, double alpha, ordered_json* ranks, ordered_json* alphas) const;

  const ModelConfig& model_;
  const AdapterWriteOptions& options_;
  const ModelMatrices matrices_;
  Factors factors_;
  std::vector<Stored> stored_;
};

Status Writer::plan(std::span<const AdapterFactors* const> factors) {
  if (factors.empty()) return invalid("cannot write an adapter without factors");
  bool experts = false;
  for (const AdapterFactors* f : factors) {
    MOEBIUS_TRY(check_factors(matrices_, *f));
    if (!factors_.emplace(f->module, f).second) {
      return invalid(fmt::format("cannot write two adapters of {}", printable(f->module)));
    }
    experts = experts || matrices_.at(f->module)->role == Role::kExpert;
  }
  if (fused() && experts && (!model_.moe.widths.empty() || model_.moe.zero_experts > 0)) {
    return unsupported(
        "experts of different widths and zero experts have no fused layout; use the per-expert layout");
  }
  std::set<std::string> planned;
  for (const ModelMatrix& matrix : matrices_.all()) {
    const AdapterFactors* f = find(factors_, matrix.name);
    if (!f) continue;
    if (matrix.role != Role::kExpert || !fused()) {
      plan_plain(matrix, *f);
      continue;
    }
    const std::string layer = matrix.name.substr(0, matrix.name.find(".experts.") + 8);
    if (planned.insert(layer).second) plan_experts(layer);
  }
  return {};
}

// On transformers 5, peft takes every target module named gate, gate_proj, up_proj or down_proj for the fused
// experts, so that other layers of these names are targeted by their weight parameter. The keys are the same,
// and it works for the separate experts of transformers 4 too.
void Writer::plan_plain(const ModelMatrix& matrix, const AdapterFactors& f) {
  Stored stored;
  stored.key = matrix.name;
  stored.parameter =
      matrix.role == Role::kDense || matrix.role == Role::kShared || matrix.role == Role::kRouter;
  stored.target = matrix.name + (stored.parameter ? ".weight" : "");
  stored.rank = f.rank;
  stored.alpha = alpha_of(f);
  stored.plain = &f;
  stored_.push_back(std::move(stored));
}

void Writer::plan_experts(const std::string& experts) {
  const int64_t gate_up = part_rank(experts, "gate_proj") + part_rank(experts, "up_proj");
  const int64_t down = part_rank(experts, "down_proj");
  for (const bool first : {true, false}) {
    const int64_t rank = first ? gate_up : down;
    if (rank == 0) continue;
    Stored stored;
    // peft wraps the parameters in their order in the module, so that gate_up_proj is the inner one of two.
    stored.key = experts + (first && down > 0 ? ".base_layer" : "");
    stored.target = experts + (first ? ".gate_up_proj" : ".down_proj");
    stored.parameter = true;
    stored.rank = rank;
    stored.alpha = static_cast<double>(layer_scale(experts, first)) * static_cast<double>(rank);
    stored.experts = experts;
    stored.gate_up = first;
    stored_.push_back(std::move(stored));
  }
}

int64_t Writer::part_rank(const std::string& experts, const char* part) const {
  int64_t rank = 0;
  for (int64_t e = 0; e < model_.moe.n_experts; ++e) {
    const AdapterFactors* f = find(factors_, fmt::format("{}.{}.{}", experts, e, part));
    if (f) rank = std::max(rank, f->rank);
  }
  return rank;
}

// The first one's; others are folded into B.
float Writer::layer_scale(const std::string& experts, bool gate_up) const {
  for (int64_t e = 0; e < model_.moe.n_experts; ++e) {
    for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
      if (gate_up == (std::string_view(part) == "down_proj")) continue;
      const AdapterFactors* f = find(factors_, fmt::format("{}.{}.{}", experts, e, part));
      if (f && f->scale != 0) return f->scale;
    }
  }
  return 0;
}

ExpertStack Writer::build(const Stored& stored) const {
  const ModelMatrix& gate = *matrices_.at(stored.experts + ".0.gate_proj");
  const int64_t width = gate.rows, hidden = gate.cols, n = model_.moe.n_experts;
  const float scale = layer_scale(stored.experts, stored.gate_up);
  ExpertStack stack(n, stored.rank, stored.gate_up ? hidden : width, stored.gate_up ? 2 * width : hidden);
  const auto put = [&](const char* part, int64_t first_rank, int64_t first_out) {
    for (int64_t e = 0; e < n; ++e) {
      const AdapterFactors* f = find(factors_, fmt::format("{}.{}.{}", stored.experts, e, part));
      if (!f) continue;
      const double factor =
          f->scale == scale ? 1 : static_cast<double>(f->scale) / static_cast<double>(scale);
      stack.put(e, first_rank, f->rank, f->a.data(), first_out, f->out, f->b.data(), factor);
    }
  };
  if (stored.gate_up) {
    put("gate_proj", 0, 0);
    put("up_proj", part_rank(stored.experts, "gate_proj"), width);
  } else {
    put("down_proj", 0, 0);
  }
  return stack;
}

Status Writer::write_weights(const std::string& path) {
  SafetensorsWriter writer(path, {{"format", "pt"}});
  for (const Stored& stored : stored_) {
    const std::string key = "base_model.model." + stored.key;
    int64_t ranks = stored.rank, in = 0, out = 0;
    if (stored.plain) {
      in = stored.plain->in, out = stored.plain->out;
    } else {
      const ModelMatrix& gate = *matrices_.at(stored.experts + ".0.gate_proj");
      ranks *= model_.moe.n_experts;
      in = stored.gate_up ? gate.cols : gate.rows;
      out = stored.gate_up ? 2 * gate.rows : gate.cols;
    }
    writer.declare(key + ".lora_A.weight", DType::kF32, {ranks, in});
    writer.declare(key + ".lora_B.weight", DType::kF32, {out, ranks});
  }
  const auto append = [&](const std::vector<float>& values) {
    return writer.append(values.data(), values.size() * sizeof(float));
  };
  for (const Stored& stored : stored_) {
    if (stored.plain) {
      MOEBIUS_TRY(append(stored.plain->a));
      MOEBIUS_TRY(append(stored.plain->b));
      continue;
    }
    const ExpertStack stack = build(stored);
    MOEBIUS_TRY(append(stack.a));
    MOEBIUS_TRY(append(stack.b));
  }
  return writer.finish();
}

// Names that all layers have are written once, without their layer.
std::vector<std::string> Writer::targets(bool parameters) const {
  std::map<std::string, int64_t, std::less<>> in_model, here;
  for (const ModelMatrix& matrix : matrices_.all()) {
    const std::string below(ModelMatrices::below_layer(matrix.name));
    ++in_model[below];
    ++in_model[below + ".weight"];
    if (below == "mlp.experts.0.gate_proj") ++in_model["mlp.experts.gate_up_proj"];
    if (below == "mlp.experts.0.down_proj") ++in_model["mlp.experts.down_proj"];
  }
  for (const Stored& stored : stored_) {
    if (stored.parameter == parameters) ++here[std::string(ModelMatrices::below_layer(stored.target))];
  }
  std::vector<std::string> names;
  std::set<std::string, std::less<>> named;
  for (const Stored& stored : stored_) {
    if (stored.parameter != parameters) continue;
    const std::string below(ModelMatrices::below_layer(stored.target));
    const bool everywhere = here[below] == in_model[below];
    if (!everywhere || named.insert(below).second) names.push_back(everywhere ? below : stored.target);
  }
  return names;
}

std::string escaped(std::string_view name) {
  std::string pattern;
  for (const char c : name) pattern += c == '.' ? std::string("\\.") : std::string(1, c);
  return pattern;
}

// The pattern of a target's kind: without its layer, for any expert.
std::string kind_of(std::string_view target) {
  const std::string_view below = ModelMatrices::below_layer(target);
  constexpr std::string_view kExpertsPrefix = "mlp.experts.";
  const size_t dot = below.find('.', kExpertsPrefix.size());
  if (!below.starts_with(kExpertsPrefix) || dot == below.npos) return escaped(below);
  return escaped(kExpertsPrefix) + "\\d+" + escaped(below.substr(dot));
}

ordered_json number_of(double value) {
  const bool whole = value == std::floor(value) && std::abs(value) < 1e15;
  return whole ? ordered_json(static_cast<int64_t>(value)) : ordered_json(value);
}

// peft fuses separate experts when it loads them on transformers 5, at the ranks that it finds for the fused
// weights; by itself it knows those of experts at the default rank and alpha.
std::vector<Stored> Writer::fused_when_loaded(int64_t rank, double alpha) const {
  std::vector<Stored> all;
  std::set<std::string> seen;
  for (const Stored& stored : stored_) {
    const size_t mark = stored.target.find(".experts.");
    if (fused() || mark == stored.target.npos) continue;
    const std::string experts = stored.target.substr(0, mark + 8);
    if (!seen.insert(experts).second) continue;
    for (const bool gate_up : {true, false}) {
      const int64_t gate = part_rank(experts, "gate_proj"), up = part_rank(experts, "up_proj");
      Stored weight;
      weight.rank = gate_up ? gate + up : part_rank(experts, "down_proj");
      weight.alpha = static_cast<double>(layer_scale(experts, gate_up)) * static_cast<double>(weight.rank);
      weight.target = experts + (gate_up ? ".gate_up_proj" : ".down_proj");
      const bool usual = gate_up && gate == rank && up == rank && weight.alpha == 2 * alpha;
      if (weight.rank > 0 && !usual) all.push_back(std::move(weight));
    }
  }
  return all;
}

Status Writer::add_patterns(int64_t rank, double alpha, ordered_json* ranks, ordered_json* alphas) const {
  std::vector<Stored> all = fused_when_loaded(rank, alpha);
  all.insert(all.begin(), stored_.begin(), stored_.end());
  std::map<std::string, std::set<std::pair<int64_t, double>>> kinds;
  for (const Stored& stored : all) kinds[kind_of(stored.target)].insert({stored.rank, stored.alpha});
  for (const Stored& stored : all) {
    std::string pattern = kind_of(stored.target);
    if (kinds[pattern].size() > 1) pattern = escaped(stored.target);
    if (stored.rank != rank) (*ranks)[pattern] = stored.rank;
    if (stored.alpha != alpha) (*alphas)[pattern] = number_of(stored.alpha);
    if (ranks->size() > kMaxPatterns || alphas->size() > kMaxPatterns) {
      return unsupported(
          fmt::format("cannot write an adapter of more than {} different ranks and scales", kMaxPatterns));
    }
  }
  return {};
}

Result<std::string> Writer::config() {
  std::map<std::pair<int64_t, double>, int64_t> uses;
  for (const Stored& stored : stored_) ++uses[{stored.rank, stored.alpha}];
  const auto [rank, alpha] = std::max_element(uses.begin(), uses.end(), [](const auto& x, const auto& y) {
                               return x.second < y.second;
                             })->first;
  ordered_json ranks = ordered_json::object(), alphas = ordered_json::object();
  MOEBIUS_TRY(add_patterns(rank, alpha, &ranks, &alphas));
  const std::vector<std::string> parameters = targets(true);
  const ordered_json document = {
      {"alpha_pattern", alphas},
      {"auto_mapping", nullptr},
      {"base_model_name_or_path",
       options_.base_model.empty() ? ordered_json() : ordered_json(options_.base_model)},
      {"bias", "none"},
      {"exclude_modules", nullptr},
      {"fan_in_fan_out", false},
      {"inference_mode", true},
      {"init_lora_weights", true},
      {"layers_pattern", nullptr},
      {"layers_to_transform", nullptr},
      {"lora_alpha", number_of(alpha)},
      {"lora_bias", false},
      {"lora_dropout", 0.0},
      {"modules_to_save", nullptr},
      {"peft_type", "LORA"},
      {"peft_version", kPeftVersion},
      {"r", rank},
      {"rank_pattern", ranks},
      {"revision", options_.revision.empty() ? ordered_json() : ordered_json(options_.revision)},
      {"target_modules", targets(false)},
      {"target_parameters", parameters.empty() ? ordered_json() : ordered_json(parameters)},
      {"task_type", "CAUSAL_LM"},
      {"use_dora", false},
      {"use_rslora", false},
  };
  return document.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

std::string Writer::card() const {
  std::set<int64_t> ranks;
  for (const auto& [module, factors] : factors_) ranks.insert(factors->rank);
  return adapter_card(options_, static_cast<int64_t>(factors_.size()), *ranks.begin(), *ranks.rbegin());
}

Status failed(const std::string& action, const std::string& path, const std::error_code& error) {
  return system_error(action, path, error.value());
}

}  // namespace

Status write_adapter(const std::string& dir, const ModelConfig& model,
                     std::span<const AdapterFactors> factors, const AdapterWriteOptions& options) {
  std::vector<const AdapterFactors*> all;
  for (const AdapterFactors& f : factors) all.push_back(&f);
  return write_adapter(dir, model, all, options);
}

Status write_adapter(const std::string& dir, const ModelConfig& model,
                     std::span<const AdapterFactors* const> factors, const AdapterWriteOptions& options) {
  Writer writer(model, options);
  MOEBIUS_TRY(writer.plan(factors));
  MOEBIUS_ASSIGN(const std::string config, writer.config());
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) return failed("make folder", dir, error);
  const std::string experts = dir + "/fused_expert_lora.safetensors";
  if (fs::exists(experts, error)) {
    return invalid(fmt::format("'{}' would be read as part of the adapter; remove it or write elsewhere",
                               printable(experts)));
  }
  const std::string weights = dir + "/adapter_model.safetensors", config_path = dir + "/adapter_config.json";
  const std::string beside = dir + "/adapter_model.new.safetensors";
  MOEBIUS_TRY(writer.write_weights(beside));
  MOEBIUS_TRY(write_text_file(dir + "/README.md", writer.card()));
  fs::remove(config_path, error);
  if (error) return failed("replace", config_path, error);
  fs::rename(beside, weights, error);
  if (error) {
    std::error_code ignored;
    fs::remove(beside, ignored);
    return failed("rename to", weights, error);
  }
  return write_text_file(config_path, config);
}

}  // namespace moebius
