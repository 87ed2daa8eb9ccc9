#include "engine/placement.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "engine/kv_cache.h"
#include "engine/placement_reasons.h"
#include "engine/placement_speed.h"
#include "kernels/staging.h"

namespace moebius {
namespace {

constexpr int64_t kMost = int64_t{1} << 60;  // sums of a few of these still fit
constexpr int64_t kMostInTwo = 64;           // tokens for which two groups are looked at
// For a longer pass: so many parts of what experts could have on the device, or what holds one in so many
// experts, of which decoding would feel nothing.
constexpr int64_t kPassPart = 8, kFewExperts = 100;
constexpr Reserve kDriver{int64_t{512} << 20}, kSystem{int64_t{8} << 30};

int64_t bounded(int64_t value) { return std::clamp<int64_t>(value, 0, kMost); }

int64_t bounded_product(int64_t a, int64_t b) {
  int64_t product = 0;
  return checked_mul(bounded(a), bounded(b), &product) ? bounded(product) : kMost;
}

int64_t whole_pages(int64_t tokens) { return bounded(tokens + kPageTokens - 1) / kPageTokens * kPageTokens; }

// What a plan adds up.
struct Needs {
  int64_t stack = 0;  // attention, dense layers, shared experts, routers of all layers; adapters
  int64_t head = 0, embedding = 0, cache = 0, workspace = 0;
  int64_t least_pass = 0, most_pass = 0, longest_pass = 0;  // tokens
  int64_t state = 0;                                        // bytes per token of a pass
  int64_t mail = 0;                                         // pinned, of the longest pass
  int64_t slot = 0, routed = 0;                             // bytes of the largest expert, of all

  int64_t core() const { return stack + cache + workspace + least_pass * state; }  // without the head
};

Needs needs_of(const ModelBytes& model, const Budgets& budgets) {
  Needs n;
  n.stack = budgets.adapter_bytes;
  for (const LayerBytes& layer : model.layers) {
    for (const ClassSize* part : {&layer.attention, &layer.dense, &layer.shared, &layer.router})
      n.stack += part->bytes;
    for (const ClassSize& expert : layer.experts) {
      n.slot = std::max(n.slot, expert.bytes);
      n.routed += expert.bytes;
    }
  }
  n.head = model.head.bytes, n.embedding = model.embedding.bytes;
  const int64_t tokens =
      whole_pages(budgets.cache_tokens > 0 ? bounded(budgets.cache_tokens)
                                           : bounded_product(budgets.context, budgets.sequences));
  n.cache = bounded_product(tokens, model.cache_per_token);
  n.workspace = bounded(model.workspace);
  n.least_pass = std::min(budgets.context, kSliceTokens);
  n.most_pass = std::min(budgets.context, kPassTokens);
  n.state = std::clamp<int64_t>(model.state_per_token, 0, int64_t{1} << 40);
  n.longest_pass = std::min(budgets.context, kLongestPassTokens);
  n.mail = bounded_product(n.longest_pass, model.mail_per_token);
  return n;
}

Budgets sane(const Budgets& asked) {
  Budgets b = asked;
  b.device_bytes = bounded(b.device_bytes), b.ram_bytes = bounded(b.ram_bytes);
  b.adapter_bytes = bounded(b.adapter_bytes);
  b.device_reserve = std::clamp<int64_t>(b.device_reserve, -1, b.device_bytes);
  b.context = std::max<int64_t>(1, bounded(b.context));
  b.sequences = std::max<int64_t>(1, bounded(b.sequences));
  b.prompt = std::clamp<int64_t>(b.prompt, 1, b.context);
  return b;
}

// The device's memory is given out in this order, so that more of it never takes anything away: what every
// token reads, two slots to stream through, the head, tokens that share a pass, more slots, experts and,
// unless all fit, more tokens.
class Planner {
 public:
  Planner(const ModelBytes& model, const MachineSpeeds& speeds, const Budgets& budgets,
          const ExpertHeat& heat)
      : model_(model), speeds_(speeds), budgets_(budgets), needs_(needs_of(model, budgets)) {
    heat_known_ = !heat.empty();
    experts_ = experts_by_heat(model, heat);
    usable_ = budgets_.device_bytes - reserve();
  }

