// RoutedExperts: who computes the routed experts of a layer while a model is trained, forward and backward,
// when that is not the backend alone (engine/train/hybrid_experts.h).
#pragma once

#include "engine/workspace.h"

namespace moebius {

struct Model;

class RoutedExperts {
 public:
  virtual ~RoutedExperts() = default;
  // ffn_end of forward.h for a layer with experts, after its router.
  virtual void forward(const Model& model, int64_t layer, const Workspace& ws) = 0;
  // expert_ffn_backward of ws.h, with the routing that the forward of this layer had: ws.slots and dweights
  // [n, top_k] of dy [n, hidden].
  virtual void backward(const Model& model, int64_t layer, const Workspace& ws, const Tensor& dy,
                        const Tensor& dweights) = 0;
  // The end of a backward pass.
  virtual void finish() = 0;
  // Of what the host computed; while the device is idle.
  virtual const Status& error() const = 0;
};

}  // namespace moebius
