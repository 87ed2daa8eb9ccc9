// One training step of a model, whole: gradients, clipping, optimizer. Full training with Muon, then LoRA
// with Muon per factor, on the checkpoint given. bench_training_step DIR [tokens [threads [runs
// [full|lora]]]] prints CSV: the median step, tokens per second, the float32 rate and its share of the rate
// probed in the same run, and the process's peak memory. Sequences are 20 to 180 tokens of random ids, half
// of them with a loss; bench/training_step.py is PyTorch's side on the same sequences, which `sequences`
// prints as JSON.
//
// FLOPs are those of the products alone. model: 2 per weight and token forward, 2 for each of dx and dw
// (LoRA: dx, and dw of the factors), attention over the causal half. done: with the products that are run
// again because activations are not kept (gate, up, kv_b, scores, the rest of attention in layers that do
// not keep it), and with Newton-Schulz of full training: five steps on every matrix on Muon.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <random>
#include <string>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "engine/train/full.h"
#include "engine/train/lora.h"
#include "engine/train/pass.h"
#include "engine/train/trainer.h"
#include "kernels/probe.h"

namespace moebius {
namespace {

constexpr int kWarmup = 2;

std::vector<std::vector<int32_t>> make_sequences(int64_t tokens, int64_t vocab) {
  std::mt19937 random(1);
  std::vector<std::vector<int32_t>> all;
  for (int64_t rows = 0;;) {
    const int64_t length = 20 + static_cast<int64_t>(random() % 161);
    if (rows + length - 1 > tokens) return all;
    std::vector<int32_t> ids(static_cast<size_t>(length));
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
    rows += length - 1;
    all.push_back(std::move(ids));
  }
}

Dataset as_dataset(const std::vector<std::vector<int32_t>>& sequences) {
  Dataset data;
  for (const std::vector<int32_t>& ids : sequences) {
    std::vector<uint8_t> mask(ids.size());
    for (size_t i = ids.size() / 2; i < ids.size(); ++i) mask[i] = 1;
    data.add(ids, mask);
  }
  return data;
}

// Multiply-adds of products, for one batch.
struct Work {
  double once = 0;   // forward, without attention's own
  double again = 0;  // of all, run again in the backward pass
  double attention = 0;
  double newton_schulz = 0;
  double adapters = 0;  // forward, of rank r on every matrix
};

// Of five steps: X X^T, its square, and their product with X.
double newton_schulz(int64_t rows, int64_t cols) {
  const double s = static_cast<double>(std::min(rows, cols)), l = static_cast<double>(std::max(rows, cols));
  return 5 * (2 * s * s * l + s * s * s);
}

Work count_work(const ModelConfig& c, const Dataset& data, int64_t micro_tokens, double rank) {
  double rows = 0, targets = static_cast<double>(data.counted()), pairs = 0;
  for (int64_t i = 0; i < data.size(); ++i) {
    const double n = static_cast<double>(data.tokens_of(i) - 1);
    rows += n, pairs += n * (n + 1) / 2;
  }
  Work work;
  Weights shapes;
  // The part of the layers whose attention is run again.
  const double rerun =
      1 - static_cast<double>(layers_kept(c, {micro_tokens})) / static_cast<double>(c.layers);
  const double chosen =
      c.moe.n_experts > 0 ? static_cast<double>(c.moe.top_k) / static_cast<double>(c.moe.n_experts) : 0;
  const auto matrix = [&](const std::string& name, Role role, int64_t out, int64_t in, Matrix&) {
    if (role == Role::kEmbed) return Status();
    const double tokens = role == Role::kHead ? targets : role == Role::kExpert ? rows * chosen : rows;
    const double products = tokens * static_cast<double>(out * in);
    work.once += products;
    const bool of_attention = name.find("self_attn") != std::string::npos && !name.ends_with("kv_b_proj");
    if (role != Role::kHead && !name.ends_with("down_proj"))
      work.again += products * (of_attention ? rerun : 1);
    if (role != Role::kHead) work.newton_schulz += newton_schulz(out, in);
    if (role != Role::kHead && role != Role::kRouter)
      work.adapters += tokens * rank * static_cast<double>(out + in);
    return Status();
  };
  const Status status =
      visit_weights(c, shapes, {matrix, [](const std::string&, int64_t, Tensor&) { return Status(); }});
  MOEBIUS_CHECK(status.ok());
  const double pair_heads = pairs * static_cast<double>(c.layers * c.heads);
  const double qk = static_cast<double>(c.qk_dim()), v = static_cast<double>(c.value_dim());
  work.attention = pair_heads * (qk + v);
  work.again += pair_heads * (qk + rerun * (qk + v));
  return work;
}

struct Flops {
  double model, done;
};

Flops full_flops(const Work& w) {
  const double model = 2 * (3 * w.once + 3 * w.attention);
  return {model, model + 2 * (w.again + w.newton_schulz)};
}

Flops lora_flops(const Work& w) {
  const double model = 2 * (2 * w.once + 3 * w.attention + 3 * w.adapters);
  return {model, model + 2 * (w.again + w.adapters)};
}

double peak_memory_mb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

int measure(const char* name, Trainer& trainer, Flops flops, int threads, int runs) {
  std::vector<double> seconds;
  int64_t tokens = 0;
  for (int i = 0; i < kWarmup + runs; ++i) {
    const Result<StepReport> step = trainer.step();
    if (!step.ok()) return fmt::print(stderr, "{}\n", step.status().message()), 1;
    if (i >= kWarmup) seconds.push_back(step->seconds);
    tokens = step->tokens;
  }
  std::nth_element(seconds.begin(), seconds.begin() + runs / 2, seconds.end());
  const double median = seconds[static_cast<size_t>(runs / 2)];
  const double probed = probe_float32_GFLOPs(threads, 0.5);
  fmt::print("{},{},{},{:.1f},{:.0f},{:.1f},{:.1f},{:.1f},{:.3f},{:.3f},{:.0f}\n", name, tokens, threads,
             median * 1e3, static_cast<double>(tokens) / median, flops.model / median / 1e9,
             flops.done / median / 1e9, probed, flops.model / median / 1e9 / probed,
             flops.done / median / 1e9 / probed, peak_memory_mb());
  return 0;
}

int run(const std::string& dir, int64_t tokens, int threads, int runs, const std::string& what) {
  auto files = ModelFiles::open(dir);
  if (!files.ok()) return fmt::print(stderr, "{}\n", files.status().message()), 1;
  const ModelConfig& config = (*files)->config();
  const auto sequences = make_sequences(tokens, config.vocab);
  if (what == "sequences") return fmt::print("[{}]\n", fmt::join(sequences, ",\n")), 0;
  const Dataset data = as_dataset(sequences);
  const TrainingSet set = all_of(data);
  TrainerOptions options;
  options.steps = kWarmup + runs, options.micro_tokens = tokens, options.lr = 1e-4;
  const auto backend = make_host_backend({threads});
  const RotaryTable rotary = rotary_table(config.rotary);

  fmt::print(
      "step,tokens,threads,ms,tok/s,model GFLOP/s,done GFLOP/s,probed GFLOP/s,model share,done share,peak "
      "MB\n");
  if (what == "full") {
    auto model = FullModel::random(config, {}, *backend);
    if (!model.ok()) return fmt::print(stderr, "{}\n", model.status().message()), 1;
    auto trainer =
        Trainer::create({config, (*model)->weights(), rotary, *backend}, **model, set, options, threads, "");
    if (!trainer.ok()) return fmt::print(stderr, "{}\n", trainer.status().message()), 1;
    return measure("full", **trainer, full_flops(count_work(config, data, tokens, 0)), threads, runs);
  }
  LoraOptions lora;
  lora.targets = {"q", "kv", "o", "experts", "shared", "dense"};
  auto model = LoraModel::create(config, (*files)->weights(), lora);
  if (!model.ok()) return fmt::print(stderr, "{}\n", model.status().message()), 1;
  auto trainer =
      Trainer::create({config, (*model)->weights(), rotary, *backend}, **model, set, options, threads, "");
  if (!trainer.ok()) return fmt::print(stderr, "{}\n", trainer.status().message()), 1;
  return measure("lora", **trainer,
                 lora_flops(count_work(config, data, tokens, static_cast<double>(lora.rank))), threads, runs);
}

}  // namespace
}  // namespace moebius

int main(int argc, char** argv) {
  const auto number = [&](int i, int fallback) { return argc > i ? std::atoi(argv[i]) : fallback; };
  const int threads = number(3, moebius::physical_cores());
  return moebius::run(argc > 1 ? argv[1] : "models/pebble", number(2, 8192), threads, number(4, 9),
                      argc > 5 ? argv[5] : "full");
}
