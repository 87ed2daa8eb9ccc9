#include "engine/train/training_plan.h"

#include <algorithm>

#include <fmt/format.h>

#include "engine/train/pass_memory.h"
#include "kernels/staging.h"

namespace moebius {
namespace {

constexpr int64_t kTrainingSlack = int64_t{4}
                                   << 20;   // of the device's memory, for rounding and the self-check
constexpr double kBackwardPart = 6.0 / 10;  // of the forward's operations in those of an expert's backward
constexpr double kWorthIt = 1.01;           // what a device with fewer residents must be faster
constexpr int64_t kGradient = 2;            // an adapter and its gradient

int64_t momenta_of(const LoraOptions& lora) { return lora.optimizer == LoraOptimizer::kAdamW ? 2 : 1; }

ClassSize sum_of(const ModelBytes& model, ClassSize LayerBytes::*part) {
  ClassSize sum;
  for (const LayerBytes& layer : model.layers)
    sum.bytes += (layer.*part).bytes, sum.weights += (layer.*part).weights;
  return sum;
}

struct Routed {
  ClassSize all;
  int64_t largest = 0, count = 0, layers = 0;
};
Routed routed_of(const ModelBytes& model) {
  Routed r;
  for (const LayerBytes& layer : model.layers) {
    r.layers += !layer.experts.empty();
    for (const ClassSize& e : layer.experts) {
      r.all.bytes += e.bytes, r.all.weights += e.weights, ++r.count;
      r.largest = std::max(r.largest, e.bytes);
    }
  }
  return r;
}

int64_t read_by_all(const TrainingBytes& b) {
  int64_t bytes = b.merged + kGradient * b.dense_adapters;
  for (const auto part :
       {&LayerBytes::attention, &LayerBytes::dense, &LayerBytes::shared, &LayerBytes::router})
    bytes += sum_of(b.model, part).bytes;
  return bytes;
}

// What of the device's memory goes to what, in this order: what it cannot do without, two places to stream
// experts through, the head, more places, the layers' inputs, and experts with the rest.
class Sharing {
 public:
  Sharing(const TrainingBytes& bytes, const TrainingShape& shape, const MachineSpeeds& speeds,
          const TrainingBudgets& budgets)
      : b_(bytes), shape_(shape), speeds_(speeds), budgets_(budgets), routed_(routed_of(bytes.model)) {
    if (routed_.count > 0)
      place_ = routed_.largest + kGradient * b_.expert_adapters / routed_.count + 24 * 256;
  }

  TrainingPlan plan() {
    TrainingPlan p;
    p.experts = routed_.count;
    p.device_needed = read_by_all(b_) + b_.kept + b_.workspace + kTrainingSlack;
    const int64_t head = b_.model.head.bytes + b_.head;
    const int64_t all_experts = routed_.all.bytes + kGradient * b_.expert_adapters;
    p.device_for_all = p.device_needed + head + b_.inputs + all_experts + routed_.count * 24 * 256;
    p.use_device = budgets_.device_bytes >= p.device_needed;
    p.park = true;
    if (p.use_device) give_out(p, budgets_.device_bytes - p.device_needed, head);
    predict(p);
    if (p.use_device) choose_residents(p);
    tell_rows(p);
    give_reasons(p);
    return p;
  }

 private:
  void give_out(TrainingPlan& p, int64_t room, int64_t head) {
    const auto take = [&](int64_t bytes) {
      if (bytes > room) return false;
      room -= bytes;
      return true;
    };
    const int64_t residents = routed_.count * place_;
    const bool streams = routed_.count > 0 && residents + head + b_.inputs > room;
    if (streams && take(2 * place_)) p.ring_places = 2;
    p.head_on_device = take(head);
    while (p.ring_places >= 2 && p.ring_places < kRingSlots && take(place_)) ++p.ring_places;
    p.park = !take(b_.inputs);
    p.experts_resident = place_ > 0 ? std::min(routed_.count, room / place_) : 0;
    if (p.experts_resident == routed_.count) p.ring_places = 0;
  }

