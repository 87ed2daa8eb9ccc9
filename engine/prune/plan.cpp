#include "engine/prune/plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include <fmt/format.h>

namespace moebius {
namespace {

// Indices of scores, the largest first, of equal ones the lower first.
template <class Score>
std::vector<int32_t> best_first(const Score* scores, int64_t count) {
  std::vector<int32_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  return order;
}

// total shares in proportion to weights, by largest remainder; each at most `most`.
std::vector<int64_t> apportion(int64_t total, const std::vector<double>& weights,
                               const std::vector<int64_t>& most) {
  const size_t n = weights.size();
  std::vector<int64_t> shares(n);
  std::vector<double> exact(n);
  std::vector<bool> full(n);
  int64_t left = total;
  // Those whose proportion is above their limit get the limit; then the proportions of the others grow.
  for (bool again = true; again;) {
    again = false;
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += full[i] ? 0 : weights[i];
    for (size_t i = 0; i < n && !again; ++i) {
      if (full[i]) continue;
      exact[i] = sum > 0 ? static_cast<double>(left) * weights[i] / sum : 0;
      if (exact[i] < static_cast<double>(most[i])) continue;
      full[i] = again = true;
      shares[i] = std::min(most[i], left);
      left -= shares[i];
    }
  }
  std::vector<double> remainders(n, -1);
  for (size_t i = 0; i < n; ++i) {
    if (full[i]) continue;
    shares[i] = static_cast<int64_t>(std::floor(exact[i]));
    remainders[i] = exact[i] - static_cast<double>(shares[i]);
    left -= shares[i];
  }
  std::reverse(remainders.begin(), remainders.end());  // of equal ones the later
  for (const bool any : {false, true}) {               // any: weights of 0, once all others are full
    for (const int32_t i : best_first(remainders.data(), static_cast<int64_t>(n))) {
      const size_t at = n - 1 - static_cast<size_t>(i);
      const int64_t room = most[at] - shares[at];
      const int64_t more = std::min({left, room, any ? room : int64_t{1}});
      shares[at] += more, left -= more;
    }
  }
  MOEBIUS_CHECK(left == 0, "more to share out than fits");
  return shares;
}

std::vector<double> importance_of(const LayerScores& layer, PruneMethod method) {
  if (method == PruneMethod::kGate) return layer.gate;
  if (method == PruneMethod::kUsage) return {layer.tokens.begin(), layer.tokens.end()};
  return layer.importance;
}

PruneScores random_scores(const PruneScores& like, uint64_t seed) {
  PruneScores scores = like;
  std::mt19937_64 random(seed);
  for (LayerScores& layer : scores.layers) {
    for (double& score : layer.importance) score = static_cast<double>(random() >> 11);
    for (float& score : layer.neurons) score = static_cast<float>(random() >> 40);
  }
  return scores;
}

class PrunePlanner {
 public:
  PrunePlanner(const ModelConfig& config, const PruneScores& scores, const PruneRequest& request)
      : moe_(config.moe), scores_(scores), request_(request), layers_(std::ssize(scores.layers)) {
    plan_.method = request.method;
    plan_.width = moe_.width;
    plan_.multiple = request.multiple;
    plan_.halves = request.halves;
    plan_.widths.assign(scores.layers.size(), std::vector<int64_t>(static_cast<size_t>(moe_.n_experts)));
  }

  Status set_widths() {
    MOEBIUS_TRY(request_.method == PruneMethod::kDrop  ? drop()
                : request_.method == PruneMethod::kEnp ? set_equal()
                                                       : set_ragged());
    for (const std::vector<int64_t>& layer : plan_.widths) {
      for (const int64_t width : layer) {
        if (!plan_.halves || width == 0 || plan_.major_width(width) < width) continue;
        return invalid(fmt::format(
            "--halves: an expert of {} neurons has no two halves of multiples of {}; keep more, or "
            "lower --multiple",
            width, request_.multiple));
      }
    }
    return Status();
  }

  PrunePlan take() {
    plan_.kept.resize(plan_.widths.size());
    for (size_t l = 0; l < plan_.widths.size(); ++l) {
      for (int64_t e = 0; e < moe_.n_experts; ++e) {
        std::vector<int32_t> order = best_first(scores_.neurons(l, e), moe_.width);
        const int64_t width = plan_.widths[l][static_cast<size_t>(e)];
        order.resize(static_cast<size_t>(width));
        const auto middle = order.begin() + (plan_.halves ? plan_.major_width(width) : width);
        std::sort(order.begin(), middle);
        std::sort(middle, order.end());
        plan_.kept[l].push_back(std::move(order));
      }
    }
    return std::move(plan_);
  }

