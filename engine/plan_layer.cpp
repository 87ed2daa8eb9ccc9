#include "engine/plan_layer.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "kernels/status.h"

namespace moebius {
namespace {

struct Costs {
  double link = 0, device = 0, cpu = 0, disk = 0, answer = 0;
  Costs& operator+=(const Costs& other) {
    link += other.link, device += other.device, cpu += other.cpu, disk += other.disk;
    answer += other.answer;
    return *this;
  }
};

double giga(double units, double per_second) { return units / (per_second * 1e9); }

// An expert's work if each in turn had to do it; disk is reading it once, answer what the CPU would send.
Costs costs_of(const ExpertLoad& e, const MachineSpeeds& s, double vector_bytes) {
  const double bytes = e.bytes * e.used, operations = 2 * e.tokens * e.weights;
  const double vectors = e.tokens * vector_bytes;
  return {giga(bytes, s.link_GBs),
          std::max(giga(bytes + 2 * vectors, s.device_GBs), giga(operations, s.device_GFLOPs)),
          std::max(giga(bytes, s.ram_GBs), giga(operations, s.cpu_GFLOPs)), giga(bytes, s.disk_GBs),
          giga(vectors, s.link_GBs)};
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
      const Costs costs = costs_of(experts[i], speeds, frame.vector_bytes);
      if (!experts[i].in_ram) disk_ += costs.disk;  // whoever computes it
      cold_.add(i, costs);
    }
    for (const auto& [last, tokens, i] : resident_order) {
      Costs costs = costs_of(experts[i], speeds, frame.vector_bytes);
      if (experts[i].in_ram) costs.disk = 0, ++copies_;
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
    if (i + j > 0) p.ask_s = frame_.ask_s, p.answer_s = taken.answer + given.answer;
    p.seconds = frame_.before_s + p.answer_s +
                std::max({p.link_s - frame_.ahead_s, p.ask_s + p.device_s, p.ask_s + p.cpu_s, p.disk_s});
    return p;
  }

  // The best j for an i. Among experts with a copy in RAM, and among those without, the time first falls with
  // j and then rises: as the tokens grow, what the device saves may fall below what the answer costs, but
  // never rises above it again.
  size_t best_resident(size_t i) const {
    if (!frame_.share_residents) return 0;
    size_t best = 0;
    for (const auto& [first, last] : {std::pair{size_t{1}, copies_}, {copies_ + 1, resident_.size()}}) {
      if (first > last) continue;
      const size_t j = lowest(i, first, last);
      if (cost(i, j).seconds < cost(i, best).seconds) best = j;
    }
    return best;
  }

 private:
  size_t lowest(size_t i, size_t low, size_t high) const {
    while (low < high) {
      const size_t middle = (low + high) / 2;
      if (cost(i, middle + 1).seconds < cost(i, middle).seconds) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  LayerFrame frame_;
  Queue cold_, resident_;
  size_t copies_ = 0;  // of resident_, first, those with a copy in RAM
  double disk_ = 0;
};

}  // namespace

LayerPlan& LayerPlan::operator+=(const LayerPlan& other) {
  resident += other.resident, streamed += other.streamed, cpu += other.cpu;
  link_s += other.link_s, device_s += other.device_s, cpu_s += other.cpu_s, disk_s += other.disk_s;
  ask_s += other.ask_s, answer_s += other.answer_s, seconds += other.seconds;
  return *this;
}

double break_even_tokens(double bytes, double weights, double vector_bytes, const MachineSpeeds& speeds) {
  return giga(bytes, speeds.link_GBs) /
         (giga(2 * weights, speeds.cpu_GFLOPs) + giga(vector_bytes, speeds.link_GBs));
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