  // A resident expert cannot be the CPU's, so of a device that is hardly faster too many would be too much.
  void choose_residents(TrainingPlan& p) const {
    const bool all_fit = p.experts_resident == routed_.count;
    TrainingPlan fewer = p;
    for (int64_t n = p.experts_resident / std::max<int64_t>(1, routed_.layers) * routed_.layers; n > 0;
         n -= routed_.layers) {
      fewer.experts_resident = n - routed_.layers;
      if (all_fit)  // what they leave is room for a ring
        fewer.ring_places = std::min(kRingSlots, routed_.count - fewer.experts_resident);
      predict(fewer);
      if (fewer.tokens_per_s > kWorthIt * p.tokens_per_s) p = fewer;
    }
    p.resident_bytes = p.experts_resident * place_;
  }

  int64_t share(const TrainingPlan& p, int64_t bytes) const {
    if (routed_.count == 0) return 0;
    return static_cast<int64_t>(static_cast<double>(p.experts_resident) / static_cast<double>(routed_.count) *
                                static_cast<double>(bytes));
  }

  void tell_rows(TrainingPlan& p) const {
    const bool d = p.use_device;
    const auto row = [&](const char* name, int64_t device, int64_t ram) {
      p.rows.push_back({name, device, ram, 0});
      p.device_used += device, p.ram_used += ram;
    };
    int64_t dense = 0;
    for (const auto l :
         {&LayerBytes::attention, &LayerBytes::dense, &LayerBytes::shared, &LayerBytes::router})
      dense += sum_of(b_.model, l).bytes;
    const int64_t head = b_.model.head.bytes, tied = b_.model.tied_head ? head : 0;
    row("attention, shared, dense", d ? dense : 0, dense);
    row("routed experts", share(p, routed_.all.bytes), routed_.all.bytes);
    row("ring of streamed experts", p.ring_places * place_, d ? kStagingBytes : 0);
    row("embedding", 0, b_.model.embedding.bytes + tied);
    row("head", p.head_on_device ? head : 0, tied > 0 ? 0 : head);
    row("merged copies", d ? b_.merged : 0, b_.merged);
    row("adapters", (d ? b_.dense_adapters : 0) + share(p, b_.expert_adapters), b_.gradients());
    row("gradients", (d ? b_.dense_adapters : 0) + share(p, b_.expert_adapters), b_.gradients());
    row("momenta", 0, b_.momenta);
    row("activations kept", d ? b_.kept + (p.park ? 0 : b_.inputs) : 0,
        d ? (p.park ? b_.inputs : 0) : b_.kept + b_.inputs);
    row("workspace", (d ? b_.workspace : 0) + (p.head_on_device ? b_.head : 0),
        (d ? b_.pinned : b_.workspace) + (p.head_on_device ? 0 : b_.head));
    p.ram_missing = std::max<int64_t>(0, p.ram_used - usable_ram(budgets_.ram_bytes));
  }

  void give_reasons(TrainingPlan& p) const {
    const auto say = [&](const std::string& line) { p.reasons.push_back(line); };
    if (!p.use_device && budgets_.device_bytes > 0)
      say(
          fmt::format("the device is too small: it takes part from {} on; fewer --micro-tokens or a lower "
                      "--rank need less",
                      gib_text(p.device_needed)));
    if (p.use_device && p.experts_resident < p.experts)
      say(fmt::format("{} on the device would hold everything; it takes part from {} on",
                      gib_text(p.device_for_all), gib_text(p.device_needed)));
    if (p.ring_places > 0) {
      const double count = static_cast<double>(routed_.count);
      say(
          fmt::format("streaming an expert beats the CPU from {:.0f} tokens on; an even micro-batch gives "
                      "each {:.0f}",
                      break_even_tokens(static_cast<double>(routed_.all.bytes) / count,
                                        static_cast<double>(routed_.all.weights) / count,
                                        static_cast<double>(b_.model.vector_bytes), speeds_),
                      static_cast<double>(shape_.micro_tokens * b_.model.top_k * routed_.layers) / count));
    }
    if (p.ram_missing > 0)
      say(
          fmt::format("{} more memory would be read from disk in every step; fewer --micro-tokens, a lower "
                      "--rank or fewer --targets need less",
                      gib_text(p.ram_missing)));
  }

