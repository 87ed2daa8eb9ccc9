#include "engine/train/lora.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "engine/train/random.h"

namespace moebius {
namespace {

// A target word and the last parts of names it stands for; none: all matrices of a role.
struct Word {
  const char* word;
  std::vector<std::string> parts;
  std::optional<Role> role;
};

const std::vector<Word>& words() {
  static const std::vector<Word> kWords = {
      {"q", {"q_proj", "q_a_proj", "q_b_proj"}, {}},
      {"kv", {"k_proj", "v_proj", "kv_a_proj_with_mqa", "kv_b_proj"}, {}},
      {"o", {"o_proj"}, {}},
      {"experts", {}, Role::kExpert},
      {"shared", {}, Role::kShared},
      {"dense", {}, Role::kDense},
      {"router", {}, Role::kRouter},
  };
  return kWords;
}

bool names(const std::string& target, const std::string& module, Role role) {
  for (const Word& w : words()) {
    if (target != w.word) continue;
    if (w.role) return role == *w.role;
    return std::ranges::any_of(w.parts,
                               [&](const std::string& part) { return module.ends_with("." + part); });
  }
  return role != Role::kEmbed && module.ends_with("." + target);
}

optim::MatrixView view(std::vector<float>& values, int64_t rows, int64_t cols) {
  return {values.data(), rows, cols};
}

// Of single factors.
optim::Recipe recipe_of(const LoraOptions& o) {
  return o.optimizer == LoraOptimizer::kAdamW ? optim::adamw(o.decay) : optim::muon(o.decay);
}

Status check_options(const LoraOptions& o) {
  if (o.rank < 1) return invalid(fmt::format("--rank {} must be at least 1", o.rank));
  if (!(o.alpha > 0) || !std::isfinite(o.alpha))
    return invalid(fmt::format("--alpha {} must be above 0", o.alpha));
  return Status();
}

// Fresh factors for every matrix that a target names.
Result<std::vector<AdapterFactors>> choose(const ModelConfig& config, const LoraOptions& o) {
  std::vector<AdapterFactors> chosen;
  MOEBIUS_TRY(visit_targets(config, o, [&](const std::string& name, Role, int64_t rows, int64_t cols) {
    AdapterFactors f{
        name, o.rank, cols, rows, {}, {}, static_cast<float>(o.alpha / static_cast<double>(o.rank))};
    f.a.resize(static_cast<size_t>(o.rank * cols)), f.b.assign(static_cast<size_t>(rows * o.rank), 0.0f);
    NamedRandom random(o.seed, name);
    const float bound = 1 / std::sqrt(static_cast<float>(cols));  // peft's: uniform within 1 / sqrt(in)
    for (float& value : f.a) value = bound * random.uniform();
    chosen.push_back(std::move(f));
  }));
  return chosen;
}

}  // namespace

std::vector<std::string> lora_target_words() {
  std::vector<std::string> all;
  for (const Word& w : words()) all.push_back(w.word);
  return all;
}

Status visit_targets(
    const ModelConfig& config, const LoraOptions& o,
    const std::function<void(const std::string& name, Role role, int64_t rows, int64_t cols)>& visit) {
  MOEBIUS_TRY(check_options(o));
  std::map<std::string, int64_t> matched;
  for (const std::string& target : o.targets) matched[target] = 0;
  const auto matrix = [&](const std::string& name, Role role, int64_t rows, int64_t cols, Matrix&) -> Status {
    bool any = o.targets.empty() && role != Role::kEmbed && role != Role::kHead && role != Role::kRouter;
    for (const std::string& target : o.targets)
      if (names(target, name, role)) any = true, ++matched[target];
    if (!any) return Status();
    if (o.rank > std::min(rows, cols)) {
      return invalid(fmt::format("--rank {} is more than {} [{}, {}] has; lower it, or leave that target out",
                                 o.rank, name, rows, cols));
    }
    return visit(name, role, rows, cols), Status();
  };
  Weights shapes;
  MOEBIUS_TRY(
      visit_weights(config, shapes, {matrix, [](const std::string&, int64_t, Tensor&) { return Status(); }}));
  for (const auto& [target, count] : matched) {
    if (count == 0)
      return invalid(
          fmt::format("--targets: \"{}\" names no matrix of this model; choose from {}, or the last part of "
                      "a module's name, like gate_proj",
                      target, fmt::join(lora_target_words(), ", ")));
  }
  return Status();
}

Result<std::unique_ptr<LoraModel>> LoraModel::create(const ModelConfig& config, const Weights& base,
                                                     const LoraOptions& options) {
  MOEBIUS_ASSIGN(std::vector<AdapterFactors> factors, choose(config, options));
  MOEBIUS_ASSIGN(std::unique_ptr<AdaptedWeights> adapted,
                 AdaptedWeights::create(config, base, std::move(factors), true));
  std::unique_ptr<LoraModel> model(new LoraModel(options, std::move(adapted)));
  model->gradients_.layers.resize(static_cast<size_t>(config.layers));
  const optim::Recipe recipe = recipe_of(options);
  MOEBIUS_TRY(optim::check_recipe(recipe));
  for (AdaptedMatrix& m : model->adapted_->matrices()) {
    const AdapterFactors& f = m.factors;
    States states;
    if (options.optimizer == LoraOptimizer::kLoraMuon) {
      states.a = optim::make_lora_state(f.rank, f.in, f.out);
    } else {
      states.a = optim::make_state(recipe, f.rank, f.in);
      states.b = optim::make_state(recipe, f.out, f.rank);
    }
    model->states_.push_back(std::move(states));
    model->named_.push_back({f.module + ".lora_A", view(m.da, f.rank, f.in)});
    model->named_.push_back({f.module + ".lora_B", view(m.db, f.out, f.rank)});
  }
  model->list_factors();
  return model;
}

void LoraModel::zero_gradients() {
  for (AdaptedMatrix& m : adapted_->matrices()) {
    std::ranges::fill(m.da, 0.0f);
    std::ranges::fill(m.db, 0.0f);
  }
}

Status LoraModel::step(double lr, const TrainingPass&, ThreadPool& pool) {
  if (options_.optimizer != LoraOptimizer::kLoraMuon)
    MOEBIUS_TRY(optim::apply_step(recipe_of(options_), lr, factors_, pool));
  optim::LoraMuon rule;
  rule.decay = options_.decay;
  for (const auto& [norm, pairs] : products_)
    MOEBIUS_TRY(optim::apply_lora_muon(rule, lr * norm, pairs, pool));
  adapted_->merge_again(&pool);
  return Status();
}

// What the optimizer is given at every step.
void LoraModel::list_factors() {
  size_t i = 0;
  for (AdaptedMatrix& m : adapted_->matrices()) {
    AdapterFactors& f = m.factors;
    States& states = states_[i++];
    const optim::MatrixView a = view(f.a, f.rank, f.in), b = view(f.b, f.out, f.rank);
    const optim::MatrixView da = view(m.da, f.rank, f.in), db = view(m.db, f.out, f.rank);
    if (options_.optimizer == LoraOptimizer::kLoraMuon) {
      const double norm = 0.2 * std::sqrt(static_cast<double>(std::max(f.in, f.out)));
      products_[norm / static_cast<double>(f.scale)].push_back({f.module, a, b, da, db, &states.a});
    } else {
      factors_.push_back({f.module + ".lora_A", a, da, &states.a});
      factors_.push_back({f.module + ".lora_B", b, db, &states.b});
    }
  }
}

std::vector<optim::StateEntry> LoraModel::entries() {
  std::vector<optim::StateEntry> all;
  const auto add = [&](const std::string& name, std::vector<float>& values, int64_t rows, int64_t cols,
                       optim::ParameterState& state) {
    all.push_back({name, DType::kF32, {rows, cols}, values.data(), std::ssize(values) * 4});
    if (state.tensors.empty()) return;
    for (optim::StateEntry& entry : optim::state_entries(name, state)) all.push_back(std::move(entry));
  };
  size_t i = 0;
  for (AdaptedMatrix& m : adapted_->matrices()) {
    AdapterFactors& f = m.factors;
    States& states = states_[i++];
    add(f.module + ".lora_A", f.a, f.rank, f.in, states.a);
    add(f.module + ".lora_B", f.b, f.out, f.rank, states.b);
  }
  return all;
}

Status LoraModel::start_from(const LoraModel& other) {
  const auto& from = other.adapted_->matrices();
  auto& to = adapted_->matrices();
  const bool alike = std::ranges::equal(from, to, [](const AdaptedMatrix& a, const AdaptedMatrix& b) {
    return a.factors.module == b.factors.module && a.factors.rank == b.factors.rank;
  });
  if (!alike) return invalid("an adapter on other matrices cannot be taken over");
  for (size_t i = 0; i < to.size(); ++i) {
    std::ranges::copy(from[i].factors.a,
                      to[i].factors.a.begin());  // gradients and views point at this memory
    std::ranges::copy(from[i].factors.b, to[i].factors.b.begin());
  }
  adapted_->merge_again();
  return Status();
}

std::vector<const AdapterFactors*> LoraModel::factors() const {
  std::vector<const AdapterFactors*> all;
  for (const AdaptedMatrix& m : adapted_->matrices()) all.push_back(&m.factors);
  return all;
}

int64_t LoraModel::parameters() const {
  int64_t count = 0;
  for (const AdaptedMatrix& m : adapted_->matrices())
    count += std::ssize(m.factors.a) + std::ssize(m.factors.b);
  return count;
}

}  // namespace moebius
