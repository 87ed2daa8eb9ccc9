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

// Tokens whose every slot is the first expert's.
struct Tokens {
  Tensor h, ids, slots;
};

Tokens lay_out(const ModelConfig& c, int64_t n, Arena& arena) {
  return {arena.take(DType::kF32, {n, c.hidden}), arena.take(DType::kI32, {n, c.moe.top_k}),
          arena.take(DType::kF32, {n, c.moe.top_k, c.hidden})};
}

// The experts of a layer with only the first, which has no adapter.
std::vector<ExpertWeights> first_alone(const Weights& weights) {
  const auto moe = std::ranges::find_if(weights.layers, [](const auto& l) { return !l.experts.empty(); });
  std::vector<ExpertWeights> experts(moe->experts.size());
  experts[0] = moe->experts[0];
  experts[0].gate.lora = experts[0].up.lora = experts[0].down.lora = nullptr;
  return experts;
}

}  // namespace

Result<MachineSpeeds> measure_speeds(const ModelConfig& config, const Weights& weights, Backend& host,
                                     Backend& device) {
  const std::vector<ExpertWeights> here = first_alone(weights);
  std::vector<ExpertWeights> there = here;
  Arena measured(nullptr);
  lay_out(config, kManyTokens, measured);
  const int64_t tokens_bytes = measured.used(), expert = expert_bytes(here[0]);
  MOEBIUS_ASSIGN(const Buffer on_device, device.alloc(static_cast<size_t>(expert + tokens_bytes)));
  MOEBIUS_ASSIGN(const Buffer on_host, Buffer::host(static_cast<size_t>(tokens_bytes)));
  MOEBIUS_ASSIGN(const Buffer pinned, device.alloc_pinned(static_cast<size_t>(tokens_bytes)));
  Status status;
  const auto wait = [&] {
    if (status.ok()) status = device.sync();
  };
  const double link_s = seconds_of([&] {
    there[0] = here[0];
    Uploader uploader(on_device.as<char>(), &device);
    uploader.put(there[0].gate), uploader.put(there[0].up), uploader.put(there[0].down);
    wait();
  });
  Arena device_arena(on_device.as<char>() + expert, on_device.space()), host_arena(on_host),
      pinned_arena(pinned.as<char>(), pinned.space());
  const Tokens d = lay_out(config, kManyTokens, device_arena), h = lay_out(config, kManyTokens, host_arena),
               p = lay_out(config, kManyTokens, pinned_arena);
  const int64_t count = std::ssize(here);
  const auto device_s = [&](int64_t n) {
    return seconds_of([&] {
      device.expert_ffn({d.h.rows(0, n), there.data(), count, d.ids.rows(0, n), d.slots.rows(0, n)});
      wait();
    });
  };
  const auto host_s = [&](int64_t n) {
    return seconds_of([&] {
      host.expert_ffn({h.h.rows(0, n), here.data(), count, h.ids.rows(0, n), h.slots.rows(0, n)});
    });
  };
  const double handoff_s = seconds_of([&] {
    device.copy(d.h.rows(0, 1), p.h.rows(0, 1));
    wait();
    device.copy(p.h.rows(0, 1), d.h.rows(0, 1));
    wait();
  });
  const double bytes = static_cast<double>(expert), many = static_cast<double>(kManyTokens);
  const double operations = 2 * weights_of(here[0]) * many * static_cast<double>(config.moe.top_k);
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
