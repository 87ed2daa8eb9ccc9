#include "engine/cold_experts.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <span>

namespace moebius {
namespace {

constexpr size_t kCacheLine = 64;  // bytes

bool all_experts(const Tensor& ids, int64_t experts) {
  const std::span<const int32_t> all(ids.i32(), static_cast<size_t>(ids.numel()));
  return std::ranges::all_of(all, [&](int32_t id) { return id >= -1 && id < experts; });
}

}  // namespace

Result<std::unique_ptr<ColdExperts>> ColdExperts::create(const ModelConfig& config, const Options& options,
                                                         ExpertStore& store, Backend& host, Backend& device) {
  std::unique_ptr<ColdExperts> cold(new ColdExperts(config, options, store, host, device));
  for (size_t m = 0; m < kMailboxes; ++m) {
    const int64_t slots = options.tokens[m] * config.moe.top_k;
    const int64_t numbers = options.tokens[m] * config.hidden + slots + slots * config.hidden + 3 * 64;
    MOEBIUS_ASSIGN(cold->memory_[m], device.alloc_pinned(static_cast<size_t>(numbers) * sizeof(float)));
  }
  MOEBIUS_ASSIGN(cold->flag_memory_, device.alloc_pinned(2 * kCacheLine));
  cold->asked_ = new (cold->flag_memory_.data()) Flag(0);
  cold->answered_ = new (cold->flag_memory_.as<char>() + kCacheLine) Flag(0);
  if (options.overlap) cold->worker_ = std::thread([c = cold.get()] { c->work(); });
  return cold;
}

ColdExperts::~ColdExperts() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (worker_.joinable()) worker_.join();
}

ColdExperts::Mailbox ColdExperts::lay_out(int mailbox, int64_t n) const {
  MOEBIUS_CHECK(n <= options_.tokens[static_cast<size_t>(mailbox)]);
  Arena arena(memory_[static_cast<size_t>(mailbox)]);
  const int64_t k = config_.moe.top_k;
  return {arena.take(DType::kF32, {n, config_.hidden}), arena.take(DType::kI32, {n, k}),
          arena.take(DType::kF32, {n, k, config_.hidden})};
}

void ColdExperts::ask(int64_t layer, int mailbox, const Tensor& h, const Tensor& ids,
                      std::vector<ExpertRows> on_host) {
  Job job{layer, ++ticket_, lay_out(mailbox, h.shape[0]), std::move(on_host)};
  in_mailbox_[static_cast<size_t>(mailbox)] = job.ticket;
  device_.copy(h, job.mail.x);
  device_.copy(ids, job.mail.ids);
  if (!worker_.joinable()) {
    const Status status = device_.sync();  // an error stays for the step's own sync
    if (status.ok() && error_.ok()) error_ = compute(job);
    return;
  }
  device_.raise(*asked_, ticket_);
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  changed_.notify_all();
}

void ColdExperts::answer(int mailbox, const std::vector<ExpertWeights>& on_device, const Tensor& ids,
                         const Tensor& slots) {
  if (worker_.joinable()) device_.await(*answered_, in_mailbox_[static_cast<size_t>(mailbox)]);
  const Mailbox mail = lay_out(mailbox, ids.shape[0]);
  device_.take_slots({mail.slots, on_device.data(), std::ssize(on_device), ids, slots});
}

Status ColdExperts::compute(const Job& job) {
  if (job.ticket == options_.fail) return no_memory("the host's experts failed, as they were told to");
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  const std::vector<ExpertWeights>& experts = *job.rows.front().experts;
  const auto on_host = [](Tensor t) {
    t.space = Space::kHost;
    return t;
  };
  const Tensor ids = on_host(job.mail.ids), x = on_host(job.mail.x), slots = on_host(job.mail.slots);
  if (!all_experts(ids, std::ssize(experts)))
    return Status();  // the device has failed, and the step's sync says so
  if (options_.disk) options_.disk->chosen(job.layer, ids, experts);
  try {
    for (const ExpertRows& r : job.rows)
      host_.expert_ffn({x.rows(r.begin, r.count), r.experts->data(), std::ssize(*r.experts),
                        ids.rows(r.begin, r.count), slots.rows(r.begin, r.count)});
  } catch (const std::bad_alloc&) {  // of buffers within the operation
    return no_memory("the host has no memory to compute its experts with; close other programs");
  }
  const Clock::time_point end = Clock::now();
  store_.count(job.layer, ids, experts, std::chrono::nanoseconds(end - start).count());
  if (tracer_) tracer_->add({Tracer::Row::kHostExperts, "experts", job.layer, start, end});
  return Status();
}

void ColdExperts::work() {
  while (true) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stop_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    device_.wait_on_host(*asked_, job.ticket);
    if (error_.ok()) error_ = compute(job);
    answered_->store(job.ticket, std::memory_order_release);
    answered_->notify_all();
  }
}

}  // namespace moebius