 private:
  int64_t units() const { return moe_.width / request_.multiple; }
  // Of so many experts' units; a rounding error is no unit less.
  int64_t budget(int64_t experts) const {
    return static_cast<int64_t>(std::floor(request_.keep * static_cast<double>(experts * units()) + 1e-6));
  }

  Status too_little(int64_t experts, int64_t full) const {
    const double least =
        (static_cast<double>(full) + static_cast<double>(experts - full) / static_cast<double>(units())) /
        static_cast<double>(experts);
    return invalid(
        fmt::format("--keep {} leaves some experts without {} neurons, which all need beside {} full ones; "
                    "keep {:.3f} or "
                    "more, or lower --full-experts or --multiple",
                    request_.keep, request_.multiple, full, std::ceil(least * 1000) / 1000));
  }

  Status set_equal() {
    const int64_t width = budget(1) * request_.multiple;
    if (width == 0) return too_little(moe_.n_experts, 0);
    for (std::vector<int64_t>& layer : plan_.widths) std::ranges::fill(layer, width);
    return Status();
  }

  Status set_ragged() {
    const int64_t experts = moe_.n_experts * layers_;
    const int64_t total = budget(experts);
    const int64_t full = std::llround(request_.full * static_cast<double>(experts));
    const int64_t narrow = experts - full, left = total - full * units();
    if (left < narrow) return too_little(experts, full);
    const int64_t each = narrow > 0 ? left / narrow : 0, wider = narrow > 0 ? left % narrow : 0;
    const std::vector<int64_t> full_of =
        trapezoid(full, layers_, moe_.n_experts, request_.first_depth, request_.last_depth);
    std::vector<int64_t> narrow_of;
    for (const int64_t count : full_of) narrow_of.push_back(moe_.n_experts - count);
    const std::vector<int64_t> wider_of = apportion(wider, {narrow_of.begin(), narrow_of.end()}, narrow_of);
    for (size_t l = 0; l < plan_.widths.size(); ++l) {
      const std::vector<double> importance = importance_of(scores_.layers[l], request_.method);
      int64_t place = 0;
      for (const int32_t e : best_first(importance.data(), moe_.n_experts)) {
        const int64_t of_expert = place < full_of[l]                 ? units()
                                  : place < full_of[l] + wider_of[l] ? each + 1
                                                                     : each;
        plan_.widths[l][static_cast<size_t>(e)] = of_expert * request_.multiple;
        ++place;
      }
    }
    return Status();
  }

  // A router's group loses as many experts as every other.
  Status drop() {
    const int64_t of_group = moe_.n_experts / moe_.n_group;
    const int64_t kept = std::llround(request_.keep * static_cast<double>(of_group));
    const int64_t least = moe_.group_score == GroupScore::kTop2Sum ? 2 : 1;
    if (kept < least || kept * moe_.topk_group + moe_.zero_experts < moe_.top_k) {
      return invalid(fmt::format("--keep {} leaves {} of {} experts, too few for a token's {}; keep more",
                                 request_.keep, kept * moe_.n_group, moe_.n_experts, moe_.top_k));
    }
    for (size_t l = 0; l < plan_.widths.size(); ++l) {
      const std::vector<double> importance = importance_of(scores_.layers[l], request_.method);
      for (int64_t group = 0; group < moe_.n_group; ++group) {
        std::vector<int32_t> order = best_first(importance.data() + group * of_group, of_group);
        order.resize(static_cast<size_t>(kept));
        for (const int32_t e : order) plan_.widths[l][static_cast<size_t>(group * of_group + e)] = moe_.width;
      }
    }
    return Status();
  }