  double time_of(const ClassSize& size, double passes, bool device) const {
    const double n = static_cast<double>(shape_.micro_tokens);
    const double GBs = device ? speeds_.device_GBs : speeds_.ram_GBs;
    const double GFLOPs = device ? speeds_.device_GFLOPs : speeds_.cpu_GFLOPs;
    return passes *
           std::max(static_cast<double>(size.bytes) / GBs,
                    2 * n * static_cast<double>(size.weights) / GFLOPs) *
           1e-9;
  }

  // Of all MoE layers: a forward, or a backward, whose operations are more by so much.
  LayerPlan experts(const TrainingPlan& p, double operations) const {
    MachineSpeeds s = speeds_;
    s.device_GFLOPs /= operations, s.cpu_GFLOPs /= operations;
    const double n = static_cast<double>(shape_.micro_tokens * b_.model.top_k);
    std::vector<ExpertLoad> loads(static_cast<size_t>(routed_.count / std::max<int64_t>(1, routed_.layers)));
    const int64_t choices = std::ssize(loads) + b_.model.zero_experts;
    const int64_t resident = p.experts_resident / std::max<int64_t>(1, routed_.layers);
    for (size_t e = 0; e < loads.size(); ++e)
      loads[e] = {n / static_cast<double>(choices), 1,
                  static_cast<double>(routed_.all.bytes + kGradient * b_.expert_adapters) /
                      static_cast<double>(routed_.count),
                  static_cast<double>(routed_.all.weights) / static_cast<double>(routed_.count),
                  static_cast<int64_t>(e) < resident};
    LayerFrame frame;
    frame.can_stream = p.ring_places > 0, frame.share_residents = false;
    frame.bring(static_cast<double>(shape_.micro_tokens), static_cast<double>(b_.model.vector_bytes), s);
    return plan_layer(loads, s, frame);
  }

  void predict(TrainingPlan& p) const {
    const bool d = p.use_device;
    const double n = static_cast<double>(shape_.micro_tokens), layers = static_cast<double>(routed_.layers);
    double dense_s = 0;
    for (const auto l :
         {&LayerBytes::attention, &LayerBytes::dense, &LayerBytes::shared, &LayerBytes::router})
      dense_s += time_of(sum_of(b_.model, l), 1, d);
    // Each token looks at half of its sequence; a backward is two and a half forwards.
    const double pairs = n * static_cast<double>(shape_.sequence) / 2;
    const double look_s =
        pairs * b_.model.operations_per_pair / (d ? speeds_.device_GFLOPs : speeds_.cpu_GFLOPs) * 1e-9;
    const double crossing_s = d && p.park ? static_cast<double>(b_.inputs) / speeds_.link_GBs * 1e-9 : 0;
    p.forward_s = dense_s + look_s + crossing_s, p.backward_s = 2 * dense_s + 3.5 * look_s + crossing_s;
    if (routed_.count > 0) {
      p.layers = experts(p, 1);
      p.forward_s += layers * p.layers.seconds;
      p.backward_s += layers * experts(p, 1 / kBackwardPart).seconds;
    }
    p.head_s = time_of(b_.model.head, 2, p.head_on_device);
    // Reads and writes of adapters, gradients and momenta, and the way of those that are on the device.
    const double moved = static_cast<double>(3 * b_.gradients() + 2 * b_.momenta);
    p.optimizer_s = moved / speeds_.ram_GBs * 1e-9;
    if (d)
      p.optimizer_s +=
          2 * static_cast<double>(b_.dense_adapters + share(p, b_.expert_adapters)) / speeds_.link_GBs * 1e-9;
    const double steps = static_cast<double>(shape_.accumulation);
    p.tokens_per_s = steps * n / (steps * (p.forward_s + p.backward_s + p.head_s) + p.optimizer_s);
  }

