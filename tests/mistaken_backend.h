// A backend that makes one deliberate mistake in the backward pass and is right otherwise: what a comparison
// of gradients must notice.
#pragma once

#include <vector>

#include "kernels/backend.h"

namespace moebius::test {

enum class Mistake : uint8_t {
  kNone,
  kRouterNotNormalised,  // the derivative of weights that are not divided by their sum
  kRouterNotScaled,
  kRouterConstant,        // weights without a derivative
  kSequencesJoined,       // attention's derivative looks across sequences
  kSharedKeyForgotten,    // nothing flows back into MLA's rotary key
  kRotationNotUndone,     // the gradients of q and k turn on as the forward did
  kNormEps,               // eps left out of the derivative of a norm
  kSwigluByAThousandth,   // 1.001 times what it should be
  kExpertsWeighOne,       // gradients of experts as if their weight were 1
  kLossWeightsForgotten,  // every row weighs 1
  kBiasForgotten,
  kAdapterByAThousandth,
};

class MistakenBackend final : public Backend {
 public:
  MistakenBackend(Backend& right, Mistake mistake) : right_(right), mistake_(mistake) {}

  std::string name() const override { return right_.name(); }
  Result<Buffer> alloc(size_t bytes) override { return right_.alloc(bytes); }
  void zero(const Tensor& to) override { right_.zero(to); }
  void copy(const Tensor& from, const Tensor& to) override { right_.copy(from, to); }
#define X(op, Args)                         \
  void op(const Args& args) override {      \
    Args changed = args;                    \
    if (spoil(changed)) right_.op(changed); \
  }
  MOEBIUS_OPS(X)
  MOEBIUS_GRAD_OPS(X)
#undef X

 private:
  // False: do not run it at all.
  template <class Args>
  bool spoil(Args&) {
    return true;
  }
  bool spoil(RouterBackwardArgs& args) {
    if (mistake_ == Mistake::kRouterNotNormalised) args.normalize = false;
    if (mistake_ == Mistake::kRouterNotScaled) args.scale = 1;
    return mistake_ != Mistake::kRouterConstant;
  }
  bool spoil(AttentionBackwardArgs& args) {
    joined_ = {0, args.q.shape[0]};
    if (mistake_ == Mistake::kSequencesJoined) args.starts = joined_;
    if (mistake_ == Mistake::kSharedKeyForgotten) args.dshared = scratch(args.dshared, 0);
    return true;
  }
  // The forward's sines come first, later those with the other sign.
  bool spoil(RotaryArgs& args) {
    if (!sin_.data) sin_ = args.sin;
    if (mistake_ == Mistake::kRotationNotUndone) args.sin = sin_;
    return true;
  }
  bool spoil(RmsNormBackwardArgs& args) {
    if (mistake_ == Mistake::kNormEps) args.eps = 0;
    return true;
  }
  bool spoil(SwigluBackwardArgs& args) {
    if (mistake_ == Mistake::kSwigluByAThousandth) {
      for (int64_t i = 0; i < args.dy.shape[0]; ++i)
        for (int64_t j = 0; j < args.dy.shape[1]; ++j) args.dy.f32()[i * args.dy.stride[0] + j] *= 1.001f;
    }
    return true;
  }
  bool spoil(ExpertFfnBackwardArgs& args) {
    if (mistake_ == Mistake::kExpertsWeighOne) args.weights = scratch(args.weights, 1);
    return true;
  }
  bool spoil(CrossEntropyArgs& args) {
    if (mistake_ == Mistake::kLossWeightsForgotten) args.weights = Tensor();
    return true;
  }
  bool spoil(LinearBackwardArgs& args) {
    if (mistake_ == Mistake::kBiasForgotten) args.dbias = Tensor();
    if (mistake_ == Mistake::kAdapterByAThousandth && args.w.lora) {
      adapter_ = *args.w.lora;
      adapter_.scale *= 1.001f;
      args.w.lora = &adapter_;
    }
    return true;
  }

  // A tensor of the same shape, elsewhere.
  Tensor scratch(const Tensor& like, float value) {
    scratch_.assign(static_cast<size_t>(like.numel()), value);
    return like.ndim == 3 ? f32_tensor(scratch_.data(), {like.shape[0], like.shape[1], like.shape[2]})
                          : f32_tensor(scratch_.data(), {like.shape[0], like.shape[1]});
  }

  Backend& right_;
  Mistake mistake_;
  Tensor sin_;
  Lora adapter_;
  std::vector<int64_t> joined_;
  std::vector<float> scratch_;
};

}  // namespace moebius::test