  ModelPlan make() {
    plan_.experts = std::ssize(experts_);
    plan_.slot_bytes = needs_.slot;
    choose_shape();
    if (plan_.shape != PlanShape::kHost) give_out_device();
    fill_ram();
    predict();
    fill_rows();
    say_what_would_fit();
    plan_.reasons = plan_reasons(plan_, model_, budgets_, heat_known_);
    return std::move(plan_);
  }

 private:
  // Residents are chosen as if all else were in RAM: then the choice does not depend on RAM, and more of it
  // helps whatever was chosen.
  SpeedModel speed(PlanShape shape, int64_t ram_missing = 0) const {
    return {model_, speeds_, shape, budgets_.prompt, budgets_.adapter_bytes, ram_missing};
  }

  int64_t reserve() const {
    return budgets_.device_reserve < 0 ? kDriver.of(budgets_.device_bytes) : budgets_.device_reserve;
  }
  int64_t budget_for(int64_t used) const {
    return budgets_.device_reserve < 0 ? kDriver.budget_for(used) : used + budgets_.device_reserve;
  }
  int64_t full() const {  // everything but slots and experts
    return needs_.core() + needs_.head + (needs_.most_pass - needs_.least_pass) * needs_.state;
  }
  int64_t slots() const { return std::min<int64_t>(kRingSlots, std::max<int64_t>(2, plan_.experts)); }

  void choose_shape() {
    const int64_t two_slots = 2 * needs_.slot;
    if (budgets_.device_bytes == 0 || (usable_ < needs_.core() && !budgets_.use_device)) return;
    const bool head_fits = usable_ >= needs_.core() + two_slots + needs_.head;
    const PlanShape shape = head_fits ? PlanShape::kDevice : PlanShape::kHostHead;
    by_residents_ = speed(shape).decode_by_residents(experts_);
    residents_ = best_residents();
    const double host_s = speed(PlanShape::kHost).decode_by_residents(experts_).front();
    if (by_residents_[static_cast<size_t>(residents_)] <= host_s || budgets_.use_device) plan_.shape = shape;
  }

  // Bytes for tokens above most_pass, of `room` bytes for experts.
  int64_t longer_pass(int64_t room) const {
    if (room <= 0 || needs_.routed <= room) return 0;
    const int64_t most = bounded_product(needs_.longest_pass - needs_.most_pass, needs_.state);
    return std::min(most, std::max(room / kPassPart, std::min(room, needs_.routed / kFewExperts)));
  }
  int64_t room_for_experts() const { return usable_ - full() - slots() * needs_.slot; }

  // The number of residents up to what fits with which a token is fastest; more of them on a tie.
  int64_t best_residents() const {
    const int64_t room = room_for_experts() - longer_pass(room_for_experts());
    int64_t best = 0;
    double used = 0;
    for (int64_t n = 1; n <= plan_.experts; ++n) {
      used += experts_[static_cast<size_t>(n - 1)].bytes;
      if (used > static_cast<double>(room)) break;
      if (by_residents_[static_cast<size_t>(n)] <= by_residents_[static_cast<size_t>(best)]) best = n;
    }
    return best;
  }

  void give_out_device() {
    for (int64_t n = 0; n < residents_; ++n) experts_[static_cast<size_t>(n)].resident = true;
    plan_.experts_resident = residents_;
    int64_t left = usable_ - needs_.core() - (plan_.shape == PlanShape::kDevice ? needs_.head : 0);
    left = std::max<int64_t>(0, left);
    const bool cold = residents_ < plan_.experts;
    if (cold && left >= 2 * needs_.slot) plan_.ring_slots = 2;
    left -= plan_.ring_slots * needs_.slot;
    plan_.pass_tokens = needs_.least_pass;
    if (plan_.shape == PlanShape::kHostHead) return;
    plan_.pass_tokens = needs_.state > 0 ? std::min(needs_.most_pass, needs_.least_pass + left / needs_.state)
                                         : needs_.most_pass;
    if (cold && needs_.state > 0) plan_.pass_tokens += longer_pass(room_for_experts()) / needs_.state;
    left -= (plan_.pass_tokens - needs_.least_pass) * needs_.state;
    if (plan_.ring_slots > 0 && needs_.slot > 0)
      plan_.ring_slots = std::min(slots(), plan_.ring_slots + left / needs_.slot);
  }

