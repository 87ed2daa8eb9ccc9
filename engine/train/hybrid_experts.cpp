#include "engine/train/hybrid_experts.h"

#include <algorithm>

#include "engine/expert_store.h"
#include "engine/mailbox.h"

namespace moebius {

int64_t HybridExperts::bytes(const Weights& host, const Options& options) {
  return options.ring_places * largest_expert(host);
}

Result<std::unique_ptr<HybridExperts>> HybridExperts::create(const ModelConfig& config,
                                                             const Weights& host_weights,
                                                             const Weights& placed, const Options& options,
                                                             const MachineSpeeds& speeds, Backend& host,
                                                             Backend& device) {
  std::unique_ptr<HybridExperts> h(
      new HybridExperts(config, host_weights, placed, options, speeds, host, device));
  const int64_t n = options.max_tokens, k = config.moe.top_k;
  h->layers_.resize(static_cast<size_t>(config.layers));
  MOEBIUS_ASSIGN(h->ids_memory_, device.alloc_pinned(static_cast<size_t>(config.layers * n * k) * 4));
  const int64_t numbers = n * (2 * config.hidden + 2 * k + k * config.hidden) + 5 * 16;
  MOEBIUS_ASSIGN(h->mail_memory_, device.alloc_pinned(static_cast<size_t>(numbers) * sizeof(float)));
  if (options.ring_places > 0) {
    MOEBIUS_ASSIGN(h->ring_, ExpertRing::create(options.ring_places, largest_expert(host_weights), device));
  }
  MOEBIUS_ASSIGN(h->worker_, HostWorker::create(device, options.overlap));
  return h;
}

HybridExperts::Mailbox HybridExperts::mailbox(int64_t n) const {
  MOEBIUS_CHECK(n <= options_.max_tokens);
  Arena arena(mail_memory_);
  const int64_t k = config_.moe.top_k, hidden = config_.hidden;
  Mailbox mail;
  mail.x = arena.take(DType::kF32, {n, hidden}), mail.dy = arena.take(DType::kF32, {n, hidden});
  mail.weights = arena.take(DType::kF32, {n, k}), mail.dweights = arena.take(DType::kF32, {n, k});
  mail.slots = arena.take(DType::kF32, {n, k, hidden});
  return mail;
}

// Waits for the router; false when the device has failed.
bool HybridExperts::route(int64_t layer, const Workspace& ws) {
  const int64_t n = ws.expert_ids.shape[0], k = ws.expert_ids.shape[1];
  const Tensor ids(ids_memory_.as<int32_t>() + layer * options_.max_tokens * k, DType::kI32, {n, k},
                   Space::kPinned);
  device_.copy(ws.expert_ids, ids);
  if (!device_.sync().ok()) return false;  // it stays for the step's own sync
  queued_.clear();
  at(layer).ids = on_host(ids);
  return true;
}

void HybridExperts::split(int64_t layer) {
  Layer& l = at(layer);
  const std::vector<ExpertWeights>& experts = host_weights_.layers[static_cast<size_t>(layer)].experts;
  std::vector<ExpertLoad> loads = expert_loads(experts, resident(layer));
  add_tokens(l.ids, loads);
  LayerFrame frame;
  frame.bring(static_cast<double>(l.ids.shape[0]), static_cast<double>(vector_bytes(config_)), speeds_);
  frame.can_stream = ring_.has_value();
  frame.share_residents = false;  // the gradients of their adapters are on the device
  l.plan = plan_layer(loads, speeds_, frame);
  l.on_host.assign(experts.size(), ExpertWeights()), l.been_here = resident(layer);
  for (size_t e = 0; e < experts.size(); ++e)
    if (l.plan.where[e] == Where::kCpu) l.on_host[e] = experts[e];
  l.any_on_host = l.plan.cpu > 0;
  counts_.resident += l.plan.resident, counts_.streamed += l.plan.streamed, counts_.cpu += l.plan.cpu;
}

template <class Compute>
void HybridExperts::compute_here(int64_t layer, bool gradients, const Compute& compute) {
  compute(resident(layer));
  Layer& l = at(layer);
  if (l.plan.streamed > 0)
    ring_->stream(host_weights_.layers[static_cast<size_t>(layer)].experts, l.plan.where, gradients, queued_,
                  l.been_here, compute);
}

void HybridExperts::forward(const Model& m, int64_t layer, const Workspace& ws) {
  if (!route(layer, ws)) return;
  split(layer);
  const Layer& l = at(layer);
  const Mailbox mail = mailbox(ws.h.shape[0]);
  uint64_t ticket = 0;
  if (l.any_on_host) {
    device_.copy(ws.h, mail.x);
    ticket = worker_->ask([this, &l, mail] {
      host_.expert_ffn(
          {on_host(mail.x), l.on_host.data(), std::ssize(l.on_host), l.ids, on_host(mail.slots)});
      return Status();
    });
  }
  shared_forward(m, layer, ws);
  const auto compute = [&](const std::vector<ExpertWeights>& experts) {
    device_.expert_ffn({ws.h, experts.data(), std::ssize(experts), ws.expert_ids, ws.slots});
  };
  compute_here(layer, false, compute);
  if (l.any_on_host) {
    worker_->await(ticket);
    device_.take_slots({mail.slots, l.been_here.data(), std::ssize(l.been_here), ws.expert_ids, ws.slots});
  }
  device_.combine({ws.slots, ws.expert_ids, ws.expert_weights, ws.x});
}

void HybridExperts::backward(const Model&, int64_t layer, const Workspace& ws, const Tensor& dy,
                             const Tensor& dweights) {
  const Layer& l = at(layer);
  const int64_t n = ws.h.shape[0], k = config_.moe.top_k;
  const Mailbox mail = mailbox(n);
  uint64_t ticket = 0;
  if (l.any_on_host) {
    device_.copy(ws.h, mail.x), device_.copy(dy, mail.dy), device_.copy(ws.expert_weights, mail.weights);
    ticket = worker_->ask([this, &l, mail] {
      host_.expert_ffn_backward({on_host(mail.x), l.on_host.data(), std::ssize(l.on_host), l.ids,
                                 on_host(mail.weights), on_host(mail.dy), on_host(mail.slots),
                                 on_host(mail.dweights)});
      return Status();
    });
  }
  const auto compute = [&](const std::vector<ExpertWeights>& experts) {
    device_.expert_ffn_backward({ws.h, experts.data(), std::ssize(experts), ws.expert_ids, ws.expert_weights,
                                 dy, ws.slots, dweights});
  };
  compute_here(layer, true, compute);
  if (!l.any_on_host) return;
  worker_->await(ticket);
  const auto take = [&](const Tensor& from, const Tensor& to) {
    device_.take_slots({from, l.been_here.data(), std::ssize(l.been_here), ws.expert_ids, to});
  };
  take(mail.slots, ws.slots);
  take(mail.dweights.reshape({n, k, 1}), dweights.reshape({n, k, 1}));
}

void HybridExperts::finish() {
  if (ring_) ring_->give_back();
}

}  // namespace moebius
