#include "engine/prefill.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "engine/mailbox.h"
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
  p->break_even_ = break_even_tokens(static_cast<double>(expert_bytes(first)), weights_of(first),
                                     static_cast<double>(vector_bytes(config)), speeds);
  return p;
}

StreamedPrefill::Tokens StreamedPrefill::tokens() const {
  Arena arena(memory_);
  return lay_out(config_, pass_ ? std::ssize(pass_->ids) : sizes_.pass_tokens, arena);
}

// A slice is a workspace whose lasting tensors are rows of the pass.
Workspace StreamedPrefill::slice(int64_t index) const {
  const int64_t* bounds = pass_->bounds.data() + index;
  const int64_t begin = bounds[0], n = bounds[1] - begin;
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
  pass_.emplace(Pass{model, cache, table, workspace, {ids.begin(), ids.end()}, position, store_.heat()});
  const int64_t n = std::ssize(ids);
  for (int64_t at = 0; at < n; pass_->bounds.push_back(at)) at += prompt_part(n - at, slice_tokens);
  ring_->used();  // what a pass brought that was given up
  queued_.clear();
  bring_ahead(0);
}

double StreamedPrefill::part_done() const {
  const double slices = static_cast<double>(pass_->slices()), layers = static_cast<double>(config_.layers);
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
  if (++p.slice < p.slices()) return Status();
  p.slice = 0;
  p.routed = p.layer >= 0 && !p.model.weights.layers[static_cast<size_t>(p.layer)].experts.empty();
  if (!p.routed) ++p.layer;
  return Status();
}

Status StreamedPrefill::settle() {
  MOEBIUS_TRY(device_.sync_compute());
  queued_.clear();
  return pass_->model.cold->error();
}