  // RAM holds the hottest experts that are not resident, and copies of residents where room is left.
  void fill_ram() {
    if (plan_.shape == PlanShape::kHost) plan_.pass_tokens = needs_.least_pass;
    int64_t room = usable_ram(budgets_.ram_bytes) - ram_always();
    plan_.ram_missing = std::max<int64_t>(0, -room);
    bool full = room <= 0;
    const auto take = [&](PlacedExpert& e) {
      const int64_t bytes = static_cast<int64_t>(e.bytes);
      full = full || bytes > room;
      e.in_ram = !full;
      if (!full) room -= bytes;
    };
    for (PlacedExpert& e : experts_) {
      if (!e.resident) take(e);
    }
    for (auto e = experts_.rbegin(); e != experts_.rend(); ++e) {  // the next to be evicted first
      if (e->resident) take(*e);
    }
    plan_.resident.resize(model_.layers.size());
    for (size_t l = 0; l < plan_.resident.size(); ++l)
      plan_.resident[l].resize(model_.layers[l].experts.size());
    plan_.in_ram = plan_.resident;
    for (const PlacedExpert& e : experts_) {
      plan_.resident[static_cast<size_t>(e.layer)][static_cast<size_t>(e.index)] = e.resident;
      plan_.in_ram[static_cast<size_t>(e.layer)][static_cast<size_t>(e.index)] = e.in_ram;
      plan_.experts_released += e.resident && !e.in_ram;
      plan_.experts_on_disk += !e.resident && !e.in_ram;
    }
  }

  // Without a device there is room for staging and mail too: so none takes anything away.
  int64_t ram_always() const {
    const int64_t always = kStagingBytes + needs_.mail + needs_.embedding;
    switch (plan_.shape) {
      case PlanShape::kHost:
        return always + needs_.core() + needs_.head;
      case PlanShape::kHostHead:
        return always + needs_.head;
      default:
        return always;
    }
  }

  void predict() {
    const SpeedModel with = speed(plan_.shape, plan_.ram_missing);
    plan_.decode = with.decode(experts_, 1);
    plan_.decode_together = with.decode(experts_, budgets_.sequences);
    LayerFrame frame;
    frame.can_stream = plan_.ring_slots >= 2, frame.share_residents = budgets_.share_residents;
    if (plan_.experts_on_disk == 0)  // half of the ring
      frame.ahead_s = static_cast<double>(plan_.ring_slots / 2 * needs_.slot) / speeds_.link_GBs * 1e-9;
    plan_.prefill = with.prefill(experts_, plan_.pass_tokens, frame);
    for (int64_t n = 2; n <= std::min(budgets_.sequences, kMostInTwo) && plan_.two_groups_from == 0; ++n)
      if (with.decode_in_two_s(experts_, n) < with.decode(experts_, n).seconds) plan_.two_groups_from = n;
    if (plan_.two_groups_from == 0) return;
    DecodePrediction& all = plan_.decode_together;
    all.groups = 2, all.seconds = with.decode_in_two_s(experts_, budgets_.sequences);
    all.tokens_per_s = static_cast<double>(all.tokens) / all.seconds;
  }

  void add_row(const char* name, int64_t bytes, bool on_device) {
    if (bytes > 0) plan_.rows.push_back({name, on_device ? bytes : 0, on_device ? 0 : bytes, 0});
  }

