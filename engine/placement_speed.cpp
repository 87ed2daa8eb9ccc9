#include "engine/placement_speed.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace moebius {
namespace {

// Up to so many picks, a layer's time is the exact expectation over where they fall; beyond, or for several
// tokens, the longer of the two sides' means, from which they stray less.
constexpr int64_t kExactPicks = 16;

// Operations of a layer whose bytes do not count on a device: norms, rotations, attention over few positions,
// writes to the cache, copies to and from the host, SwiGLU, the sum of the slots.
constexpr double kSmallOps = 12;

// That an expert is picked by at least one of `tokens`.
double used_by(double chance, double tokens) {
  return -std::expm1(tokens * std::log1p(-std::min(chance, 1.0)));
}

}  // namespace

std::vector<PlacedExpert> experts_by_heat(const ModelBytes& model, const ExpertHeat& heat) {
  std::vector<PlacedExpert> experts;
  for (size_t l = 0; l < model.layers.size(); ++l) {
    const std::vector<ClassSize>& layer = model.layers[l].experts;
    const bool known = l < heat.size() && heat[l].size() == layer.size();
    double sum = 0;
    for (size_t e = 0; known && e < layer.size(); ++e) sum += std::max(heat[l][e], 0.0);
    const double real = static_cast<double>(layer.size());
    const double picked = real / (real + static_cast<double>(model.zero_experts));
    for (size_t e = 0; e < layer.size(); ++e) {
      const double share = picked * (known && sum > 0 ? std::max(heat[l][e], 0.0) / sum : 1 / real);
      experts.push_back({static_cast<int32_t>(l), static_cast<int32_t>(e),
                         static_cast<double>(layer[e].bytes), static_cast<double>(layer[e].weights), share,
                         std::min(1.0, static_cast<double>(model.top_k) * share)});
    }
  }
  std::stable_sort(experts.begin(), experts.end(), [](const PlacedExpert& a, const PlacedExpert& b) {
    return a.share != b.share ? a.share > b.share : a.index < b.index;
  });
  return experts;
}

double SpeedModel::time_of(double bytes, double weights, double tokens, bool on_device) const {
  const double GBs = on_device ? speeds.device_GBs : speeds.ram_GBs;
  const double GFLOPs = on_device ? speeds.device_GFLOPs : speeds.cpu_GFLOPs;
  return std::max(bytes / GBs, 2 * tokens * weights / GFLOPs) * 1e-9;
}

double SpeedModel::time_of(const ClassSize& size, double tokens, bool on_device) const {
  return time_of(static_cast<double>(size.bytes), static_cast<double>(size.weights), tokens, on_device);
}

double SpeedModel::expert_s(const PlacedExpert& e, double tokens, bool on_device) const {
  const double used = used_by(e.chance, tokens);
  // The tokens that it has are those of all, not of the passes that use it.
  return time_of(e.bytes * used, e.weights, tokens * e.chance, on_device);
}

double SpeedModel::attention_s(const LayerBytes& layer, int64_t tokens) const {
  const double n = static_cast<double>(tokens);
  double shared =
      time_of(static_cast<double>(adapter_bytes), static_cast<double>(adapter_bytes) / 4, n, hybrid());
  // On the CPU they stay in its caches.
  if (hybrid()) shared += n * static_cast<double>(model.activations_per_token) / speeds.device_GBs * 1e-9;
  double seconds = shared / static_cast<double>(model.layers.size());
  if (hybrid()) seconds += kSmallOps * speeds.device_op_us * 1e-6;
  for (const ClassSize* part : {&layer.attention, &layer.router, &layer.dense})
    seconds += time_of(*part, n, hybrid());
  return seconds;
}

double SpeedModel::head_s(int64_t tokens) const {
  return time_of(model.head, static_cast<double>(tokens), shape == PlanShape::kDevice) +
         (shape == PlanShape::kHostHead ? speeds.handoff_us * 1e-6 : 0);
}

std::vector<SpeedModel::LayerTimes> SpeedModel::shared_times(double tokens) const {
  std::vector<LayerTimes> layers(model.layers.size());
  for (size_t l = 0; l < layers.size(); ++l)
    layers[l].shared_s = time_of(model.layers[l].shared, tokens, hybrid());
  return layers;
}

double SpeedModel::picked_s(const LayerTimes& layer, double resident_s, double ram_s,
                            const Picks& disk) const {
  if (!hybrid()) return std::max(layer.shared_s + ram_s, disk.read_s) + disk.seconds;
  return std::max(layer.shared_s + resident_s,
                  speeds.handoff_us * 1e-6 + std::max(ram_s, disk.read_s) + disk.seconds);
}

