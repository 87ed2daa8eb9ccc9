#include "engine/cold_experts.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <span>

#include "engine/mailbox.h"

namespace moebius {
namespace {

bool all_experts(const Tensor& ids, int64_t experts) {
  const std::span<const int32_t> all(ids.i32(), static_cast<size_t>(ids.numel()));
  return std::ranges::all_of(all, [&](int32_t id) { return id >= -1 && id < experts; });
}

}  // namespace

Result<std::unique_ptr<ColdExperts>> ColdExperts::create(const ModelConfig& config, const Options& options,
                                                         ExpertStore& store, Backend& host, Backend& device) {
  std::unique_ptr<ColdExperts> cold(new ColdExperts(config, options, store, host, device));
  for (size_t m = 0; m < kMailboxes; ++m) {
    const size_t bytes = static_cast<size_t>(mailbox_bytes(config, cold->most_tokens(m)));
    MOEBIUS_ASSIGN(cold->memory_[m], device.alloc_pinned(bytes));
  }
  const int64_t ids = config.layers * (options.tokens[0] + options.tokens[1]) * config.moe.top_k;
  MOEBIUS_ASSIGN(cold->ids_memory_, device.alloc_pinned(static_cast<size_t>(ids) * sizeof(int32_t)));
  MOEBIUS_ASSIGN(cold->worker_, HostWorker::create(device, options.overlap));
  return cold;
}

void ColdExperts::note_resident(int64_t layer, const Workspace& ws) {
  const int64_t first = layer * (options_.tokens[0] + options_.tokens[1]) + ws.mailbox * options_.tokens[0];
  const int64_t n = ws.expert_ids.shape[0], k = config_.moe.top_k;
  const Tensor ids(ids_memory_.as<int32_t>() + first * k, DType::kI32, {n, k}, Space::kPinned);
  device_.copy(ws.expert_ids, ids);
  resident_.push_back({layer, ids});
}

void ColdExperts::count_resident() {
  for (const ResidentLayer& r : resident_) store_.count(r.layer, on_host(r.ids), store_.on_host(r.layer), 0);
  resident_.clear();
}

int64_t ColdExperts::pinned_bytes() const {
  int64_t bytes = static_cast<int64_t>(ids_memory_.bytes());
  for (const Buffer& mailbox : memory_) bytes += static_cast<int64_t>(mailbox.bytes());
  return bytes;
}

ColdExperts::Mailbox ColdExperts::lay_out(int mailbox, int64_t n) const {
  MOEBIUS_CHECK(n <= most_tokens(static_cast<size_t>(mailbox)));
  Arena arena(memory_[static_cast<size_t>(mailbox)]);
  const int64_t k = config_.moe.top_k;
  return {arena.take(DType::kF32, {n, config_.hidden}), arena.take(DType::kI32, {n, k}),
          arena.take(DType::kF32, {n, k, config_.hidden})};
}

void ColdExperts::ask(int64_t layer, int mailbox, const Tensor& h, const Tensor& ids,
                      std::vector<ExpertRows> on_host) {
  Job job{layer, lay_out(mailbox, h.shape[0]), std::move(on_host)};
  device_.copy(h, job.mail.x);
  device_.copy(ids, job.mail.ids);
  const bool fails = ++requests_ == options_.fail;
  ticket_[static_cast<size_t>(mailbox)] = worker_->ask([this, fails, job = std::move(job)] {
    return fails ? no_memory("the host's experts failed, as they were told to") : compute(job);
  });
}

void ColdExperts::answer(int mailbox, const std::vector<ExpertWeights>& on_device, const Tensor& ids,
                         const Tensor& slots) {
  worker_->await(ticket_[static_cast<size_t>(mailbox)]);
  const Mailbox mail = lay_out(mailbox, ids.shape[0]);
  device_.take_slots({mail.slots, on_device.data(), std::ssize(on_device), ids, slots});
}

Status ColdExperts::compute(const Job& job) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  const std::vector<ExpertWeights>& experts = *job.rows.front().experts;
  const Tensor ids = on_host(job.mail.ids), x = on_host(job.mail.x), slots = on_host(job.mail.slots);
  if (!all_experts(ids, std::ssize(experts)))
    return Status();  // the device has failed, and the step's sync says so
  const auto run = [&](const Tensor& of, const std::vector<ExpertWeights>& list, const ExpertRows& r) {
    host_.expert_ffn({x.rows(r.begin, r.count), list.data(), std::ssize(list), of.rows(r.begin, r.count),
                      slots.rows(r.begin, r.count)});
  };
  try {
    if (options_.disk) {
      DiskTier::Chosen chosen = options_.disk->chosen(job.layer, ids, experts);
      options_.disk->in_two(chosen, [&](const Tensor& part) {
        for (const ExpertRows& r : job.rows) run(part, options_.disk->placed(chosen, *r.experts), r);
      });
    } else {
      for (const ExpertRows& r : job.rows) run(ids, *r.experts, r);
    }
  } catch (const std::bad_alloc&) {  // of buffers within the operation
    return no_memory("the host has no memory to compute its experts with; close other programs");
  }
  const Clock::time_point end = Clock::now();
  store_.count(job.layer, ids, experts, std::chrono::nanoseconds(end - start).count());
  if (tracer_) tracer_->add({Tracer::Row::kHostExperts, "experts", job.layer, start, end});
  return Status();
}

}  // namespace moebius
