#include "tools/plan_text.h"

#include <algorithm>

#include <fmt/format.h>

#include "models/file_io.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

const char* shape_name(PlanShape shape) {
  switch (shape) {
    case PlanShape::kHost:
      return "host";
    case PlanShape::kHostHead:
      return "hybrid, head on the host";
    case PlanShape::kDevice:
      return "hybrid";
  }
  return "";
}

ordered_json decode_json(const DecodePrediction& d) {
  return {{"sequences", d.tokens},
          {"groups", d.groups},
          {"tokens_per_s", d.tokens_per_s},
          {"seconds", d.seconds},
          {"attention_s", d.attention_s},
          {"device_s", d.device_s},
          {"handoff_s", d.handoff_s},
          {"cold_s", d.cold_s},
          {"cpu_s", d.handoff_s + d.cold_s},
          {"disk_s", d.disk_s},
          {"experts_s", d.experts_s},
          {"head_s", d.head_s},
          {"hits", d.hits}};
}

double vectors_s(const PrefillPrediction& p) { return p.layers.ask_s + p.layers.answer_s; }

ordered_json prefill_json(const PrefillPrediction& p) {
  return {{"prompt", p.prompt},
          {"pass", p.pass},
          {"tokens_per_s", p.tokens_per_s},
          {"seconds", p.seconds},
          {"of_a_pass",
           {{"seconds", p.layers.seconds},
            {"attention_s", p.before_s},
            {"link_s", p.layers.link_s},
            {"device_s", p.layers.device_s},
            {"cpu_s", p.layers.cpu_s},
            {"disk_s", p.layers.disk_s},
            {"vectors_s", vectors_s(p)},
            {"experts_resident", p.layers.resident},
            {"experts_streamed", p.layers.streamed},
            {"experts_cpu", p.layers.cpu}}},
          {"tokens_per_expert", p.tokens_per_expert},
          {"break_even_tokens", p.break_even}};
}

ordered_json residents_by_layer(const ModelPlan& plan) {
  ordered_json out = ordered_json::array();
  for (const std::vector<bool>& layer : plan.resident)
    out.push_back(std::count(layer.begin(), layer.end(), true));
  return out;
}

}  // namespace

std::string rows_text(const std::vector<PlaceRow>& rows, int64_t device_bytes, int64_t ram_bytes) {
  int64_t device = 0, ram = 0;
  size_t width = 18;
  for (const PlaceRow& row : rows) {
    device += row.device, ram += row.ram;
    width = std::max(width, row.name.size() + 1);
  }
  const bool large = std::max(device, ram) >= int64_t{1} << 30;
  const auto size = [&](int64_t bytes) {
    return bytes == 0 ? "" : fmt::format("{:.2f}", static_cast<double>(bytes) / (large ? 1 << 30 : 1 << 20));
  };
  std::string text = "\n";
  const auto line = [&](const std::string& name, const std::string& on_device, const std::string& in_ram,
                        const std::string& on_disk) {
    std::string row = fmt::format("{:<{}}{:>10}{:>10}{:>10}", name, width, on_device, in_ram, on_disk);
    row.erase(row.find_last_not_of(' ') + 1);
    text += row + "\n";
  };
  line(large ? "GiB" : "MiB", "device", "RAM", "disk");
  for (const PlaceRow& row : rows) line(row.name, size(row.device), size(row.ram), size(row.disk));
  line("sum", size(device), size(ram), size(disk_bytes(rows)));
  line("given", device_bytes > 0 ? size(device_bytes) : "none", size(ram_bytes), "");
  return text;
}

int64_t disk_bytes(const std::vector<PlaceRow>& rows) {
  int64_t bytes = 0;
  for (const PlaceRow& row : rows) bytes += row.disk;
  return bytes;
}

std::string speeds_text(const Speeds& speeds) {
  std::string text = "\n";
  for (const Speed& s : speeds) text += fmt::format("{:<18}{:>10.4g}  {}\n", s.what, s.value, s.source);
  return text;
}

std::string ms_text(double seconds) {
  const double value = seconds * 1e3;
  return value < 10 ? fmt::format("{:.2f}", value) : fmt::format("{:.{}f}", value, value < 100 ? 1 : 0);
}

nlohmann::ordered_json rows_json(const std::vector<PlaceRow>& rows) {
  ordered_json out = ordered_json::array();
  for (const PlaceRow& row : rows) {
    out.push_back({{"class", row.name},
                   {"device_bytes", row.device},
                   {"ram_bytes", row.ram},
                   {"disk_bytes", row.disk}});
  }
  return out;
}

nlohmann::ordered_json speeds_json(const Speeds& speeds) {
  ordered_json out = ordered_json::object();
  for (const Speed& s : speeds) out[s.name] = {{"value", s.value}, {"source", s.source}};
  return out;
}

