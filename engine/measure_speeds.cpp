#include "engine/measure_speeds.h"

#include <algorithm>
#include <chrono>

#include "engine/expert_store.h"
#include "engine/uploader.h"
#include "engine/workspace.h"

namespace moebius {
namespace {

constexpr int64_t kManyTokens = 64;
constexpr int kRuns = 3;

double weights_of(const ExpertWeights& e) {
  return static_cast<double>(e.gate.rows * e.gate.cols + e.up.rows * e.up.cols + e.down.rows * e.down.cols);
}

// The best of some runs, so that what else the machine does counts less.
template <class Run>
double seconds_of(const Run& run) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  for (int i = 0; i < kRuns; ++i) {
    const Clock::time_point start = Clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return std::max(best, 1e-9);
}

struct Tokens {
  Tensor h, ids, slots;
};

Tokens lay_out(const ModelConfig& c, int64_t n, Arena& arena) {
  return {arena.take(DType::kF32, {n, c.hidden}), arena.take(DType::kI32, {n, c.moe.top_k}),
          arena.take(DType::kF32, {n, c.moe.top_k, c.hidden})};
}

// The experts of a layer with only the first `count`, which have no adapters.
std::vector<ExpertWeights> first_alone(const Weights& weights, int64_t count) {
  const auto moe = std::ranges::find_if(weights.layers, [](const auto& l) { return !l.experts.empty(); });
  std::vector<ExpertWeights> experts(moe->experts.size());
  for (size_t e = 0; e < static_cast<size_t>(count); ++e) {
    experts[e] = moe->experts[e];
    experts[e].gate.lora = experts[e].up.lora = experts[e].down.lora = nullptr;
  }
  return experts;
}

// Every token has the first `count` experts, one a slot.
void choose_first(const Tensor& ids, int64_t count) {
  const int64_t k = ids.shape[1];
  for (int64_t i = 0; i < ids.numel(); ++i) ids.i32()[i] = i % k < count ? static_cast<int32_t>(i % k) : -1;
}

// As many experts as a token picks, or as the device has memory for beside these tokens.
Result<Buffer> take_memory(const std::vector<ExpertWeights>& experts, int64_t tokens_bytes, Backend& device,
                           int64_t& count) {
  for (;; count = (count + 1) / 2) {
    int64_t bytes = tokens_bytes;
    for (int64_t e = 0; e < count; ++e) bytes += expert_bytes(experts[static_cast<size_t>(e)]);
    Result<Buffer> memory = device.alloc(static_cast<size_t>(bytes));
    if (memory.ok() || count == 1) return memory;
  }
}

}  // namespace

Result<MachineSpeeds> measure_speeds(const ModelConfig& config, const Weights& weights, Backend& host,
                                     Backend& device) {
  Arena measured(nullptr);
  lay_out(config, kManyTokens, measured);
  const int64_t tokens_bytes = measured.used();
  int64_t count = std::min(config.moe.top_k, config.moe.n_experts);
  MOEBIUS_ASSIGN(const Buffer on_device,
                 take_memory(first_alone(weights, count), tokens_bytes, device, count));
  MOEBIUS_ASSIGN(const Buffer on_host, Buffer::host(static_cast<size_t>(tokens_bytes)));
  MOEBIUS_ASSIGN(const Buffer pinned, device.alloc_pinned(static_cast<size_t>(tokens_bytes)));
  const std::vector<ExpertWeights> here = first_alone(weights, count);
  std::vector<ExpertWeights> there;
  Status status;
  const auto wait = [&] {
    if (status.ok()) status = device.sync();
  };
  int64_t expert_bytes_sum = 0;
  const double link_s = seconds_of([&] {
    there = here;
    Uploader uploader(on_device.as<char>(), &device);
    for (int64_t e = 0; e < count; ++e) {
      ExpertWeights& expert = there[static_cast<size_t>(e)];
      uploader.put(expert.gate), uploader.put(expert.up), uploader.put(expert.down);
    }
    expert_bytes_sum = uploader.used();
    wait();
  });
  Arena device_arena(on_device.as<char>() + expert_bytes_sum, on_device.space()), host_arena(on_host),
      pinned_arena(pinned.as<char>(), pinned.space());
  const Tokens d = lay_out(config, kManyTokens, device_arena), h = lay_out(config, kManyTokens, host_arena),
               p = lay_out(config, kManyTokens, pinned_arena);
  const int64_t experts = std::ssize(here);
  choose_first(h.ids, count), choose_first(p.ids, count);
  device.copy(p.ids, d.ids);
  const auto device_s = [&](int64_t n) {
    return seconds_of([&] {
      device.expert_ffn({d.h.rows(0, n), there.data(), experts, d.ids.rows(0, n), d.slots.rows(0, n)});
      wait();
    });
  };
  const auto host_s = [&](int64_t n) {
    return seconds_of([&] {
      host.expert_ffn({h.h.rows(0, n), here.data(), experts, h.ids.rows(0, n), h.slots.rows(0, n)});
    });
  };
  const double handoff_s = seconds_of([&] {
    device.copy(d.h.rows(0, 1), p.h.rows(0, 1));
    wait();
    device.copy(p.h.rows(0, 1), d.h.rows(0, 1));
    wait();
  });
  double weights_sum = 0;
  for (int64_t e = 0; e < count; ++e) weights_sum += weights_of(here[static_cast<size_t>(e)]);
  const double bytes = static_cast<double>(expert_bytes_sum);
  const double operations = 2 * weights_sum * static_cast<double>(kManyTokens);
  const MachineSpeeds speeds{1e-9 * bytes / device_s(1),
                             1e-9 * operations / device_s(kManyTokens),
                             1e-9 * bytes / link_s,
                             1e-9 * bytes / host_s(1),
                             1e-9 * operations / host_s(kManyTokens),
                             kAssumedDiskGBs,
                             1e6 * handoff_s};
  MOEBIUS_TRY(status);
  return speeds;
}

}  // namespace moebius
