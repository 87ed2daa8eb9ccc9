// BatchAdapter: a LoRA adapter that some sequences of a batch use, while others use another one or none.
//
// Matrix products read the weights once for all rows; what an adapter adds is computed for its rows alone
// (add_adapter of kernels/ops.h). What cannot be had that way is run for an adapter's rows with matrices of
// their own: the router and MLA's kv_b, which are merged copies (engine/adapted_weights.h), and the routed
// experts of layers where the adapter has some. A row's result depends on no other row's adapter.
//
// open() and the members about files may be called from any thread; place() and follow(), and the last
// release of one that is placed, belong to the thread that steps.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "engine/adapted_weights.h"
#include "engine/forward.h"

namespace moebius {

class BatchAdapter {
 public:
  // The adapter in dir, as read_adapter() reads it, on these weights, which must outlive it and have no
  // adapter of their own.
  static Result<std::shared_ptr<BatchAdapter>> open(const std::string& dir, const ModelConfig& config,
                                                    const Weights& base);

  const std::string& fingerprint() const { return fingerprint_; }  // two with other numbers differ
  const std::string& description() const { return description_; }  // one line: rank, matrices by role
  int64_t bytes() const { return bytes_; }                         // of its factors and merged copies

  // Before its first step: brings it to where the model is. kNoMemory says what is missing.
  Status place(const Model& model);
  // Before every step, while the device is idle: experts may have moved.
  void follow(const Model& model);

  // Only matrices that have an adapter lie where they are used; the others are not to be read.
  const Weights& weights() const { return placed_; }
  const Weights& host_weights() const { return on_host_weights_->weights(); }  // the same on the host
  const LayerWeights& layer(int64_t l) const { return placed_.layers[static_cast<size_t>(l)]; }
  // The lists of experts that the device and the host compute with; null where the adapter leaves the layer's
  // experts alone.
  const std::vector<ExpertWeights>* on_device(int64_t l) const { return list(on_device_, l); }
  const std::vector<ExpertWeights>* on_host(int64_t l) const { return list(on_host_, l); }

 private:
  using Lists = std::vector<std::vector<ExpertWeights>>;
  BatchAdapter() = default;
  static const std::vector<ExpertWeights>* list(const Lists& lists, int64_t l) {
    const std::vector<ExpertWeights>& at = lists[static_cast<size_t>(l)];
    return at.empty() ? nullptr : &at;
  }

  std::string fingerprint_, description_;
  int64_t bytes_ = 0;
  std::unique_ptr<AdaptedWeights> on_host_weights_;
  Weights placed_;
  std::deque<Lora> loras_;  // on the device; matrices of placed_ point at them
  Buffer memory_;
  bool is_placed_ = false;
  Lists on_device_, on_host_;
};

}  // namespace moebius
