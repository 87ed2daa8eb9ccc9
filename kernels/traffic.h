// What an operation must move at least: each of its tensors and matrices once, of routed experts those in
// use with the rows of their tokens, and of a cache the positions that it looks at. A simulated device of a
// given speed takes so long for it; benches count it.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels/grad_ops.h"

namespace moebius {

class Traffic {
 public:
  // args with addresses that the host may read, when the operation's inputs are there.
  template <class Args>
  static double bytes(Args args) {
    // Of the table only rows are read, and of experts whether they are there.
    if constexpr (std::is_same_v<Args, EmbedArgs>) return 2.0 * dense_bytes(args.out);
    if constexpr (std::is_same_v<Args, TakeSlotsArgs>)
      return 2 * rows_of(args, true).slots * row_bytes(args.slots) + dense_bytes(args.ids);
    if constexpr (std::is_same_v<Args, ExpertFfnArgs>) {
      const Rows rows = rows_of(args, false);
      return of(args).stored() + rows.tokens * row_bytes(args.x) + rows.slots * row_bytes(args.slots) +
             dense_bytes(args.ids);
    }
    return of(args).all();
  }
  template <class Args>
  static Traffic of(Args args) {
    Traffic traffic;
    if constexpr (requires { args.ids; }) traffic.ids_ = args.ids;
    if constexpr (requires {
                    args.first;
                    args.q;
                  })
      traffic.positions_ = args.first + args.q.shape[0];
    args.visit(traffic);
    return traffic;
  }
  double all() const { return stored_ + activations_; }
  double stored() const { return stored_; }  // of weights and caches

  void operator()(const Tensor& t) {
    if (!t.empty()) activations_ += dense_bytes(t);
  }
  void operator()(const Matrix& w) {
    if (!w.empty()) stored_ += static_cast<double>(w.bytes());
  }
  void operator()(const CacheView& c) {
    stored_ += static_cast<double>(std::min(positions_, c.capacity) * c.row_bytes());
  }
  void operator()(const ExpertWeights* experts, int64_t count) {
    std::vector<bool> seen(static_cast<size_t>(count));
    for (int64_t i = 0; i < ids_.numel(); ++i) {
      const int32_t id = ids_.i32()[i];
      if (id < 0 || seen[static_cast<size_t>(id)]) continue;
      seen[static_cast<size_t>(id)] = true;
      (*this)(experts[id].gate), (*this)(experts[id].up), (*this)(experts[id].down);
    }
  }
  void operator()(const ExpertGradients* gradients, int64_t count) {
    for (int64_t e = 0; e < count; ++e)
      (*this)(gradients[e].gate), (*this)(gradients[e].up), (*this)(gradients[e].down);
  }
  void operator()(std::span<const int64_t>) {}

 private:
  struct Rows {
    double tokens = 0, slots = 0;
  };
  // The slots whose experts are elsewhere, or are not, and the tokens that have any.
  template <class Args>
  static Rows rows_of(const Args& args, bool elsewhere) {
    Rows rows;
    const int64_t k = args.ids.shape[1];
    for (int64_t t = 0; t < args.ids.shape[0]; ++t) {
      const int32_t* ids = args.ids.i32() + t * args.ids.stride[0];
      const int64_t slots = std::count_if(
          ids, ids + k, [&](int32_t id) { return id >= 0 && args.experts[id].elsewhere() == elsewhere; });
      rows.tokens += slots > 0, rows.slots += static_cast<double>(slots);
    }
    return rows;
  }
  static double row_bytes(const Tensor& t) {
    return static_cast<double>(t.shape[t.ndim - 1]) * static_cast<double>(dtype_bytes(t.dtype));
  }
  static double dense_bytes(const Tensor& t) {
    return static_cast<double>(t.numel()) * static_cast<double>(dtype_bytes(t.dtype));
  }

  double stored_ = 0, activations_ = 0;
  int64_t positions_ = 0;  // 0 where rows are only written: they are counted as they come
  Tensor ids_;
};

}  // namespace moebius
