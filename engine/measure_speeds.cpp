#include "engine/measure_speeds.h"

#include <algorithm>
#include <chrono>
#include <span>

#include "engine/expert_store.h"
#include "engine/uploader.h"
#include "engine/workspace.h"

namespace moebius {
namespace {

constexpr int64_t kManyTokens = 64;     // of the host's products
constexpr int64_t kDeviceTokens = 512;  // of the device's: with fewer it waits for the weights instead
constexpr int kRuns = 3;
constexpr int kManySmall = 64;
constexpr double kMostBeside = 1000;                     // calls of the device beside the host's
constexpr int64_t kMoreThanACache = int64_t{256} << 20;  // bytes

using Clock = std::chrono::steady_clock;

// The best of some runs, so that what else the machine does counts less; before and after each of them
// something that does not count.
template <class Run, class Before, class After>
double seconds_of(const Run& run, const Before& before, const After& after) {
  double best = 1e9;
  for (int i = 0; i < kRuns; ++i) {
    before();
    const Clock::time_point start = Clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
    after();
  }
  return std::max(best, 1e-9);
}
template <class Run>
double seconds_of(const Run& run) {
  const auto nothing = [] {};
  return seconds_of(run, nothing, nothing);
}

struct Tokens {
  Tensor h, ids, slots;
};

Tokens lay_out_tokens(const ModelConfig& c, int64_t n, Arena& arena) {
  return {arena.take(DType::kF32, {n, c.hidden}), arena.take(DType::kI32, {n, c.moe.top_k}),
          arena.take(DType::kF32, {n, c.moe.top_k, c.hidden})};
}

// The experts of a layer, without their adapters.
std::vector<ExpertWeights> plain_experts(const Weights& weights) {
  const auto moe = std::ranges::find_if(weights.layers, [](const auto& l) { return !l.experts.empty(); });
  std::vector<ExpertWeights> experts = moe->experts;
  for (ExpertWeights& e : experts) e.gate.lora = e.up.lora = e.down.lora = nullptr;
  return experts;
}

// Every token has the `count` experts from `first` on, one a slot.
void choose(const Tensor& ids, int64_t first, int64_t count) {
  const int64_t k = ids.shape[1];
  for (int64_t i = 0; i < ids.numel(); ++i)
    ids.i32()[i] = i % k < count ? static_cast<int32_t>(first + i % k) : -1;
}

class SpeedProbe {
 public:
  SpeedProbe(const ModelConfig& config, const Weights& weights, Backend& host, Backend& device)
      : config_(config), host_(host), device_(device), here_(plain_experts(weights)) {}

  // As many experts as a token picks, or as the device has memory for beside some tokens.
  Status open() {
    count_ = std::min(config_.moe.top_k, std::ssize(here_));
    for (;;) {
      Result<Buffer> memory =
          device_.alloc(static_cast<size_t>(bytes_of_tokens(device_tokens_) + chosen_bytes()));
      if (!memory.ok() && device_tokens_ > kManyTokens) {
        device_tokens_ = kManyTokens;
      } else if (!memory.ok() && count_ > 1) {
        count_ = (count_ + 1) / 2;
      } else {
        MOEBIUS_ASSIGN(on_device_, std::move(memory));
        break;
      }
    }
    MOEBIUS_ASSIGN(on_host_, Buffer::host(static_cast<size_t>(bytes_of_tokens(kManyTokens))));
    Arena host(on_host_), device(on_device_.as<char>() + chosen_bytes(), on_device_.space());
    h_ = lay_out_tokens(config_, kManyTokens, host);
    d_ = lay_out_tokens(config_, device_tokens_, device);
    const auto lay_out_pinned = [&](Arena& arena) {  // all that crosses to and fro
      p_.h = arena.take(DType::kF32, {1, config_.hidden});
      p_.ids = arena.take(DType::kI32, {device_tokens_, config_.moe.top_k});
    };
    Arena measured(nullptr);
    lay_out_pinned(measured);
    MOEBIUS_ASSIGN(pinned_, device_.alloc_pinned(static_cast<size_t>(measured.used())));
    Arena pinned(pinned_.as<char>(), pinned_.space());
    lay_out_pinned(pinned);
    choose(p_.ids, 0, count_);
    device_.copy(p_.ids, d_.ids);
    return device_.sync();
  }

  Result<MachineSpeeds> measure() {
    const double link_s = seconds_of([&] { upload(); });  // before the device computes what was brought
    const double bytes = static_cast<double>(chosen_bytes());
    double weights = 0;
    for (const ExpertWeights& e : chosen()) weights += weights_of(e);
    const auto operations = [&](int64_t tokens) { return 2 * weights * static_cast<double>(tokens); };
    const double device_GBs = 1e-9 * bytes / device_s(1);
    const MachineSpeeds speeds{device_GBs,
                               1e-9 * operations(device_tokens_) / device_products_s(device_GBs),
                               1e-9 * bytes / link_s,
                               1e-9 * bytes / host_token_s(),
                               1e-9 * operations(kManyTokens) / host_s(0, kManyTokens),
                               kAssumedDiskGBs,
                               1e6 * handoff_s(),
                               1e6 * small_op_s()};
    MOEBIUS_TRY(status_);
    return speeds;
  }

