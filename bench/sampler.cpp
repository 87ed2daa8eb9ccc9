// What choosing a token costs, for a vocabulary of 163,840 and logits as models give them: medians in
// microseconds. A decode step of 50 ms allows one per cent, 500 us. bench_sampler prints CSV.
#include <algorithm>
#include <chrono>
#include <random>
#include <vector>

#include <fmt/format.h>

#include "engine/sampler.h"

namespace moebius {
namespace {

constexpr int64_t kVocab = 163840;

double median_us(const SamplingParams& params, std::span<const float> logits) {
  Sampler sampler(params, kVocab);
  std::vector<double> times;
  for (int i = 0; i < 51; ++i) {
    const auto start = std::chrono::steady_clock::now();
    sampler.sample(logits);
    times.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + 25, times.end());
  return times[25];
}

void run() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 2.5f);
  std::vector<float> logits(kVocab);
  for (float& logit : logits) logit = normal(random);
  for (int i = 0; i < 20; ++i) logits[random() % kVocab] += 10;  // what the model means
  const auto print = [&](const char* name, auto set) {
    SamplingParams params;
    set(params);
    fmt::print("{},{:.0f}\n", name, median_us(params, logits));
  };
  fmt::print("sampling,us\n");
  print("greedy", [](SamplingParams& p) { p.temperature = 0; });
  print("temperature 1", [](SamplingParams&) {});
  print("top-k 40", [](SamplingParams& p) { p.top_k = 40; });
  print("top-k 40 top-p 0.95", [](SamplingParams& p) { p.top_k = 40, p.top_p = 0.95f; });
  print("top-p 0.95", [](SamplingParams& p) { p.top_p = 0.95f; });
  print("temperature 0.6 top-p 0.95", [](SamplingParams& p) { p.temperature = 0.6f, p.top_p = 0.95f; });
  print("min-p 0.05", [](SamplingParams& p) { p.min_p = 0.05f; });
  print("top-p 0.95 repetition 1.1", [](SamplingParams& p) { p.top_p = 0.95f, p.repetition_penalty = 1.1f; });
}

}  // namespace
}  // namespace moebius

int main() { moebius::run(); }