double SpeedModel::layer_s(const LayerTimes& layer, int64_t tokens) const {
  if (hybrid() && layer.cold == 0) return layer.shared_s + layer.resident.seconds;
  if (tokens == 1 && model.top_k <= kExactPicks) return expected_s(layer);
  return picked_s(layer, layer.resident.seconds, layer.ram.seconds, layer.disk);
}

// Each of top_k picks falls on a resident expert, one in RAM, one on disk or a zero expert, by their shares.
double SpeedModel::expected_s(const LayerTimes& layer) const {
  const int k = static_cast<int>(model.top_k);
  const Picks zero{std::max(0.0, 1 - layer.resident.share - layer.ram.share - layer.disk.share)};
  const std::array<Picks, 4> places{layer.resident, layer.ram, layer.disk, zero};
  // Of n picks at a place: their probability but for k!, and their times.
  std::array<std::array<Picks, kExactPicks + 1>, 4> picks{};
  for (size_t p = 0; p < places.size(); ++p) {
    const Picks& all = places[p];
    const double part = all.share > 0 ? 1 / (k * all.share) : 0;
    picks[p][0].share = 1;
    for (size_t n = 1; n <= static_cast<size_t>(k); ++n) {
      const double of_all = part * static_cast<double>(n);
      picks[p][n] = {picks[p][n - 1].share * all.share / static_cast<double>(n), all.seconds * of_all,
                     all.read_s * of_all};
    }
  }
  double expected = 0, sum = 0;
  const auto last = [](const Picks& place, int n) { return place.share > 0 ? n : 0; };
  for (int zeros = 0; zeros <= last(zero, k); ++zeros) {
    for (int disk = 0; disk <= last(layer.disk, k - zeros); ++disk) {
      for (int ram = 0; ram <= last(layer.ram, k - zeros - disk); ++ram) {
        const Picks &hit = picks[0][static_cast<size_t>(k - zeros - disk - ram)],
                    &here = picks[1][static_cast<size_t>(ram)], &read = picks[2][static_cast<size_t>(disk)];
        const double weight =
            hit.share * here.share * read.share * picks[3][static_cast<size_t>(zeros)].share;
        expected += weight * picked_s(layer, hit.seconds, here.seconds, read);
        sum += weight;
      }
    }
  }
  return expected / sum;
}

DecodePrediction SpeedModel::decode(const std::vector<PlacedExpert>& experts, int64_t tokens) const {
  const double n = static_cast<double>(tokens);
  DecodePrediction p;
  p.tokens = tokens;
  const double cached = n * static_cast<double>(model.cache_per_token) * static_cast<double>(prompt);
  p.attention_s = time_of(cached, 0, 0, hybrid());
  for (const LayerBytes& layer : model.layers) p.attention_s += attention_s(layer, tokens);
  std::vector<LayerTimes> layers = shared_times(n);
  double picked = 0, hit = 0;
  for (const PlacedExpert& e : experts) {
    LayerTimes& layer = layers[static_cast<size_t>(e.layer)];
    const bool resident = e.resident && hybrid();
    Picks& place = resident ? layer.resident : e.in_ram ? layer.ram : layer.disk;
    const double seconds = expert_s(e, n, resident);
    const double disk_s = resident || e.in_ram ? 0 : e.bytes * used_by(e.chance, n) / speeds.disk_GBs * 1e-9;
    place.share += e.share;
    place.seconds += seconds, place.read_s += disk_s;
    picked += e.chance;
    layer.cold += !resident;
    (resident ? hit : p.cold_s) += resident ? e.chance : seconds;
    p.disk_s += disk_s;
  }
  for (const LayerTimes& layer : layers) {
    (hybrid() ? p.device_s : p.cold_s) += layer.shared_s;
    p.device_s += layer.resident.seconds;
    if (hybrid() && layer.cold > 0) p.handoff_s += speeds.handoff_us * 1e-6;
    p.experts_s += layer_s(layer, tokens);
  }
  const double missing = static_cast<double>(ram_missing) / speeds.disk_GBs * 1e-9;
  p.disk_s += missing;
  p.head_s = head_s(tokens);
  p.seconds = p.attention_s + p.experts_s + p.head_s + missing;
  p.tokens_per_s = n / p.seconds;
  p.hits = picked > 0 ? hit / picked : 0;
  return p;
}

