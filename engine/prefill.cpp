#include "engine/prefill.h"

#include <algorithm>

#include "engine/placement.h"

namespace moebius {
namespace {

constexpr int64_t kRounding = 8 * 64;  // bytes, of the tensors of a pass

}  // namespace

StreamedPrefill::Tokens StreamedPrefill::lay_out(const ModelConfig& c, int64_t n, Arena& arena) {
  const DType f32 = DType::kF32;
  Tokens t;
  t.cos = arena.take(f32, {n, c.rotary.dim / 2}), t.sin = arena.take(f32, {n, c.rotary.dim / 2});
  t.x = arena.take(f32, {n, c.hidden}), t.h = arena.take(f32, {n, c.hidden});
  t.expert_ids = arena.take(DType::kI32, {n, c.moe.top_k});
  t.expert_weights = arena.take(f32, {n, c.moe.top_k});
  t.slots = arena.take(f32, {n, c.moe.top_k, c.hidden});
  return t;
}

PrefillSizes StreamedPrefill::fitting(const ModelConfig& config, const Weights& host, PrefillSizes wanted,
                                      int64_t room, int64_t least_tokens) {
  const int64_t place = largest_expert(host);
  Arena measured(nullptr);
  lay_out(config, kPassTokens, measured);
  const int64_t per_token = measured.used() / kPassTokens + 1;
  const int64_t left = room - 2 * place - kRounding;
  wanted.pass_tokens = std::min(wanted.pass_tokens, left / per_token);
  if (place == 0 || wanted.places < 2 || left < 0 || wanted.pass_tokens < least_tokens) return {};
  wanted.places = std::min(wanted.places, 2 + (left - wanted.pass_tokens * per_token) / place);
  return wanted;
}

int64_t StreamedPrefill::bytes(const ModelConfig& config, const Weights& host, const PrefillSizes& sizes) {
  if (sizes.pass_tokens == 0) return 0;
  Arena measured(nullptr);
  lay_out(config, sizes.pass_tokens, measured);
  return measured.used() + sizes.places * largest_expert(host);
}

Result<std::unique_ptr<StreamedPrefill>> StreamedPrefill::create(const ModelConfig& config,
                                                                 const Weights& host,
                                                                 const PrefillSizes& sizes,
                                                                 const MachineSpeeds& speeds, DiskTier* disk,
                                                                 ExpertStore& store, Backend& device) {
  std::unique_ptr<StreamedPrefill> p(new StreamedPrefill(config, host, sizes, speeds, disk, store, device));
  Arena measured(nullptr);
  lay_out(config, sizes.pass_tokens, measured);
  MOEBIUS_ASSIGN(p->memory_, device.alloc(static_cast<size_t>(measured.used())));
  MOEBIUS_ASSIGN(p->pinned_,
                 device.alloc_pinned(static_cast<size_t>(sizes.pass_tokens * config.moe.top_k * 4)));
  MOEBIUS_ASSIGN(p->ring_, ExpertRing::create(sizes.places, largest_expert(host), device));
  const auto moe = std::ranges::find_if(host.layers, [](const auto& l) { return !l.experts.empty(); });
  const ExpertWeights& first = moe->experts.front();
  p->break_even_ =
      break_even_tokens(static_cast<double>(expert_bytes(first)) / weights_of(first), p->speeds_);
  return p;
}

StreamedPrefill::Tokens StreamedPrefill::tokens() const {
  Arena arena(memory_);
  return lay_out(config_, pass_ ? std::ssize(pass_->ids) : sizes_.pass_tokens, arena);
}

// A slice is a workspace whose lasting tensors are rows of the pass.
Workspace StreamedPrefill::slice(int64_t index) const {
  const int64_t begin = index * pass_->slice_tokens;
  const int64_t n = std::min(pass_->slice_tokens, std::ssize(pass_->ids) - begin);
  const Tokens t = tokens();
  Workspace ws = pass_->workspace.view(n);
  ws.cos = t.cos.rows(begin, n), ws.sin = t.sin.rows(begin, n);
  ws.x = t.x.rows(begin, n), ws.h = t.h.rows(begin, n);
  ws.expert_ids = t.expert_ids.rows(begin, n), ws.expert_weights = t.expert_weights.rows(begin, n);
  ws.slots = t.slots.rows(begin, n);
  return ws;
}

void StreamedPrefill::begin(const Model& model, const KvCache& cache, const PageTable& table,
                            const WorkspaceMemory& workspace, int64_t slice_tokens,
                            std::span<const int32_t> ids, int64_t position) {
  MOEBIUS_CHECK(!ids.empty() && std::ssize(ids) <= sizes_.pass_tokens);
  pass_.emplace(Pass{model, cache, table, workspace, slice_tokens, {ids.begin(), ids.end()}, position});
  pass_->slices = (std::ssize(ids) + slice_tokens - 1) / slice_tokens;
}

double StreamedPrefill::part_done() const {
  const double slices = static_cast<double>(pass_->slices), layers = static_cast<double>(config_.layers);
  const double of_layer =
      pass_->routed ? 1 : static_cast<double>(pass_->slice) / slices;  // its experts are next
  return (static_cast<double>(pass_->layer + 1) + of_layer) / (layers + 1);
}

Status StreamedPrefill::step() {
  Pass& p = *pass_;
  if (p.routed) {
    MOEBIUS_TRY(run_experts());
    p.routed = false, ++p.layer;
    return done() || disk_ ? settle() : Status();  // experts from disk are held no longer than they must
  }
  run_slice();
  MOEBIUS_TRY(settle());  // so that no more than a slice is ever queued
  if (++p.slice < p.slices) return Status();
  p.slice = 0;
  p.routed = p.layer >= 0 && !p.model.weights.layers[static_cast<size_t>(p.layer)].experts.empty();
  if (!p.routed) ++p.layer;
  return Status();
}

Status StreamedPrefill::settle() {
  MOEBIUS_TRY(wait_for(pass_->model));
  queued_.clear();
  return Status();
}

void StreamedPrefill::run_slice() {
  const Pass& p = *pass_;
  const Workspace ws = slice(p.slice);
  const int64_t begin = p.slice * p.slice_tokens, n = ws.x.shape[0];
  const Segment segment{&p.table, 0, n, p.position + begin};
  const Batch batch{std::span(p.ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(n)),
                    {&segment, 1}};
  if (p.layer < 0) return start_forward(p.model, batch, ws);
  attention_forward(p.model, p.layer, batch, p.cache, ws);
  if (p.model.weights.layers[static_cast<size_t>(p.layer)].experts.empty()) {
    ffn_forward(p.model, p.layer, ws);
  } else {
    route_forward(p.model, p.layer, ws);
  }
}

// Waits for the router.
Result<std::vector<ExpertLoad>> StreamedPrefill::count_tokens() {
  const Tokens t = tokens();
  const Tensor ids(pinned_.data(), DType::kI32, {t.expert_ids.shape[0], t.expert_ids.shape[1]},
                   Space::kPinned);
  routed_ = ids;
  device_.copy(t.expert_ids, ids);
  MOEBIUS_TRY(device_.sync());
  const size_t l = static_cast<size_t>(pass_->layer);
  return expert_loads(host_.layers[l].experts, store_.on_device(pass_->layer), ids);
}

Status StreamedPrefill::run_experts() {
  const Pass& p = *pass_;
  MOEBIUS_ASSIGN(const std::vector<ExpertLoad> loads, count_tokens());
  queued_.clear();  // the device is idle
  const LayerPlan plan = plan_layer(loads, speeds_);
  const std::vector<ExpertWeights>& experts = host_.layers[static_cast<size_t>(p.layer)].experts;
  std::vector<ExpertWeights>& on_host = queued_.lists.emplace_back(experts.size());
  std::vector<ExpertWeights>& on_device = queued_.lists.emplace_back(store_.on_device(p.layer));
  std::vector<ExpertWeights> read(experts.size());  // here, by the CPU or to be streamed
  int64_t streamed_bytes = 0;
  for (size_t e = 0; e < experts.size(); ++e) {
    if (plan.where[e] == Where::kCpu) on_host[e] = experts[e], on_device[e] = ExpertWeights();
    if (plan.where[e] == Where::kCpu || plan.where[e] == Where::kStreamed) read[e] = experts[e];
    if (plan.where[e] == Where::kStreamed) streamed_bytes += expert_bytes(experts[e]);
  }
  std::optional<DiskTier::Chosen> chosen;
  if (disk_) chosen = disk_->chosen(p.layer, routed_, read);
  store_.count_streamed(p.layer, streamed_bytes);
  const Tokens t = tokens();
  const bool any_on_host =
      std::ranges::any_of(on_host, [](const ExpertWeights& e) { return !e.elsewhere(); });
  if (any_on_host) {
    p.model.cold->ask(p.layer, 0, t.h, t.expert_ids, {{0, t.h.shape[0], &on_host}});
  } else {
    store_.count(p.layer, routed_, on_host, 0);
  }
  for (int64_t i = 0; i < p.slices; ++i) shared_forward(p.model, p.layer, slice(i));
  device_.expert_ffn({t.h, on_device.data(), std::ssize(on_device), t.expert_ids, t.slots});
  // What the CPU computes is all that is elsewhere once the streamed experts have been here.
  const std::vector<ExpertWeights>* streamed = &experts;
  if (chosen) {
    disk_->wait(*chosen);
    streamed = &queued_.lists.emplace_back(disk_->placed(*chosen, experts));
    queued_.from_disk.push_back(std::move(*chosen));
  }
  std::vector<ExpertWeights>& been_here = queued_.lists.emplace_back(on_device);
  ring_->stream(*streamed, plan.where, false, queued_, been_here, [&](const auto& group) {
    device_.expert_ffn({t.h, group.data(), std::ssize(group), t.expert_ids, t.slots});
  });
  if (any_on_host) p.model.cold->answer(0, been_here, t.expert_ids, t.slots);
  device_.combine({t.slots, t.expert_ids, t.expert_weights, t.x});
  return Status();
}

}  // namespace moebius