void StreamedPrefill::run_slice() {
  const Pass& p = *pass_;
  const Workspace ws = slice(p.slice);
  const int64_t begin = p.bounds[static_cast<size_t>(p.slice)], n = ws.x.shape[0];
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

// Attention and router are over when the experts are planned.
LayerFrame StreamedPrefill::frame(int64_t layer, double tokens) const {
  LayerFrame frame;
  frame.bring(tokens, static_cast<double>(vector_bytes(config_)), speeds_);
  const FfnWeights& shared = host_.layers[static_cast<size_t>(layer)].ffn;
  for (const Matrix* w : {&shared.gate, &shared.up, &shared.down}) {
    const double bytes = static_cast<double>(w->bytes()), weights = static_cast<double>(w->rows * w->cols);
    frame.device_s +=
        1e-9 * std::max(bytes / speeds_.device_GBs, 2 * tokens * weights / speeds_.device_GFLOPs);
  }
  return frame;
}

std::vector<ExpertLoad> StreamedPrefill::loads(int64_t layer) const {
  const std::vector<ExpertWeights>& experts = host_.layers[static_cast<size_t>(layer)].experts;
  std::vector<ExpertLoad> loads = expert_loads(experts, store_.on_device(layer));
  for (size_t e = 0; e < loads.size(); ++e)
    loads[e].in_ram =
        loads[e].resident ? !store_.releases() : !disk_ || disk_->in_cache(layer, static_cast<int64_t>(e));
  return loads;
}

// Half of the ring, with those of the experts to be streamed that will have the most tokens, if the pass's
// fall as earlier ones did.
void StreamedPrefill::bring_ahead(int64_t layer) {
  while (layer < config_.layers && host_.layers[static_cast<size_t>(layer)].experts.empty()) ++layer;
  if (disk_ || layer == config_.layers) return;  // from disk they come when they are known
  const std::vector<ExpertWeights>& experts = host_.layers[static_cast<size_t>(layer)].experts;
  const std::vector<double>& heat = pass_->heat[static_cast<size_t>(layer)];
  const double n = static_cast<double>(std::ssize(pass_->ids)), k = static_cast<double>(config_.moe.top_k);
  const double all = std::accumulate(heat.begin(), heat.end(), 0.0);
  std::vector<ExpertLoad> loads = this->loads(layer);
  for (size_t e = 0; e < loads.size(); ++e)
    loads[e].tokens = n * k * (all > 0 ? heat[e] / all : 1 / static_cast<double>(loads.size()));
  const LayerPlan plan = plan_layer(loads, speeds_, frame(layer, n));
  std::vector<size_t> streamed;
  for (size_t e = 0; e < experts.size(); ++e)
    if (plan.where[e] == Where::kStreamed) streamed.push_back(e);
  std::ranges::stable_sort(streamed, std::greater(), [&](size_t e) { return loads[e].tokens; });
  if (std::ssize(streamed) > ring_->group()) streamed.resize(static_cast<size_t>(ring_->group()));
  ahead_ = {std::vector<ExpertWeights>(experts.size()), {}};
  ring_->count_time(store_.link_ns(layer));
  int64_t bytes = 0;
  for (const size_t e : streamed) {
    ahead_.experts[e] = ring_->load(experts[e], ahead_.loras);
    bytes += expert_bytes(experts[e]);
  }
  store_.count_streamed(layer, bytes);
}

// What was brought ahead counts as the device's own; what the CPU takes of that, as the CPU's.
StreamedPrefill::Split StreamedPrefill::split() {
  const Pass& p = *pass_;
  const std::vector<ExpertWeights>& experts = host_.layers[static_cast<size_t>(p.layer)].experts;
  std::vector<ExpertWeights>& on_host = queued_.lists.emplace_back(experts.size());
  std::vector<ExpertWeights>& on_device = queued_.lists.emplace_back(store_.on_device(p.layer));
  std::vector<ExpertLoad> loads = this->loads(p.layer);
  arrived_ = std::exchange(ahead_, Ahead());
  for (size_t e = 0; e < arrived_.experts.size(); ++e) {
    if (arrived_.experts[e].elsewhere() || !on_device[e].elsewhere()) continue;
    on_device[e] = arrived_.experts[e], loads[e].resident = loads[e].in_ram = true;
  }
  add_tokens(routed_, loads);
  LayerPlan plan = plan_layer(loads, speeds_, frame(p.layer, static_cast<double>(std::ssize(p.ids))));
  std::vector<ExpertWeights> read(experts.size());
  int64_t streamed_bytes = 0;
  for (size_t e = 0; e < experts.size(); ++e) {
    if (plan.where[e] == Where::kCpu) on_host[e] = experts[e], on_device[e] = ExpertWeights();
    if (plan.where[e] == Where::kCpu || plan.where[e] == Where::kStreamed) read[e] = experts[e];
    if (plan.where[e] == Where::kStreamed) streamed_bytes += expert_bytes(experts[e]);
  }
  store_.count_streamed(p.layer, streamed_bytes);
  return {std::move(plan), on_host, on_device, std::move(read)};
}

Status StreamedPrefill::run_experts() {
  const Pass& p = *pass_;
  const Tokens t = tokens();
  routed_ =
      Tensor(pinned_.data(), DType::kI32, {t.expert_ids.shape[0], t.expert_ids.shape[1]}, Space::kPinned);
  device_.copy(t.expert_ids, routed_);
  MOEBIUS_TRY(settle());  // now the tokens are known that each has
  const auto [plan, on_host, on_device, read] = split();
  const std::vector<ExpertWeights>& experts = host_.layers[static_cast<size_t>(p.layer)].experts;
  std::optional<DiskTier::Chosen> chosen;
  if (disk_) chosen = disk_->chosen(p.layer, routed_, read);
  const bool any_on_host =
      std::ranges::any_of(on_host, [](const ExpertWeights& e) { return !e.elsewhere(); });
  if (any_on_host) {
    p.model.cold->ask(p.layer, 0, t.h, t.expert_ids, {{0, t.h.shape[0], &on_host}});
  } else {
    store_.count(p.layer, routed_, on_host, 0);
  }
  const auto timed = [&](const auto& work) {
    device_.begin_timing(Stream::kCompute);
    work();
    device_.end_timing(Stream::kCompute, store_.device_ns(p.layer));
  };
  const auto compute = [&](const std::vector<ExpertWeights>& list) {
    timed([&] { device_.expert_ffn({t.h, list.data(), std::ssize(list), t.expert_ids, t.slots}); });
  };
  timed([&] {
    for (int64_t i = 0; i < p.slices(); ++i) shared_forward(p.model, p.layer, slice(i));
  });
  ring_->arrive();
  compute(on_device);
  ring_->used();
  // What the CPU computes is all that is elsewhere once the streamed experts have been here.
  const std::vector<ExpertWeights>* streamed = &experts;
  if (chosen) {
    disk_->wait(*chosen);
    streamed = &queued_.lists.emplace_back(disk_->placed(*chosen, experts));
    queued_.from_disk.push_back(std::move(*chosen));
  }
  std::vector<ExpertWeights>& been_here = queued_.lists.emplace_back(on_device);
  ring_->count_time(store_.link_ns(p.layer));
  ring_->stream(*streamed, plan.where, false, queued_, been_here, compute);
  if (any_on_host) p.model.cold->answer(0, been_here, t.expert_ids, t.slots);
  device_.combine({t.slots, t.expert_ids, t.expert_weights, t.x});
  bring_ahead(p.layer + 1);
  return Status();
}

}  // namespace moebius
