// HostWorker: a thread of the host that works for a device in the middle of what is queued there, by two
// flags in pinned memory.
//
//   device stream   copies what the host needs to pinned memory, raises `asked`, goes on with its own work
//   worker thread   waits for `asked`, works on pinned memory, raises `answered`
//   device stream   waits for `answered`, goes on with what the host left there
//
// The calling thread only queues. An error of either side raises its flag all the same, so that nobody waits
// for ever; error() tells of it.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "kernels/backend.h"

namespace moebius {

class HostWorker {
 public:
  using Work = std::function<Status()>;

  // overlap: false: the calling thread works, after the device is idle: the slow twin, with the same bits.
  // The device must outlive it.
  static Result<std::unique_ptr<HostWorker>> create(Backend& device, bool overlap);
  ~HostWorker();  // the device must be idle

  // Once all that was queued on kCompute is done, the worker works. The ticket to wait for.
  uint64_t ask(Work work);
  // What is queued on kCompute next comes after the answer.
  void await(uint64_t ticket);

  // The first since start_again(); while the device is idle.
  const Status& error() const { return error_; }
  void start_again() { error_ = Status(); }

 private:
  struct Job {
    uint64_t ticket;
    Work work;
  };
  explicit HostWorker(Backend& device) : device_(device) {}
  void work();

  Backend& device_;
  uint64_t ticket_ = 0;  // of the last request
  Status error_;         // written by the worker before it raises its flag
  Buffer flag_memory_;
  Flag *asked_ = nullptr, *answered_ = nullptr;  // in pinned memory, each in a cache line of its own

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  bool stop_ = false;
  std::thread worker_;  // not joinable without overlap
};

}  // namespace moebius
