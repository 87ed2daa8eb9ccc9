#include <fmt/format.h>

#include "models/file_io.h"
#include "tools/synth_config.h"
#include "tools/synth_folder.h"
#include "tools/synth_weights.h"

namespace moebius {
namespace {

struct Plan {
  SynthConfig config;
  std::vector<ShardPlan> shards;

  int64_t file_bytes() const {  // headers, index and tokenizer by their usual size, rounded up
    constexpr int64_t kPerTensor = 400, kPerId = 48, kRest = 1 << 20;
    int64_t tensors = 0;
    for (const ShardPlan& shard : shards) tensors += static_cast<int64_t>(shard.tensors.size());
    return plan_bytes(shards) + tensors * kPerTensor + config.config.vocab * kPerId + kRest;
  }
};

Result<Plan> make_plan(const SynthOptions& options) {
  Plan plan;
  MOEBIUS_ASSIGN(plan.config, make_synth_config(options));
  MOEBIUS_ASSIGN(plan.shards, plan_shards(plan.config.config, options));
  return plan;
}

Status write_json(const std::string& path, const nlohmann::ordered_json& json) {
  return write_text_file(path,
                         json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

}  // namespace

Result<int64_t> synth_bytes(const SynthOptions& options) {
  MOEBIUS_ASSIGN(const Plan plan, make_plan(options));
  return plan.file_bytes();
}

Result<SynthReport> synthesize(const SynthOptions& options, const SynthProgress& progress) {
  MOEBIUS_ASSIGN(const Plan plan, make_plan(options));
  const ModelConfig& config = plan.config.config;
  SynthReport report{config.model_type,
                     config.layers,
                     plan_bytes(plan.shards),
                     static_cast<int64_t>(plan.shards.size()),
                     {}};
  MOEBIUS_ASSIGN(FolderInMaking folder, FolderInMaking::create(options.out, plan.file_bytes(), options.force,
                                                               ", a smaller --dtype or fewer --layers"));
  const bool tokenizer = has_room_for_tokenizer(config.vocab);
  MOEBIUS_TRY(write_json(folder.dir() + "/config.json", plan.config.json));
  MOEBIUS_TRY(
      write_json(folder.dir() + "/generation_config.json", synth_generation_config(plan.config, tokenizer)));
  if (tokenizer) {
    MOEBIUS_TRY(write_synth_tokenizer(folder.dir(), config.vocab, plan.config.special, config.context));
  } else {
    report.notes.push_back(
        fmt::format("no tokenizer was written: a vocabulary of {} ids has no room for "
                    "256 bytes and {} special tokens",
                    config.vocab, kSpecialTokens));
  }
  MOEBIUS_TRY(write_shards(plan.shards, folder.dir(), options, progress));
  MOEBIUS_TRY(folder.commit());
  return report;
}

}  // namespace moebius
