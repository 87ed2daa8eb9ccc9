#include "kernels/cpu/panel_adapter.h"

#include "kernels/cpu/grad_rows.h"

namespace moebius {
namespace {

void add_sum(const Panel& c, const Panel& w, const Panel& y, bool accumulate) {
  const PanelTerm term{c, w};
  panel_sums_avx512({&term, 1}, y, accumulate);
}

}  // namespace

PanelAdapter::PanelAdapter(int64_t rank, int64_t side, int64_t tokens, Scratch& scratch) : rank_(rank) {
  const int64_t most = padded_rank();
  for (float** at : {&a_, &b_, &outer_}) *at = scratch.take<float>(panel_floats(most, side));
  for (float** at : {&mid_, &dmid_}) *at = scratch.take<float>(panel_floats(tokens, most));
  turned_ = scratch.take<float>(panel_floats(most, tokens));
}

void PanelAdapter::start(const Matrix& w, const Tensor& da, const Tensor& db) {
  lora_ = w.lora, passes_ = w.adapted(), da_ = da, db_ = db;
  if (!lora_) return;
  rank_ = lora_->a.shape[0], in_ = w.cols, out_ = w.rows;
  for (int64_t r = 0; r < padded_rank(); ++r)
    fill_panel_row_avx512(lora_->a.f32() + r * in_, r < rank_ ? in_ : 0, a(), r);
  fill_panel_turned(lora_->b.f32(), out_, rank_, b());
}

void PanelAdapter::meet(const Panel& x) {
  if (lora_ && (passes_ || !db_.empty())) narrow(x, a(), mid(x.rows));
}

void PanelAdapter::add_product(const Panel& y, int64_t tile) const {
  if (passes_) add_sum(mid(y.rows), b().tiles_from(tile, y.tiles), y, true);
}

void PanelAdapter::pass_back(const Panel& dy, const Panel* dx) {
  const bool passes = passes_ && dx;
  if (!lora_ || (!passes && da_.empty())) return;
  narrow(dy, b(), dmid(dy.rows));
  if (passes) add_sum(dmid(dy.rows), a(), *dx, true);
}

void PanelAdapter::add_sums(const Panel& x, const Panel& dy) const {
  if (!da_.empty()) {
    const Panel sums = outer(dmid(x.rows), x, in_);
    for (int64_t r = 0; r < rank_; ++r) add_panel_row(sums, r, in_, da_.f32() + r * da_.stride[0]);
  }
  if (db_.empty()) return;
  const Panel sums = outer(mid(x.rows), dy, out_);
  for (int64_t o = 0; o < out_; ++o)
    for (int64_t r = 0; r < rank_; ++r)
      db_.f32()[o * db_.stride[0] + r] += sums.at(r, o / kPanelTile)[o % kPanelTile];
}

// y = scale * x w^T, w [rank, ...]
void PanelAdapter::narrow(const Panel& x, const Panel& w, const Panel& y) const {
  panel_dots_avx512(x, w, y, 0);
  for (int64_t i = 0; i < y.rows; ++i)
    for (int64_t r = 0; r < rank_; ++r) y.at(i, r / kPanelTile)[r % kPanelTile] *= lora_->scale;
}

// narrow^T wide, [rank, cols]
Panel PanelAdapter::outer(const Panel& narrow, const Panel& wide, int64_t cols) const {
  const Panel turned = panel_at(turned_, rank_, narrow.rows), sums = panel_at(outer_, rank_, cols);
  for (int64_t i = 0; i < narrow.rows; ++i)
    for (int64_t r = 0; r < rank_; ++r)
      turned.at(r, i / kPanelTile)[i % kPanelTile] = narrow.at(i, r / kPanelTile)[r % kPanelTile];
  add_sum(turned, wide, sums, false);
  return sums;
}

}  // namespace moebius
