// Fine-tuning steps of a checkpoint with LoRA, by operation: bench_finetuning DIR [sequence [sequences a step
// [steps [rank [muon|lora-muon|adamw [threads]]]]]] prints CSV, after lines that begin with #: model, tokens
// per second, memory. Adapters are on attention and all routed experts; sequences are random ids, all of
// which count. Two steps of warm-up are not measured.
//
// The operations are those of the median step. GFLOP are those of the products that were run, with what is
// run again because it was not kept (kernels/flops.h). The limit of an operation is their time at the probed
// float32 rate; that of the weights, their bytes at the probed rate of memory.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>

#include <fmt/format.h>

#include "engine/train/lora.h"
#include "engine/train/trainer.h"
#include "kernels/op_meter.h"
#include "kernels/probe.h"

namespace moebius {
namespace {

constexpr int kWarmup = 2;

struct Setup {
  std::string model;
  int64_t sequence = 512, sequences = 1, steps = 4, rank = 8;
  std::string optimizer = "lora-muon";
  int threads = 0;
};

Dataset random_data(const Setup& setup, int64_t vocab) {
  std::mt19937 random(1);
  Dataset data;
  for (int64_t i = 0; i < setup.sequences * (kWarmup + setup.steps); ++i) {
    std::vector<int32_t> ids(static_cast<size_t>(setup.sequence + 1));
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
    data.add(ids, std::vector<uint8_t>(ids.size(), 1));
  }
  return data;
}

LoraOptions lora_options(const Setup& setup) {
  LoraOptions lora;
  lora.rank = setup.rank, lora.targets = {"q", "kv", "o", "experts"};
  lora.optimizer = setup.optimizer == "muon"    ? LoraOptimizer::kMuon
                   : setup.optimizer == "adamw" ? LoraOptimizer::kAdamW
                                                : LoraOptimizer::kLoraMuon;
  return lora;
}

// A line of /proc/self/status, in GB.
double status_GB(const std::string& key) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key + ":")) return std::atof(line.c_str() + key.size() + 1) * 1024e-9;
  return 0;
}

struct Row {
  std::string name;
  OpTotal total;
};

void report(const std::vector<Row>& rows, double seconds, double rate, double bandwidth) {
  fmt::print("operation,calls,s,share,GFLOP,GFLOP/s,of float32 limit,weights GB,s to read them\n");
  OpTotal sum;
  const auto print = [&](const std::string& name, const OpTotal& t) {
    fmt::print("{},{},{:.3f},{:.3f},{:.1f},{:.1f},{:.3f},{:.2f},{:.3f}\n", name, t.calls, t.seconds,
               t.seconds / seconds, t.flops * 1e-9, t.flops / t.seconds * 1e-9,
               t.flops / t.seconds * 1e-9 / rate, t.stored_bytes * 1e-9, t.stored_bytes * 1e-9 / bandwidth);
  };
  for (const auto& [name, t] : rows) {
    print(name, t);
    sum.calls += t.calls, sum.flops += t.flops, sum.stored_bytes += t.stored_bytes;
  }
  sum.seconds = seconds;
  print("step", sum);
}

// The operations that took a thousandth of the time, then all the others, then what is no operation.
std::vector<Row> rows_of(const OpTotals& totals, double seconds) {
  std::vector<Row> rows;
  OpTotal others, outside;
  outside.seconds = seconds;
  for (const auto& [name, total] : totals) {
    outside.seconds -= total.seconds;
    if (total.seconds > seconds / 1000) {
      rows.push_back({name, total});
      continue;
    }
    others.calls += total.calls, others.seconds += total.seconds, others.flops += total.flops;
    others.stored_bytes += total.stored_bytes;
  }
  std::ranges::sort(rows, [](const Row& a, const Row& b) { return a.total.seconds > b.total.seconds; });
  rows.push_back({"other operations", others});
  rows.push_back({"optimizer and what is no operation", outside});
  return rows;
}