 private:
  std::span<const ExpertWeights> chosen() const {
    return std::span(here_).first(static_cast<size_t>(count_));
  }
  int64_t bytes_of_tokens(int64_t n) const {
    Arena measured(nullptr);
    lay_out_tokens(config_, n, measured);
    return measured.used();
  }
  int64_t chosen_bytes() const {
    int64_t bytes = 0;
    for (const ExpertWeights& e : chosen()) bytes += expert_bytes(e);
    return bytes;
  }
  void wait() {
    if (status_.ok()) status_ = device_.sync();
  }
  void upload() {
    there_ = std::vector<ExpertWeights>(here_.size());
    Uploader uploader(on_device_.as<char>(), &device_);
    for (size_t e = 0; e < static_cast<size_t>(count_); ++e) {
      there_[e] = here_[e];
      uploader.put(there_[e].gate), uploader.put(there_[e].up), uploader.put(there_[e].down);
    }
    wait();
  }
  void compute_there(int64_t n) {
    const int64_t experts = std::ssize(there_);
    device_.expert_ffn({d_.h.rows(0, n), there_.data(), experts, d_.ids.rows(0, n), d_.slots.rows(0, n)});
  }
  double device_s(int64_t n) {
    return seconds_of([&] {
      compute_there(n);
      wait();
    });
  }
  // Of many tokens' products, but for the way of their rows: plans count it apart, at GBs.
  double device_products_s(double GBs) {
    const int64_t rows = device_tokens_ * (1 + count_);  // read and written
    const double all_s = device_s(device_tokens_),
                 rows_s = 1e-9 * static_cast<double>(4 * rows * config_.hidden) / GBs;
    return std::max(all_s - rows_s, all_s / 4);
  }
  void compute_here(int64_t first, int64_t n) {
    choose(h_.ids, first, count_);
    const int64_t experts = std::ssize(here_);
    host_.expert_ffn({h_.h.rows(0, n), here_.data(), experts, h_.ids.rows(0, n), h_.slots.rows(0, n)});
  }
  double host_s(int64_t first, int64_t n) {
    return seconds_of([&] { compute_here(first, n); });
  }
  // Of one token's experts from memory: of more experts in turn than a cache holds, once they are mapped;
  // while the device computes too, as it does in a step, for both may be held up by the other.
  double host_token_s() {
    const int64_t sets = std::clamp<int64_t>(kMoreThanACache / std::max<int64_t>(1, chosen_bytes()), 1,
                                             std::ssize(here_) / count_);
    const auto all = [&] {
      for (int64_t set = 0; set < sets; ++set) compute_here(set * count_, 1);
    };
    all();
    const double beside = std::min(1.5 * seconds_of(all) / device_s(1), kMostBeside);
    const auto occupy = [&] {
      for (int i = 0; i < beside; ++i) compute_there(1);
    };
    return seconds_of(all, occupy, [&] { wait(); }) / static_cast<double>(sets);
  }
  double handoff_s() {
    return seconds_of([&] {
      device_.copy(d_.h.rows(0, 1), p_.h.rows(0, 1));
      wait();
      device_.copy(p_.h.rows(0, 1), d_.h.rows(0, 1));
      wait();
    });
  }

  // Of a norm of one token, of many that are queued in one go.
  double small_op_s() {
    const Tensor token = d_.h.rows(0, 1),
                 weight(d_.slots.data, DType::kF32, {token.shape[1]}, d_.slots.space);
    return seconds_of([&] {
             for (int i = 0; i < kManySmall; ++i) device_.rms_norm({token, weight, 1e-5f, token});
             wait();
           }) /
           kManySmall;
  }

  const ModelConfig& config_;
  Backend& host_;
  Backend& device_;
  const std::vector<ExpertWeights> here_;
  std::vector<ExpertWeights> there_;  // the first count_
  int64_t count_ = 0, device_tokens_ = kDeviceTokens;
  Buffer on_device_, on_host_, pinned_;
  Tokens h_, p_, d_;  // on the host, in pinned memory, on the device
  Status status_;
};

}  // namespace

Result<MachineSpeeds> measure_speeds(const ModelConfig& config, const Weights& weights, Backend& host,
                                     Backend& device) {
  SpeedProbe probe(config, weights, host, device);
  MOEBIUS_TRY(probe.open());
  return probe.measure();
}

}  // namespace moebius
