#include "engine/placement_reasons.h"

#include <algorithm>

#include <fmt/format.h>

namespace moebius {
namespace {

std::string percent(double share) { return fmt::format("{:.{}f} %", share * 100, share < 0.1 ? 1 : 0); }
std::string ms(double seconds) { return fmt::format("{:.1f} ms", seconds * 1e3); }

class Teller {
 public:
  Teller(const ModelPlan& plan, const ModelBytes& model, const Budgets& budgets, bool heat_known)
      : plan_(plan), model_(model), budgets_(budgets), heat_known_(heat_known) {}

  std::vector<std::string> tell() {
    shape();
    if (plan_.shape != PlanShape::kHost && plan_.experts > 0) residents();
    ram();
    decode();
    prefill();
    return std::move(lines_);
  }

 private:
  template <class... Args>
  void say(fmt::format_string<Args...> text, Args&&... args) {
    lines_.push_back(fmt::format(text, std::forward<Args>(args)...));
  }

  void shape() {
    if (plan_.shape == PlanShape::kDevice)
      return say(
          "every token reads attention, shared experts, head and cache: they come first on the device");
    if (plan_.shape == PlanShape::kHostHead) {
      return say(
          "the head stays on the CPU: beside attention, shared experts and cache there is no room for it");
    }
    if (budgets_.device_bytes == 0) return say("no device memory is given: the CPU computes everything");
    if (budgets_.device_bytes >= plan_.device_needed)
      return say("the CPU computes everything: with these speeds the device would make a token slower");
    std::string instead = fmt::format("give {}", gib_text(plan_.device_needed));
    if (plan_.context_that_fits > 0)
      instead += fmt::format(", or lower the context to {} tokens", plan_.context_that_fits);
    say("attention, shared experts, cache and workspace do not fit {}: the CPU computes everything; {}",
        gib_text(budgets_.device_bytes), instead);
  }

  void residents() {
    if (plan_.experts_resident == plan_.experts)
      return say("all experts fit beside them: nothing is streamed");
    const std::string all = gib_text(plan_.device_for_all);
    if (plan_.experts_resident == 0) {
      say("no expert fits beside them: the CPU computes all {}; {} of device memory would hold all",
          plan_.experts, all);
    } else if (budgets_.device_bytes >= plan_.device_for_all) {
      say("{} of {} experts are resident though all would fit: CPU and device share a token's work",
          plan_.experts_resident, plan_.experts);
    } else {
      say("{} of {} experts fit too, {}: {} of a token's picks; {} would hold all", plan_.experts_resident,
          plan_.experts, heat_known_ ? "the hottest" : "spread evenly", percent(plan_.decode.hits), all);
    }
  }

  void ram() {
    if (plan_.ram_missing > 0) {
      say("RAM is {} short of what every token reads, which comes from disk each time",
          gib_text(plan_.ram_missing));
    }
    if (plan_.experts_on_disk > 0) {
      say("{} experts are only on disk: {} of a token's time; {} of RAM would hold them",
          plan_.experts_on_disk, percent(plan_.decode.disk_s / plan_.decode.seconds),
          gib_text(plan_.ram_for_all));
    }
    if (plan_.experts_released == 0 || plan_.experts_resident == 0) return;
    say("RAM gives up its copies of {} resident experts{}", plan_.experts_released,
        plan_.experts_on_disk > 0 ? " to hold others" : ": it is full");
  }

  void decode() {
    const DecodePrediction& d = plan_.decode;
    if (plan_.shape == PlanShape::kHost) {
      return say("a token reads {} and waits {}", gib_text(model_.per_token().bytes),
                 2 * d.disk_s > d.seconds ? "mostly for the disk" : "for RAM");
    }
    const double cpu = d.handoff_s + std::max(d.cold_s, d.disk_s);
    if (cpu == 0) return say("a token waits for device memory alone");
    say("of a token, experts on the CPU ({}) and on the device ({}) overlap: {}", ms(cpu), ms(d.device_s),
        cpu > d.device_s ? "the CPU is the longer side" : "the device is the longer side");
  }

  void prefill() {
    const PrefillPrediction& p = plan_.prefill;
    if (plan_.ring_slots >= 2) {
      say("of a prompt, an expert gets {:.0f} tokens a pass; from {:.0f} on streaming beats the CPU: {} "
          "streamed, "
          "{} on the CPU",
          p.tokens_per_expert, p.break_even, p.layers.streamed, p.layers.cpu);
    } else if (plan_.shape != PlanShape::kHost && plan_.experts_resident < plan_.experts) {
      say("no room for two experts of {} to be streamed through: the CPU computes cold experts of prompts "
          "too",
          gib_text(plan_.slot_bytes));
    }
    if (plan_.shape == PlanShape::kDevice && plan_.pass_tokens < std::min(budgets_.context, kPassTokens))
      say("prompts pass {} tokens at a time, for want of device memory", plan_.pass_tokens);
    if (plan_.pass_tokens > kPassTokens)
      say("prompts pass up to {} tokens at a time: an expert crosses the link once for all of them",
          plan_.pass_tokens);
  }

  const ModelPlan& plan_;
  const ModelBytes& model_;
  const Budgets& budgets_;
  const bool heat_known_;
  std::vector<std::string> lines_;
};

}  // namespace

std::string plan_paragraph(const ModelPlan& plan) {
  std::string text = fmt::format("plan: {:.3g} tokens/s decoded", plan.decode.tokens_per_s);
  if (plan.decode_together.tokens > 1)
    text += fmt::format(
        " ({:.3g} of {} sequences together{})", plan.decode_together.tokens_per_s,
        plan.decode_together.tokens,
        plan.two_groups_from == 0 ? "" : fmt::format(", in two groups from {} on", plan.two_groups_from));
  text += fmt::format(", {:.3g} of a prompt", plan.prefill.tokens_per_s);
  for (const std::string& reason : plan.reasons) text += "; " + reason;
  return text;
}

std::vector<std::string> plan_reasons(const ModelPlan& plan, const ModelBytes& model, const Budgets& budgets,
                                      bool heat_known) {
  return Teller(plan, model, budgets, heat_known).tell();
}

}  // namespace moebius