double SpeedModel::decode_in_two_s(const std::vector<PlacedExpert>& experts, int64_t tokens) const {
  const DecodePrediction one = decode(experts, tokens - tokens / 2), two = decode(experts, tokens / 2);
  if (one.handoff_s + one.cold_s + one.disk_s == 0) return std::numeric_limits<double>::infinity();
  const auto on_device = [](const DecodePrediction& p) { return p.attention_s + p.device_s + p.head_s; };
  const auto on_cpu = [](const DecodePrediction& p) { return p.handoff_s + std::max(p.cold_s, p.disk_s); };
  const double first_layer_s = one.seconds / static_cast<double>(model.layers.size());
  return first_layer_s + std::max(on_device(one) + on_device(two), on_cpu(one) + on_cpu(two));
}

std::vector<double> SpeedModel::decode_by_residents(const std::vector<PlacedExpert>& experts) const {
  std::vector<PlacedExpert> none = experts;
  std::vector<LayerTimes> layers = shared_times(1);
  for (PlacedExpert& e : none) {
    e.resident = false, e.in_ram = true;
    LayerTimes& layer = layers[static_cast<size_t>(e.layer)];
    ++layer.cold;
    layer.ram.share += e.share;
    layer.ram.seconds += expert_s(e, 1, false);
  }
  std::vector<double> seconds{decode(none, 1).seconds};
  if (!hybrid()) return seconds;
  for (const PlacedExpert& e : experts) {
    LayerTimes& layer = layers[static_cast<size_t>(e.layer)];
    const double before = layer_s(layer, 1);
    layer.resident.share += e.share;
    layer.resident.seconds += expert_s(e, 1, true);
    --layer.cold;
    layer.ram.share = std::max(0.0, layer.ram.share - e.share);
    layer.ram.seconds = std::max(0.0, layer.ram.seconds - expert_s(e, 1, false));
    if (layer.cold == 0) layer.ram = {};
    seconds.push_back(seconds.back() + layer_s(layer, 1) - before);
  }
  return seconds;
}

PrefillPrediction SpeedModel::pass_of(const std::vector<PlacedExpert>& experts, int64_t tokens,
                                      LayerFrame frame) const {
  PrefillPrediction p;
  p.prompt = prompt, p.pass = tokens;
  const double n = static_cast<double>(tokens), all = static_cast<double>(prompt);
  const double pairs = n * all / 2;  // a token looks back at half of the prompt
  const double GFLOPs = hybrid() ? speeds.device_GFLOPs : speeds.cpu_GFLOPs;
  const double pairs_s =
      pairs * model.operations_per_pair / GFLOPs * 1e-9 / static_cast<double>(model.layers.size());
  std::vector<std::vector<ExpertLoad>> loads(model.layers.size());
  double bytes = 0, weights = 0, picked = 0;
  for (const PlacedExpert& e : experts) {
    loads[static_cast<size_t>(e.layer)].push_back(
        {n * e.chance, used_by(e.chance, n), e.bytes, e.weights, e.resident && hybrid(), e.in_ram});
    bytes += e.bytes, weights += e.weights, picked += n * e.chance;
  }
  const double most_ahead_s = frame.ahead_s;
  if (hybrid()) frame.bring(n, static_cast<double>(model.vector_bytes), speeds);
  for (size_t l = 0; l < loads.size(); ++l) {
    const LayerBytes& layer = model.layers[l];
    frame.before_s = attention_s(layer, tokens) + pairs_s;
    p.before_s += frame.before_s;
    frame.ahead_s = std::min(most_ahead_s, frame.before_s);
    (hybrid() ? frame.device_s : frame.cpu_s) = time_of(layer.shared, n, hybrid());
    p.layers += plan_layer(loads[l], speeds, frame);
  }
  const double count = static_cast<double>(experts.size());
  if (count > 0) p.tokens_per_expert = picked / count;
  if (weights > 0)
    p.break_even = break_even_tokens(bytes / count, weights / count, frame.vector_bytes, speeds);
  p.seconds = p.layers.seconds + static_cast<double>(ram_missing) / speeds.disk_GBs * 1e-9;
  return p;
}

PrefillPrediction SpeedModel::prefill(const std::vector<PlacedExpert>& experts, int64_t pass,
                                      const LayerFrame& frame) const {
  PrefillPrediction p = pass_of(experts, std::clamp<int64_t>(pass, 1, prompt), frame);
  p.seconds *= static_cast<double>(prompt / p.pass);
  if (const int64_t rest = prompt % p.pass; rest > 0) p.seconds += pass_of(experts, rest, frame).seconds;
  p.seconds += time_of(model.head, 1, shape == PlanShape::kDevice);
  p.tokens_per_s = static_cast<double>(prompt) / p.seconds;
  return p;
}

}  // namespace moebius
