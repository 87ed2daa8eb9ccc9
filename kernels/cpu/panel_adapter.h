// The low-rank adapter of a matrix [out, in] through which chunks of tokens pass over panels, forward and
// backward, on one thread; see panels.h. Without an adapter nothing happens.
#pragma once

#include "kernels/cpu/panels.h"

namespace moebius {

class PanelAdapter {
 public:
  // Memory for matrices of up to this rank and this many rows or columns, and for this many tokens.
  PanelAdapter(int64_t rank, int64_t side, int64_t tokens, Scratch& scratch);

  // da, db: where gradients are added, each may be empty. w and both outlive the use.
  void start(const Matrix& w, const Tensor& da, const Tensor& db);

  // x [n, in], what the matrix gets; before add_product and add_sums.
  void meet(const Panel& x);
  // y [n, tiles of out from `tile` on] += scale (x a^T) b^T
  void add_product(const Panel& y, int64_t tile) const;
  // dy [n, out]; dx [n, in] += scale (dy b) a, unless it is null. Before add_sums.
  void pass_back(const Panel& dy, const Panel* dx);
  // da += scale (dy b)^T x, db += scale dy^T (x a^T), of the x and dy that were met.
  void add_sums(const Panel& x, const Panel& dy) const;

 private:
  int64_t padded_rank() const { return (rank_ + kPanelFours - 1) / kPanelFours * kPanelFours; }
  Panel a() const { return panel_at(a_, padded_rank(), in_); }   // a
  Panel b() const { return panel_at(b_, padded_rank(), out_); }  // b, turned
  Panel mid(int64_t n) const { return panel_at(mid_, n, padded_rank()); }
  Panel dmid(int64_t n) const { return panel_at(dmid_, n, padded_rank()); }
  void narrow(const Panel& x, const Panel& w, const Panel& y) const;
  Panel outer(const Panel& narrow, const Panel& wide, int64_t cols) const;

  const Lora* lora_ = nullptr;
  bool passes_ = false;  // it is no part of the matrix yet
  Tensor da_, db_;
  int64_t rank_ = 0, in_ = 0, out_ = 0;
  float *a_, *b_;           // [rank, in], [rank, out]
  float *mid_, *dmid_;      // [n, rank]: scale x a^T, scale dy b
  float *turned_, *outer_;  // [rank, n], [rank, in or out]
};

}  // namespace moebius