Status run(const Setup& setup) {
  const int threads = setup.threads > 0 ? setup.threads : physical_cores();
  MOEBIUS_ASSIGN(const std::unique_ptr<ModelFiles> files, ModelFiles::open(setup.model));
  const ModelConfig& config = files->config();
  const Dataset data = random_data(setup, config.vocab);
  OpMeter meter;
  meter.label(files->weights().head.data, "head");
  const std::unique_ptr<Backend> backend = make_metered_backend(make_host_backend({threads}), meter);
  const RotaryTable rotary = rotary_table(config.rotary);
  MOEBIUS_ASSIGN(const std::unique_ptr<LoraModel> lora,
                 LoraModel::create(config, files->weights(), lora_options(setup)));
  TrainerOptions options;
  options.steps = kWarmup + setup.steps, options.lr = 1e-4;
  options.micro_tokens = setup.sequence * setup.sequences;
  MOEBIUS_ASSIGN(const std::unique_ptr<Trainer> trainer,
                 Trainer::create({config, lora->weights(), rotary, *backend}, *lora, all_of(data), options,
                                 threads, ""));
  std::vector<double> rates;
  std::vector<std::pair<double, OpTotals>> steps;  // seconds, operations
  double tokens = 0, start_GB = 0;
  for (int64_t i = 0; i < kWarmup + setup.steps; ++i) {
    if (i == kWarmup) start_GB = status_GB("RssAnon");
    meter.clear();
    rates.push_back(probe_float32_GFLOPs(threads, 0.1));
    MOEBIUS_ASSIGN(const StepReport step, trainer->step());
    fmt::print(stderr, "step {}: {:.2f} s, loss {:.4f}\n", step.step, step.seconds, step.loss);
    tokens = static_cast<double>(step.tokens);
    if (i >= kWarmup) steps.push_back({step.seconds, meter.totals()});
  }
  std::ranges::sort(steps, {}, [](const auto& step) { return step.first; });
  const auto& [seconds, operations] = steps[steps.size() / 2];
  const double rate = std::ranges::max(rates);
  MOEBIUS_ASSIGN(const double bandwidth, probe_memory_read_GBs(threads, probe_buffer_bytes(), 1));
  fmt::print("# {}: {}, rank {}, {:.1f} M numbers, {}, sequences of {}, {} a step, {} threads\n", setup.model,
             config.model_type, setup.rank, static_cast<double>(lora->parameters()) * 1e-6, setup.optimizer,
             setup.sequence, setup.sequences, threads);
  fmt::print(
      "# {:.2f} tokens/s ({:.2f} to {:.2f} in {} steps); float32 {:.0f} GFLOP/s (best of {} probes), "
      "memory {:.1f} GB/s\n",
      tokens / seconds, tokens / steps.back().first, tokens / steps.front().first, steps.size(), rate,
      rates.size(), bandwidth);
  fmt::print(
      "# memory, GB: {:.2f} at most; its own {:.2f} ({:.2f} before the first measured step), of files "
      "{:.2f}\n",
      status_GB("VmHWM"), status_GB("RssAnon"), start_GB, status_GB("RssFile"));
  report(rows_of(operations, seconds), seconds, rate, bandwidth);
  return Status();
}

}  // namespace
}  // namespace moebius

int main(int argc, char** argv) {
  moebius::Setup setup;
  const auto number = [&](int i, int64_t fallback) { return argc > i ? std::atoll(argv[i]) : fallback; };
  setup.model = argc > 1 ? argv[1] : "models/pebble";
  setup.sequence = number(2, setup.sequence), setup.sequences = number(3, setup.sequences);
  setup.steps = number(4, setup.steps), setup.rank = number(5, setup.rank);
  if (argc > 6) setup.optimizer = argv[6];
  setup.threads = static_cast<int>(number(7, 0));
  const moebius::Status status = moebius::run(setup);
  if (!status.ok()) fmt::print(stderr, "{}\n", status.message());
  return status.ok() ? 0 : 1;
}
