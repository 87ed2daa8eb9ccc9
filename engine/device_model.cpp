#include "engine/device_model.h"

#include <algorithm>

#include "engine/measure_speeds.h"
#include "engine/self_check.h"

namespace moebius {
namespace {

constexpr int64_t kUsualPrompt = 2048;  // tokens that a plan at the start predicts for

bool read_by_every_step(Role role) { return role != Role::kExpert && role != Role::kHead; }
bool read_by_every_step_and_head(Role role) { return role != Role::kExpert; }

bool has_experts(const Weights& weights) {
  return std::ranges::any_of(weights.layers, [](const LayerWeights& l) { return !l.experts.empty(); });
}

// Of the residents that a plan wants, those that `room` bytes hold, the hottest first.
Residency fitting(const Residency& wanted, const Weights& host, ExpertHeat heat, int64_t room) {
  for (size_t l = 0; l < wanted.size(); ++l)
    for (size_t e = 0; e < wanted[l].size(); ++e)
      if (!wanted[l][e]) heat[l][e] = -1;
  Residency fits = hottest_first(host, heat, room);
  for (size_t l = 0; l < wanted.size(); ++l)
    for (size_t e = 0; e < wanted[l].size(); ++e) fits[l][e] = fits[l][e] && wanted[l][e];
  return fits;
}

// Of the experts that the host holds for itself.
int64_t bytes_in_ram(const ModelPlan& plan, const Weights& host) {
  int64_t bytes = 0;
  for (size_t l = 0; l < plan.in_ram.size(); ++l)
    for (size_t e = 0; e < plan.in_ram[l].size(); ++e)
      if (plan.in_ram[l][e] && !plan.resident[l][e]) bytes += expert_bytes(host.layers[l].experts[e]);
  return bytes;
}

}  // namespace

int64_t DeviceModel::least_bytes(const ModelConfig& config, const Weights& host, const Needs& needs) {
  return DeviceWeights::bytes(config, host, read_by_every_step) + needs.cache + needs.workspace +
         needs.adapters + needs.own + kDeviceSlack;
}

int64_t DeviceModel::bytes_for_all(const ModelConfig& config, const Weights& host, const Needs& needs) {
  const PrefillSizes most{std::min(needs.context, kPassTokens), kRingSlots};
  return DeviceWeights::bytes(config, host, read_by_every_step_and_head) + needs.cache + needs.workspace +
         needs.adapters + needs.own + expert_bytes(host) + StreamedPrefill::bytes(config, host, most) +
         2 * kDeviceSlack;
}

Result<std::unique_ptr<DeviceModel>> DeviceModel::create(const ModelConfig& config,
                                                         const Weights& host_weights,
                                                         const EngineOptions& options, DType cache_type,
                                                         const Needs& needs, ExpertHeat heat, Backend& host,
                                                         Backend& device) {
  std::unique_ptr<DeviceModel> model(new DeviceModel(config, host_weights));
  if (has_experts(host_weights)) MOEBIUS_TRY(model->plan(options, cache_type, needs, heat, host, device));
  MOEBIUS_TRY(model->place(options, needs, std::move(heat), device));
  // While what experts are to be streamed through is free, for the check of one.
  MOEBIUS_TRY(self_check(config, host_weights, model->placed_, device));
  MOEBIUS_TRY(model->connect(options, needs, host, device));
  return model;
}

Status DeviceModel::plan(const EngineOptions& options, DType cache_type, const Needs& needs,
                         const ExpertHeat& heat, Backend& host, Backend& device) {
  speeds_ = options.speeds;
  if (speeds_.link_GBs == 0) {
    MOEBIUS_ASSIGN(speeds_, measure_speeds(config_, host_, host, device));
  }
  MOEBIUS_ASSIGN(ModelBytes bytes, model_bytes(config_, host_, cache_type));
  bytes.workspace = needs.workspace;
  Budgets budgets;
  budgets.device_bytes = options.device_memory,
  budgets.device_reserve = kDeviceSlack + needs.adapters + needs.own;
  budgets.ram_bytes = std::max<int64_t>(0, options.ram - needs.pinned);
  budgets.context = needs.context, budgets.sequences = options.sessions;
  if (options.cache_tokens != needs.context * options.sessions) budgets.cache_tokens = options.cache_tokens;
  budgets.prompt = std::min(kUsualPrompt, needs.context);
  budgets.use_device = true;
  const bool known = std::ranges::any_of(heat, [](const auto& layer) {
    return std::ranges::any_of(layer, [](double uses) { return uses > 0; });
  });
  plan_ = plan_model(bytes, speeds_, budgets, known ? heat : ExpertHeat());
  plan_->ram_for_all += needs.pinned;
  return Status();
}

// What a plan counts is a little less than what memory really takes (alignment), and memory has the last
// word.
Status DeviceModel::place(const EngineOptions& options, const Needs& needs, ExpertHeat heat,
                          Backend& device) {
  int64_t room = options.device_memory - least_bytes(config_, host_, needs);
  const int64_t head = DeviceWeights::bytes(config_, host_, read_by_every_step_and_head) -
                       DeviceWeights::bytes(config_, host_, read_by_every_step);
  const bool head_there = head <= room && !(plan_ && plan_->shape == PlanShape::kHostHead);
  if (head_there) room -= head;
  MOEBIUS_ASSIGN(read_by_all_,
                 DeviceWeights::create(
                     config_, host_, head_there ? read_by_every_step_and_head : read_by_every_step, device));
  placed_ = read_by_all_->weights();
  if (!plan_) return Status();
  // Memory may hold a little less than the plan's pass, and that is still a pass.
  const int64_t least_pass = std::min({kSliceTokens, options.prefill_chunk, needs.context}) / 2;
  if (plan_->experts_resident < plan_->experts || expert_bytes(host_) > room) {
    prefill_sizes_ =
        StreamedPrefill::fitting(config_, host_, {plan_->pass_tokens, plan_->ring_slots}, room, least_pass);
    room -= StreamedPrefill::bytes(config_, host_, prefill_sizes_);
  }
  const Residency residents = fitting(plan_->resident, host_, heat, room);
  MOEBIUS_ASSIGN(experts_, ExpertStore::create(host_, residents, std::move(heat), plan_->experts_released > 0,
                                               placed_, device));
  return Status();
}

Status DeviceModel::connect(const EngineOptions& options, const Needs& needs, Backend& host,
                            Backend& device) {
  if (!experts_ || experts_->resident() == experts_->total()) return Status();
  if (plan_->experts_on_disk > 0)
    disk_.emplace(host_, needs.files,
                  ExpertCache::Options{bytes_in_ram(*plan_, host_), spared_ram(options.ram)});
  const ColdExperts::Options cold{{needs.most_tokens, needs.second_tokens},
                                  prefill_sizes_.pass_tokens,
                                  options.overlap,
                                  options.host_fail,
                                  disk_ ? &*disk_ : nullptr};
  MOEBIUS_ASSIGN(cold_, ColdExperts::create(config_, cold, *experts_, host, device));
  if (prefill_sizes_.pass_tokens == 0) return Status();
  MOEBIUS_ASSIGN(prefill_, StreamedPrefill::create(config_, host_, prefill_sizes_, speeds_,
                                                   disk_ ? &*disk_ : nullptr, *experts_, device));
  return Status();
}

}  // namespace moebius
