#include "engine/host_worker.h"

#include <new>

namespace moebius {
namespace {

constexpr size_t kCacheLine = 64;  // bytes

}  // namespace

Result<std::unique_ptr<HostWorker>> HostWorker::create(Backend& device, bool overlap) {
  std::unique_ptr<HostWorker> worker(new HostWorker(device));
  MOEBIUS_ASSIGN(worker->flag_memory_, device.alloc_pinned(2 * kCacheLine));
  worker->asked_ = new (worker->flag_memory_.data()) Flag(0);
  worker->answered_ = new (worker->flag_memory_.as<char>() + kCacheLine) Flag(0);
  if (overlap) worker->worker_ = std::thread([w = worker.get()] { w->work(); });
  return worker;
}

HostWorker::~HostWorker() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (worker_.joinable()) worker_.join();
}

uint64_t HostWorker::ask(Work work) {
  Job job{++ticket_, std::move(work)};
  if (!worker_.joinable()) {
    const Status status = device_.sync();  // an error stays for the step's own sync
    if (status.ok() && error_.ok()) error_ = job.work();
    return job.ticket;
  }
  device_.raise(*asked_, job.ticket);
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  changed_.notify_all();
  return ticket_;
}

void HostWorker::await(uint64_t ticket) {
  if (worker_.joinable()) device_.await(*answered_, ticket);
}

void HostWorker::work() {
  while (true) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stop_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    device_.wait_on_host(*asked_, job.ticket);
    if (error_.ok()) error_ = job.work();
    answered_->store(job.ticket, std::memory_order_release);
    answered_->notify_all();
  }
}

}  // namespace moebius
