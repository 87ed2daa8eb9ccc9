#include "engine/plan_layer.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "kernels/status.h"

namespace moebius {
namespace {

struct Costs {
  double link = 0, device = 0, cpu = 0, disk = 0;
  Costs& operator+=(const Costs& other) {
    link += other.link, device += other.device, cpu += other.cpu, disk += other.disk;
    return *this;
  }
};

double giga(double units, double per_second) { return units / (per_second * 1e9); }

// An expert's work if each in turn had to do it; disk is reading it once.
Costs costs_of(const ExpertLoad& e, const MachineSpeeds& s) {
  const double bytes = e.bytes * e.used, operations = 2 * e.tokens * e.weights;
  return {giga(bytes, s.link_GBs), std::max(giga(bytes, s.device_GBs), giga(operations, s.device_GFLOPs)),
          std::max(giga(bytes, s.ram_GBs), giga(operations, s.cpu_GFLOPs)), giga(bytes, s.disk_GBs)};
}

// Experts in the order in which the CPU takes them, with their costs and the sums of the first i.
struct Queue {
  std::vector<size_t> index;
  std::vector<Costs> sums{Costs{}};

  void add(size_t i, const Costs& costs) {
    index.push_back(i);
    sums.push_back(sums.back());
    sums.back() += costs;
  }
  size_t size() const { return index.size(); }
  const Costs& first(size_t n) const { return sums[n]; }
  const Costs& all() const { return sums.back(); }
};

// Cuts, and what they cost.
class Cut {
 public:
  Cut(std::span<const ExpertLoad> experts, const MachineSpeeds& speeds, const LayerFrame& frame)
      : frame_(frame) {
    std::vector<std::tuple<bool, double, size_t>> cold_order, resident_order;
    for (size_t i = 0; i < experts.size(); ++i) {
      const ExpertLoad& e = experts[i];
      if (!(e.tokens > 0)) continue;
      auto& order = e.resident ? resident_order : cold_order;
      order.emplace_back(e.resident && !e.in_ram, e.tokens, i);
    }
    std::sort(cold_order.begin(), cold_order.end());
    std::sort(resident_order.begin(), resident_order.end());
    for (const auto& [last, tokens, i] : cold_order) {
      const Costs costs = costs_of(experts[i], speeds);
      if (!experts[i].in_ram) disk_ += costs.disk;  // whoever computes it
      cold_.add(i, costs);
    }
    for (const auto& [last, tokens, i] : resident_order) {
      Costs costs = costs_of(experts[i], speeds);
      if (experts[i].in_ram) costs.disk = 0;
      resident_.add(i, costs);
    }
  }

  size_t least() const { return frame_.can_stream ? 0 : cold_.size(); }
  const Queue& cold() const { return cold_; }
  const Queue& resident() const { return resident_; }

  LayerPlan cost(size_t i, size_t j) const {
    LayerPlan p;
    const Costs &taken = cold_.first(i), &given = resident_.first(j);
    p.link_s = cold_.all().link - taken.link;
    p.device_s =
        frame_.device_s + (cold_.all().device - taken.device) + (resident_.all().device - given.device);
    p.cpu_s = frame_.cpu_s + taken.cpu + given.cpu;
    p.disk_s = disk_ + given.disk;
    if (i == cold_.size()) p.link_s = 0;  // and not what rounding left of it
    p.seconds = std::max({p.link_s, frame_.before_s + p.device_s, frame_.before_s + p.cpu_s, p.disk_s});
    return p;
  }

  // The best j for an i: the device's time falls with j and the others' rise, so the best is next to where
  // they cross.
  size_t best_resident(size_t i) const {
    size_t low = 0, high = frame_.share_residents ? resident_.size() : 0;
    while (low < high) {
      const size_t middle = (low + high) / 2;
      const LayerPlan p = cost(i, middle);
      if (frame_.before_s + p.device_s > std::max(frame_.before_s + p.cpu_s, p.disk_s)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low > 0 && cost(i, low - 1).seconds <= cost(i, low).seconds ? low - 1 : low;
  }

  // The fewest that are as good as j, which is the best.
  size_t fewest_resident(size_t i, size_t j) const {
    const double best = cost(i, j).seconds;
    size_t low = 0;
    while (low < j) {
      const size_t middle = (low + j) / 2;
      if (cost(i, middle).seconds <= best) {
        j = middle;
      } else {
        low = middle + 1;
      }
    }
    return j;
  }

 private:
  LayerFrame frame_;
  Queue cold_, resident_;
  double disk_ = 0;
};

}  // namespace

double break_even_tokens(double bytes_per_weight, const MachineSpeeds& speeds) {
  return bytes_per_weight * speeds.cpu_GFLOPs / (2 * speeds.link_GBs);
}

LayerPlan plan_layer(std::span<const ExpertLoad> experts, const MachineSpeeds& speeds,
                     const LayerFrame& frame) {
  const Cut cut(experts, speeds, frame);
  size_t best_i = cut.least(), best_j = cut.best_resident(best_i);
  double best = cut.cost(best_i, best_j).seconds;
  for (size_t i = cut.least() + 1; i <= cut.cold().size(); ++i) {
    const size_t j = cut.best_resident(i);
    if (const double seconds = cut.cost(i, j).seconds; seconds < best) best = seconds, best_i = i, best_j = j;
  }
  best_j = cut.fewest_resident(best_i, best_j);
  LayerPlan plan = cut.cost(best_i, best_j);
  plan.where.assign(experts.size(), Where::kIdle);
  for (size_t i = 0; i < cut.cold().size(); ++i)
    plan.where[cut.cold().index[i]] = i < best_i ? Where::kCpu : Where::kStreamed;
  for (size_t j = 0; j < cut.resident().size(); ++j)
    plan.where[cut.resident().index[j]] = j < best_j ? Where::kCpu : Where::kResident;
  plan.cpu = static_cast<int64_t>(best_i + best_j);
  plan.streamed = static_cast<int64_t>(cut.cold().size() - best_i);
  plan.resident = static_cast<int64_t>(cut.resident().size() - best_j);
  return plan;
}

}  // namespace moebius
