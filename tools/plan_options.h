// The options of `moebius plan`. Those that `chat` and `serve` have too go by the same names.
#pragma once

#include <optional>

#include "tools/command.h"
#include "tools/plan_finetune.h"

namespace moebius {

struct PlanOptions {
  std::string model, config, geometry, adapter;
  std::optional<Format> format;
  bool experts_only = false;
  int64_t gpu_memory = -1, ram = -1;  // -1: this machine's
  DeviceKind device = DeviceKind::kAuto;
  int64_t context = 0, prompt = 0;  // 0: by default
  int64_t sequences = 1;
  int64_t cache_tokens = 0;  // of all sequences together; 0: `context` for each
  int64_t prefill_chunk = 512;
  int64_t adapter_memory = 0;
  CacheType cache = CacheType::kAuto;
  SpeedOptions speeds;
  bool json = false;
  bool finetune = false;
  TrainingShape training;
};

void add_plan_options(CLI::App& command, PlanOptions& options);  // options outlives the parsing

}  // namespace moebius
