#include "tools/plan_finetune.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "models/file_io.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

std::string targets_of(const TrainingShape& shape) {
  return shape.lora.targets.empty() ? "all matrices but the router"
                                    : fmt::format("{}", fmt::join(shape.lora.targets, ", "));
}

std::string shape_text(const TrainingReport& r) {
  const TrainingPlan& p = r.plan;
  if (!p.use_device) return "on the CPU";
  std::string text = fmt::format("{} of {} experts on the device", p.experts_resident, p.experts);
  if (p.ring_places > 0) text += fmt::format(", {} places to stream others through", p.ring_places);
  text += p.head_on_device ? ", the head there" : ", the head on the CPU";
  return text + (p.park ? ", inputs of layers in RAM" : "");
}

// All zero without experts.
ordered_json layer_json(const LayerPlan& layer) {
  return {{"link_s", layer.link_s},
          {"device_s", layer.device_s},
          {"cpu_s", layer.cpu_s},
          {"experts_resident", layer.resident},
          {"experts_streamed", layer.streamed},
          {"experts_cpu", layer.cpu}};
}

}  // namespace

Status plan_finetune(TrainingReport& r) {
  r.budgets = {r.model.budgets.device_bytes, r.model.budgets.ram_bytes};
  r.shape.sequence = std::min(r.shape.sequence, r.shape.micro_tokens);
  r.shape.shortest = r.shape.sequence;
  MOEBIUS_ASSIGN(r.bytes, training_bytes(r.model.config, r.model.bytes, r.shape));
  r.plan = plan_training(r.bytes, r.shape, machine_speeds(r.model.speeds), r.budgets);
  MOEBIUS_ASSIGN(r.limits, training_limits(r.model.config, r.model.bytes, r.shape, r.budgets));
  return Status();
}

ordered_json training_json(const TrainingReport& r) {
  const TrainingPlan& p = r.plan;
  return {{"model", r.model.model},
          {"micro_tokens", r.shape.micro_tokens},
          {"rank", r.shape.lora.rank},
          {"targets", r.shape.lora.targets},
          {"trained_numbers", r.bytes.gradients() / 4},
          {"budgets", {{"gpu_memory_bytes", r.budgets.device_bytes}, {"ram_bytes", r.budgets.ram_bytes}}},
          {"speeds", speeds_json(r.model.speeds)},
          {"use_device", p.use_device},
          {"gpu_memory_needed_bytes", p.device_needed},
          {"gpu_memory_for_all_bytes", p.device_for_all},
          {"classes", rows_json(p.rows)},
          {"device_bytes", p.device_used},
          {"ram_bytes", p.ram_used},
          {"disk_bytes", disk_bytes(p.rows)},
          {"ram_missing_bytes", p.ram_missing},
          {"experts", {{"all", p.experts}, {"resident", p.experts_resident}}},
          {"ring_slots", p.ring_places},
          {"forward_s", p.forward_s},
          {"backward_s", p.backward_s},
          {"head_s", p.head_s},
          {"optimizer_s", p.optimizer_s},
          {"of_a_layers_forward", layer_json(p.layers)},
          {"tokens_per_s", p.tokens_per_s},
          {"most_micro_tokens", r.limits.micro_tokens},
          {"highest_rank", r.limits.rank},
          {"reasons", p.reasons},
          {"notes", r.model.notes}};
}

std::string training_table(const TrainingReport& r) {
  const TrainingPlan& p = r.plan;
  std::string text =
      fmt::format("{}: fine-tuning {:.1f} M numbers, rank {} on {}; micro-batches of {} tokens\n{}\n",
                  printable(r.model.model, 4096), static_cast<double>(r.bytes.gradients()) / 4e6,
                  r.shape.lora.rank, targets_of(r.shape), r.shape.micro_tokens, shape_text(r));
  text += rows_text(p.rows, r.budgets.device_bytes, r.budgets.ram_bytes) + "\n";
  text += fmt::format(
      "{:.1f} tok/s: of a micro-batch forward {} ms, backward {}, head {}; of a step optimizer {}\n",
      p.tokens_per_s, ms_text(p.forward_s), ms_text(p.backward_s), ms_text(p.head_s), ms_text(p.optimizer_s));
  if (p.layers.seconds > 0) {
    text += fmt::format("experts of a layer's forward: {} resident, {} streamed, {} on the CPU; ",
                        p.layers.resident, p.layers.streamed, p.layers.cpu);
    text += fmt::format("link {} ms, device {}, CPU {}\n", ms_text(p.layers.link_s),
                        ms_text(p.layers.device_s), ms_text(p.layers.cpu_s));
  }
  text += fmt::format("fits: micro-batches up to {} tokens, or a rank up to {}\n\n", r.limits.micro_tokens,
                      r.limits.rank);
  for (const std::string& reason : p.reasons) text += fmt::format("- {}\n", reason);
  for (const std::string& note : r.model.notes) text += fmt::format("- {}\n", note);
  return text + speeds_text(r.model.speeds);
}

}  // namespace moebius