  const TrainingBytes& b_;
  const TrainingShape& shape_;
  const MachineSpeeds& speeds_;
  const TrainingBudgets& budgets_;
  const Routed routed_;
  int64_t place_ = 0;  // of an expert with its adapters, gradients and rounding
};

// Whether a fine-tuning of this shape can run: on the device where there is one, in memory.
bool fits(const TrainingBytes& bytes, const TrainingShape& shape, const TrainingBudgets& budgets) {
  static constexpr MachineSpeeds kAny{1, 1, 1, 1, 1, 1, 0, 0};
  const TrainingPlan p = plan_training(bytes, shape, kAny, budgets);
  return p.ram_missing == 0 && (p.use_device || budgets.device_bytes == 0);
}

// The largest value up to `most` that fits; 0: none.
template <class Fits>
Result<int64_t> largest(int64_t most, const Fits& fits) {
  int64_t low = 0, high = most + 1;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    MOEBIUS_ASSIGN(const bool ok, fits(middle));
    (ok ? low : high) = middle;
  }
  return low;
}

}  // namespace

Result<TrainingBytes> training_bytes(const ModelConfig& config, const ModelBytes& model,
                                     const TrainingShape& shape) {
  TrainingBytes b;
  b.model = model;
  MOEBIUS_TRY(
      visit_targets(config, shape.lora, [&](const std::string& name, Role role, int64_t rows, int64_t cols) {
        const int64_t bytes = 4 * shape.lora.rank * (rows + cols);
        (role == Role::kExpert ? b.expert_adapters : b.dense_adapters) += bytes;
        if (must_merge(name, role)) b.merged += 4 * rows * cols;
      }));
  b.momenta = momenta_of(shape.lora) * b.gradients();
  PassOptions parked;
  parked.max_tokens = shape.micro_tokens, parked.kept_bytes = 0, parked.shortest = shape.shortest;
  parked.park = true;
  const PassMemory::Bytes bytes = PassMemory::bytes(config, parked, false, true);
  b.inputs = 4 * config.layers * shape.micro_tokens * config.hidden;
  b.kept = bytes.kept, b.workspace = bytes.workspace, b.head = bytes.head;
  b.workspace += WorkspaceMemory::bytes(config, shape.micro_tokens) +
                 scratch_bytes(config, shape.micro_tokens) +
                 cached_positions(parked) * cache_row_bytes(DType::kF32, config.cache_width());
  b.pinned = bytes.pinned - b.inputs;
  if (config.moe.n_experts > 0)
    b.pinned += 4 * shape.micro_tokens * (config.hidden * (2 + config.moe.top_k) + 2 * config.moe.top_k);
  return b;
}

TrainingPlan plan_training(const TrainingBytes& bytes, const TrainingShape& shape,
                           const MachineSpeeds& speeds, const TrainingBudgets& budgets) {
  return Sharing(bytes, shape, speeds, budgets).plan();
}

Result<TrainingLimits> training_limits(const ModelConfig& config, const ModelBytes& model,
                                       const TrainingShape& shape, const TrainingBudgets& budgets) {
  const auto fits_with = [&](int64_t tokens, int64_t rank) -> Result<bool> {
    TrainingShape other = shape;
    other.micro_tokens = tokens, other.lora.rank = rank;
    other.shortest = std::min(shape.shortest, tokens);
    MOEBIUS_ASSIGN(const TrainingBytes bytes, training_bytes(config, model, other));
    return fits(bytes, other, budgets);
  };
  int64_t smaller_side = config.vocab;
  MOEBIUS_TRY(visit_targets(config, shape.lora, [&](const std::string&, Role, int64_t rows, int64_t cols) {
    smaller_side = std::min({smaller_side, rows, cols});
  }));
  TrainingLimits limits;
  MOEBIUS_ASSIGN(limits.micro_tokens, largest(int64_t{1} << 20, [&](int64_t tokens) {
                   return fits_with(tokens, shape.lora.rank);
                 }));
  MOEBIUS_ASSIGN(limits.rank,
                 largest(smaller_side, [&](int64_t rank) { return fits_with(shape.micro_tokens, rank); }));
  return limits;
}

}  // namespace moebius