  void fill_rows() {
    const bool device = plan_.shape != PlanShape::kHost;
    ClassSize attention, dense, shared, router;
    for (const LayerBytes& layer : model_.layers) {
      attention.bytes += layer.attention.bytes, dense.bytes += layer.dense.bytes;
      shared.bytes += layer.shared.bytes, router.bytes += layer.router.bytes;
    }
    add_row("attention", attention.bytes, device);
    add_row("dense layers", dense.bytes, device);
    add_row("shared experts", shared.bytes, device);
    add_row("routers, norms", router.bytes, device);
    PlaceRow routed{"routed experts"};
    for (const PlacedExpert& e : experts_) {
      const int64_t bytes = static_cast<int64_t>(e.bytes);
      if (e.resident) routed.device += bytes;
      if (e.in_ram) routed.ram += bytes;
      if (!e.resident && !e.in_ram) routed.disk += bytes;
    }
    if (!experts_.empty()) plan_.rows.push_back(routed);
    add_row("embedding", needs_.embedding, false);
    add_row(model_.tied_head ? "embedding, head" : "head", needs_.head, plan_.shape == PlanShape::kDevice);
    add_row("cache", needs_.cache, device);
    add_row("workspace", needs_.workspace + plan_.pass_tokens * needs_.state, device);
    if (device) plan_.rows.push_back({"slots to stream", plan_.ring_slots * needs_.slot, kStagingBytes, 0});
    if (device) add_row("mail to the CPU", plan_.pass_tokens * model_.mail_per_token, false);
    add_row("adapter", budgets_.adapter_bytes, device);
    if (device) add_row("for the driver", reserve(), true);
    for (const PlaceRow& row : plan_.rows) plan_.device_used += row.device, plan_.ram_used += row.ram;
  }

  void say_what_would_fit() {
    plan_.device_needed = budget_for(needs_.core());
    plan_.device_for_all = budget_for(full() + slots() * needs_.slot + needs_.routed);
    double elsewhere = 0;
    for (const PlacedExpert& e : experts_) elsewhere += e.resident ? 0 : e.bytes;
    plan_.ram_for_all = kSystem.budget_for(ram_always() + static_cast<int64_t>(elsewhere));
    if (budgets_.device_bytes == 0 || usable_ >= needs_.core() || model_.cache_per_token <= 0) return;
    if (budgets_.cache_tokens > 0) return;  // whatever the context
    const int64_t room = usable_ - (needs_.core() - needs_.cache);
    const int64_t per_token = bounded_product(model_.cache_per_token, budgets_.sequences);
    plan_.context_that_fits = room > 0 ? room / per_token / kPageTokens * kPageTokens : 0;
  }

  const ModelBytes& model_;
  const MachineSpeeds& speeds_;
  const Budgets budgets_;
  const Needs needs_;
  bool heat_known_ = false;
  int64_t usable_ = 0, residents_ = 0;
  std::vector<PlacedExpert> experts_;
  std::vector<double> by_residents_;
  ModelPlan plan_;
};

}  // namespace

int64_t usable_ram(int64_t ram_bytes) { return ram_bytes - kSystem.of(ram_bytes); }

ModelPlan plan_model(const ModelBytes& model, const MachineSpeeds& speeds, const Budgets& budgets,
                     const ExpertHeat& heat) {
  for (const double speed : {speeds.device_GBs, speeds.device_GFLOPs, speeds.link_GBs, speeds.ram_GBs,
                             speeds.cpu_GFLOPs, speeds.disk_GBs})
    MOEBIUS_CHECK(speed > 0 && std::isfinite(speed), "speeds of a plan are positive");
  for (const double us : {speeds.handoff_us, speeds.device_op_us})
    MOEBIUS_CHECK(us >= 0 && std::isfinite(us));
  return Planner(model, speeds, sane(budgets), heat).make();
}

std::string gib_text(int64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (bytes < int64_t{1} << 30) return fmt::format("{:.1f} MiB", value / (1 << 20));
  return fmt::format("{:.1f} GiB", value / (1 << 30));
}

}  // namespace moebius