  const MoeConfig& moe_;
  const PruneScores& scores_;
  const PruneRequest& request_;
  int64_t layers_;
  PrunePlan plan_;
};

// Of what number of columns the down matrices of the experts must keep multiples; 1: columns are free. A
// single scale to a row may cover any number of them.
int64_t column_group(const ModelFiles& model) {
  int64_t group = 1;
  for (const LayerWeights& layer : model.weights().layers) {
    for (const ExpertWeights& e : layer.experts) {
      if (!is_integer(e.down.format)) continue;
      group = std::max(group, e.down.scales_per_row() > 1 ? e.down.group : kActivationGroup);
    }
  }
  return group;
}

// Two equal rows would be the two best of a group.
bool scores_pairs(const MoeConfig& moe) {
  return moe.group_score == GroupScore::kTop2Sum && moe.topk_group < moe.n_group;
}

bool has_fp8_experts(const ModelFiles& model) {
  return std::ranges::any_of(model.weights().layers, [](const LayerWeights& layer) {
    return !layer.experts.empty() && layer.experts.front().down.format == Format::kFp8Block;
  });
}

Status check_request(const ModelFiles& model, const PruneRequest& r) {
  const int64_t width = model.config().moe.width, group = column_group(model);
  if (!(r.keep > 0 && r.keep <= 1))
    return invalid(fmt::format("--keep is {}; it must be above 0 and at most 1", r.keep));
  if (!(r.full >= 0 && r.full <= r.keep)) {
    return invalid(
        fmt::format("--full-experts is {}; it must be between 0 and --keep, which is {}", r.full, r.keep));
  }
  if (!(r.first_depth >= 0 && r.last_depth >= 0 && r.first_depth + r.last_depth > 0 &&
        std::isfinite(r.first_depth + r.last_depth))) {
    return invalid(fmt::format("--depth-weights {}:{}: neither may be negative, and one must be above 0",
                               r.first_depth, r.last_depth));
  }
  if (r.halves && scores_pairs(model.config().moe)) {
    return unsupported(fmt::format(
        "--halves: {} scores a group of experts by its two best, which two halves of one would be",
        model.config().model_type));
  }
  if (r.multiple < 1 || width % r.multiple != 0) {
    return invalid(fmt::format("--multiple {} does not divide the experts' width of {}; {} would", r.multiple,
                               width, std::gcd(std::max<int64_t>(r.multiple, 1), width)));
  }
  if (r.multiple % group != 0) {
    return invalid(fmt::format(
        "--multiple {}: {} columns of this model's down_proj share a scale; give a multiple of that",
        r.multiple, group));
  }
  return Status();
}

}  // namespace

const char* method_name(PruneMethod method) {
  constexpr const char* kNames[] = {"tenp", "usage", "gate", "random", "enp", "drop"};
  return kNames[static_cast<size_t>(method)];
}

int64_t PrunePlan::neurons() const {
  int64_t sum = 0;
  for (const auto& layer : widths) sum += std::accumulate(layer.begin(), layer.end(), int64_t{0});
  return sum;
}

int64_t PrunePlan::neurons_before() const {
  int64_t sum = 0;
  for (const auto& layer : widths) sum += std::ssize(layer) * width;
  return sum;
}

int64_t PrunePlan::widest() const {
  int64_t most = 0;
  for (const auto& layer : widths)
    for (const int64_t w : layer) most = std::max(most, w);
  return most;
}

bool PrunePlan::uniform() const {
  const int64_t most = widest();
  return std::ranges::all_of(widths, [&](const auto& layer) {
    return std::ranges::all_of(layer, [&](int64_t w) { return w == most || w == 0; });
  });
}

int64_t PrunePlan::experts_kept() const {
  return std::ranges::count_if(widths.front(), [](int64_t w) { return w > 0; });
}

std::vector<int64_t> trapezoid(int64_t total, int64_t layers, int64_t most, double first, double last) {
  std::vector<double> weights;
  for (int64_t l = 0; l < layers; ++l) {
    const double depth = layers > 1 ? static_cast<double>(l) / static_cast<double>(layers - 1) : 0;
    weights.push_back(first + (last - first) * depth);
  }
  return apportion(total, weights, std::vector<int64_t>(static_cast<size_t>(layers), most));
}

int64_t default_multiple(const ModelFiles& model) {
  const int64_t width = model.config().moe.width, group = column_group(model);
  int64_t multiple = has_fp8_experts(model) ? kFp8Block : 64;
  while (multiple > 1 && (multiple * 8 > width || width % multiple != 0)) multiple /= 2;
  return std::max(multiple, group);
}

Result<PrunePlan> plan_pruning(const ModelFiles& model, const PruneScores& scores,
                               const PruneRequest& asked) {
  PruneRequest request = asked;
  if (request.full == -1) request.full = request.keep / 2;
  if (request.multiple == 0) request.multiple = default_multiple(model);
  MOEBIUS_TRY(check_request(model, request));
  const bool random = request.method == PruneMethod::kRandom;
  const PruneScores drawn = random ? random_scores(scores, request.seed) : PruneScores();
  PrunePlanner planner(model.config(), random ? drawn : scores, request);
  MOEBIUS_TRY(planner.set_widths());
  return planner.take();
}

}  // namespace moebius
