// ExpertRing: places on a device through which experts of the host pass, the next on its way while the device
// computes the last (the staging ring of stream-loading prefill, arXiv 2606.10493).
#pragma once

#include <vector>

#include "kernels/backend.h"

namespace moebius {

class ExpertRing {
 public:
  // place_bytes: of the largest expert, as expert_bytes() counts.
  static Result<ExpertRing> create(int64_t places, int64_t place_bytes, Backend& backend);

  // Queues the way of an expert into the next place, once what last used the place is done; what is queued on
  // kCompute next finds it there. Its weights must stay on the host until a sync. No adapters.
  ExpertWeights load(const ExpertWeights& expert);
  // What was queued on kCompute up to here is all that uses the experts loaded since the last call: at most
  // half of the places, or the link would stand still meanwhile.
  void used();
  int64_t group() const { return std::ssize(places_) / 2; }

 private:
  struct Place {
    Event free;
    bool taken = false;  // ever
  };
  explicit ExpertRing(Backend& backend) : backend_(&backend) {}

  Backend* backend_;
  Buffer memory_;
  int64_t place_bytes_ = 0;
  std::vector<Place> places_;
  size_t next_ = 0, first_unused_ = 0;  // count up; modulo the places
};

}  // namespace moebius
