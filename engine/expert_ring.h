// ExpertRing: places on a device through which experts of the host pass, the next on its way while the device
// computes the last (the staging ring of stream-loading prefill, arXiv 2606.10493).
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <vector>

#include "engine/disk_tier.h"
#include "engine/plan_layer.h"
#include "kernels/backend.h"

namespace moebius {

// What work that is queued reads, until a sync: lists of experts, and the adapters that they point at.
struct QueuedExperts {
  std::deque<std::vector<ExpertWeights>> lists;
  std::deque<Lora> loras;
  std::deque<DiskTier::Chosen> from_disk;
  void clear() { lists.clear(), loras.clear(), from_disk.clear(); }
};

class ExpertRing {
 public:
  // place_bytes: of the largest expert, as expert_bytes() counts.
  static Result<ExpertRing> create(int64_t places, int64_t place_bytes, Backend& backend);

  // Queues the way of an expert, with its adapters, into the next place, once what last used the place is
  // done. Its weights must stay on the host until a sync. loras: holds what the result points at. With
  // gradients, the sums of its adapters' come along, and go back to where they came from before the place is
  // used again.
  ExpertWeights load(const ExpertWeights& expert, std::deque<Lora>& loras, bool gradients = false);
  // What the link takes from now on is added to a counter, in nanoseconds.
  void count_time(std::atomic<int64_t>& ns) { ns_ = &ns; }
  // What is queued on kCompute next finds there all that was loaded.
  void arrive();
  // What was queued on kCompute up to here is all that uses the experts loaded since the last call: at most
  // half of the places, or the link would stand still meanwhile.
  void used();
  int64_t group() const { return std::ssize(places_) / 2; }
  // Loads the experts that are to be streamed, and calls compute(experts of a group, the others elsewhere)
  // for one group after another. been_here: takes them all over, where they were.
  void stream(const std::vector<ExpertWeights>& experts, const std::vector<Where>& where, bool gradients,
              QueuedExperts& queued, std::vector<ExpertWeights>& been_here,
              const std::function<void(const std::vector<ExpertWeights>&)>& compute);
  // Queues the way back of all gradients that are still here.
  void give_back();

 private:
  struct Sums {  // of an adapter's gradient, on the device and on the host
    Tensor here, home;
  };
  struct Place {
    Event free;
    bool taken = false;  // ever
    std::vector<Sums> sums;
  };
  explicit ExpertRing(Backend& backend) : backend_(&backend) {}
  void empty(Place& place);

  Backend* backend_;
  Buffer memory_;
  int64_t place_bytes_ = 0;
  std::atomic<int64_t>* ns_ = nullptr;
  std::vector<Place> places_;
  size_t next_ = 0, first_unused_ = 0;  // count up; modulo the places
};

}  // namespace moebius