namespace {

std::string decode_text(const PlanReport& r) {
  const DecodePrediction &d = r.plan.decode, &all = r.plan.decode_together;
  const bool hybrid = r.plan.shape != PlanShape::kHost;
  std::string text =
      fmt::format("decode  {:>9.2f} tok/s  {} ms a token after {}: attention {}, ", d.tokens_per_s,
                  ms_text(d.seconds), r.budgets.prompt, ms_text(d.attention_s));
  text += hybrid ? fmt::format("experts {} (device {}; CPU {}", ms_text(d.experts_s), ms_text(d.device_s),
                               ms_text(d.handoff_s + d.cold_s))
                 : fmt::format("experts {} (CPU {}", ms_text(d.experts_s), ms_text(d.cold_s));
  if (d.disk_s > 0) text += fmt::format(", disk {}", ms_text(d.disk_s));
  text += fmt::format("), head {}\n", ms_text(d.head_s));
  if (all.tokens > 1)
    text += fmt::format("        {:>9.2f} tok/s  of {} sequences together{}\n", all.tokens_per_s, all.tokens,
                        all.groups == 2 ? ", in two groups: CPU and device at once" : "");
  return text;
}

std::string prefill_text(const PlanReport& r) {
  const PrefillPrediction& p = r.plan.prefill;
  std::string text =
      fmt::format("prefill {:>9.1f} tok/s  {:.3g} s for {} tokens; a pass of {}: attention {} ms, ",
                  p.tokens_per_s, p.seconds, p.prompt, p.pass, ms_text(p.before_s));
  if (r.plan.shape != PlanShape::kHost)
    text += fmt::format("link {}, device {}, ", ms_text(p.layers.link_s), ms_text(p.layers.device_s));
  text += fmt::format("CPU {}", ms_text(p.layers.cpu_s));
  if (p.layers.disk_s > 0) text += fmt::format(", disk {}", ms_text(p.layers.disk_s));
  if (vectors_s(p) > 0)
    text +=
        fmt::format("\n{:24}then, of tokens on their way to the CPU and back {}", "", ms_text(vectors_s(p)));
  return text + "\n";
}

}  // namespace

ordered_json plan_json(const PlanReport& r) {
  const ModelPlan& p = r.plan;
  const ClassSize total = r.bytes.total(), active = r.bytes.per_token();
  return {{"model", r.model},
          {"model_type", r.config.model_type},
          {"layers", r.config.layers},
          {"format", format_name(r.bytes.format)},
          {"weights", total.weights},
          {"bytes", total.bytes},
          {"active_weights_per_token", active.weights},
          {"active_bytes_per_token", active.bytes},
          {"cache_bytes_per_token", r.bytes.cache_per_token},
          {"budgets",
           {{"gpu_memory_bytes", r.budgets.device_bytes},
            {"ram_bytes", r.budgets.ram_bytes},
            {"context", r.budgets.context},
            {"parallel", r.budgets.sequences},
            {"cache_tokens",
             r.budgets.cache_tokens > 0 ? r.budgets.cache_tokens : r.budgets.context * r.budgets.sequences},
            {"prompt", r.budgets.prompt},
            {"adapter_bytes", r.budgets.adapter_bytes}}},
          {"speeds", speeds_json(r.speeds)},
          {"shape", shape_name(p.shape)},
          {"classes", rows_json(p.rows)},
          {"device_bytes", p.device_used},
          {"ram_bytes", p.ram_used},
          {"disk_bytes", disk_bytes(p.rows)},
          {"ram_missing_bytes", p.ram_missing},
          {"experts",
           {{"all", p.experts},
            {"resident", p.experts_resident},
            {"resident_released_from_ram", p.experts_released},
            {"on_disk", p.experts_on_disk},
            {"resident_by_layer", residents_by_layer(p)}}},
          {"ring_slots", p.ring_slots},
          {"slot_bytes", p.slot_bytes},
          {"pass_tokens", p.pass_tokens},
          {"gpu_memory_needed_bytes", p.device_needed},
          {"gpu_memory_for_all_bytes", p.device_for_all},
          {"ram_for_all_bytes", p.ram_for_all},
          {"context_that_fits", p.context_that_fits},
          {"decode", decode_json(p.decode)},
          {"decode_together", decode_json(p.decode_together)},
          {"two_groups_from", p.two_groups_from},
          {"prefill", prefill_json(p.prefill)},
          {"reasons", p.reasons},
          {"notes", r.notes}};
}

std::string plan_table(const PlanReport& r) {
  const ClassSize total = r.bytes.total(), active = r.bytes.per_token();
  const auto billions = [](int64_t n) { return static_cast<double>(n) * 1e-9; };
  std::string text =
      fmt::format("{}: {}, {} layers, {} experts in {}\n", printable(r.model, 4096), r.config.model_type,
                  r.config.layers, r.plan.experts, format_name(r.bytes.format));
  text += fmt::format("{:.2f} G weights, {}; a token reads {:.2f} G, {}; {} x {} tokens of context",
                      billions(total.weights), gib_text(total.bytes), billions(active.weights),
                      gib_text(active.bytes), r.budgets.sequences, r.budgets.context);
  text += r.budgets.cache_tokens > 0 ? fmt::format(", {} cached\n", r.budgets.cache_tokens) : "\n";
  text += rows_text(r.plan.rows, r.budgets.device_bytes, r.budgets.ram_bytes) + "\n" + decode_text(r) +
          prefill_text(r) + "\n";
  for (const std::string& reason : r.plan.reasons) text += fmt::format("- {}\n", reason);
  for (const std::string& note : r.notes) text += fmt::format("- {}\n", note);
  return text + speeds_text(r.speeds);
}

}  // namespace moebius
