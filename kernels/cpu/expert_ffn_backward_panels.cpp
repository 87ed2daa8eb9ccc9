// expert_ffn_backward of frozen experts over panels, with AVX-512. A part of an expert's slots is a task of
// one thread, which takes them in chunks. Weights become float32 some rows at a time, which are used while
// they are in a core's cache and then forgotten: rows of down for dh, then the same rows of gate and up for
// the hidden activations, for their gradients, and for what goes on to dx.
#include <algorithm>

#include "kernels/cpu/expert_parts.h"
#include "kernels/cpu/grad_rows.h"
#include "kernels/cpu/panel_adapter.h"
#include "kernels/cpu/workers.h"

namespace moebius {
namespace {

constexpr int64_t kChunk = 256;    // slots
constexpr int64_t kDownTiles = 2;  // of down's rows that are in float32 at a time

// Memory of one worker, for any choice of experts: what is taken does not depend on what a router chose.
struct Workspace {
  Workspace(const ExpertFfnBackwardArgs& args, Scratch& scratch) {
    const int64_t hidden = args.x.shape[1], chunk = std::min(kChunk, args.ids.numel());
    int64_t width = 0, rank = 0;
    for (const ExpertWeights* e = args.experts; e < args.experts + args.n_experts; ++e) {
      if (e->elsewhere()) continue;
      width = std::max(width, e->gate.rows);
      for (const Matrix* w : {&e->gate, &e->up, &e->down})
        if (w->lora) rank = std::max(rank, w->lora->a.shape[0]);
    }
    const int64_t side = std::max(hidden, width);
    for (float** at : {&x, &dy, &dx}) *at = scratch.take<float>(panel_floats(chunk, hidden));
    for (float** at : {&gate, &up, &dh}) *at = scratch.take<float>(panel_floats(chunk, width));
    for (float** at : {&weights[0], &weights[1]})
      *at = scratch.take<float>(panel_floats(kDownTiles * kPanelTile, side));
    along = scratch.take<float>(chunk), row = scratch.take<float>(side);
    for (int i = 0; i < 3; ++i) adapters.emplace_back(rank, side, chunk, scratch);
  }
  float *x, *dy, *dx;                  // [chunk, hidden]
  float *gate, *up, *dh;               // [chunk, width]; then dgate, dup and h
  float* weights[2];                   // rows of down, or of gate and of up
  float *along, *row;                  // [chunk]: dh . h; a row of a matrix
  std::vector<PanelAdapter> adapters;  // of gate, up and down
};

class PartTask {
 public:
  PartTask(const ExpertFfnBackwardArgs& args, const SortedSlots& sorted, const ExpertPart& part,
           Workspace& work, const HostContext& context)
      : args_(args),
        expert_(args.experts[part.expert]),
        sorted_(sorted),
        part_(part),
        work_(work),
        context_(context),
        hidden_(args.x.shape[1]),
        width_(expert_.gate.rows) {
    const Matrix* matrices[] = {&expert_.gate, &expert_.up, &expert_.down};
    for (size_t i = 0; i < 3; ++i) work.adapters[i].start(*matrices[i], part.sums[i].da, part.sums[i].db);
  }

  void run() {
    if (width_ == 0) return pass_nothing();
    const int64_t chunks = (part_.count + kChunk - 1) / kChunk;
    for (int64_t i = 0; i < chunks; ++i) {
      first_ = part_.first + i * part_.count / chunks;
      n_ = part_.first + (i + 1) * part_.count / chunks - first_;
      x_ = panel_at(work_.x, n_, hidden_), dy_ = panel_at(work_.dy, n_, hidden_);
      dx_ = panel_at(work_.dx, n_, hidden_), gate_ = panel_at(work_.gate, n_, width_);
      up_ = panel_at(work_.up, n_, width_), dh_ = panel_at(work_.dh, n_, width_);
      pass_chunk(!args_.dslots.empty());
      for (int64_t r = 0; r < n_ && !args_.dslots.empty(); ++r)
        copy_panel_row(dx_, r, hidden_, dslot(first_ + r));
    }
  }

 private:
  // An expert that was pruned away.
  void pass_nothing() {
    work_.along[0] = 0;
    for (first_ = part_.first, n_ = 1; first_ < part_.first + part_.count; ++first_) {
      if (!args_.dslots.empty()) std::fill_n(dslot(first_), hidden_, 0.0f);
      store_dweights();
    }
  }

  void pass_chunk(bool want_dx) {
    PanelAdapter &gate = work_.adapters[0], &up = work_.adapters[1], &down = work_.adapters[2];
    const Panel* dx = want_dx ? &dx_ : nullptr;
    gather();
    pass_down();
    down.pass_back(dy_, &dh_);
    gate.meet(x_), up.meet(x_);
    std::fill_n(work_.along, n_, 0.0f);
    for (int64_t tile = 0; tile < gate_.tiles; ++tile) pass_up(tile, want_dx);
    store_dweights();
    gate.pass_back(gate_, dx), up.pass_back(up_, dx);
    down.meet(dh_);
    gate.add_sums(x_, gate_), up.add_sums(x_, up_), down.add_sums(dh_, dy_);
  }

  void gather() {
    for (int64_t r = 0; r < n_; ++r) {
      const int64_t t = sorted_.token[first_ + r];
      fill_panel_row_avx512(args_.x.f32() + t * args_.x.stride[0], hidden_, x_, r);
      fill_panel_row_avx512(args_.dy.f32() + t * args_.dy.stride[0], hidden_, dy_, r);
    }
  }

  // dh = down^T dy
  void pass_down() {
    constexpr int64_t kRows = kDownTiles * kPanelTile;
    for (int64_t begin = 0; begin < hidden_; begin += kRows) {
      const Panel rows = panel_at(work_.weights[0], std::min(kRows, hidden_ - begin), width_);
      fill_panel(expert_.down, begin, hidden_, rows, work_.row, context_);
      const PanelTerm term{dy_.tiles_from(begin / kPanelTile, panel_tiles(rows.rows)), rows};
      panel_sums_avx512({&term, 1}, dh_, begin > 0);
    }
  }

  // A tile of gate, up and dh becomes dgate, dup and h, each times the weight of the slot, and goes on to dx.
  void pass_up(int64_t tile, bool want_dx) {
    const int64_t begin = tile * kPanelTile;
    const Panel gate_rows = panel_at(work_.weights[0], kPanelTile, hidden_),
                up_rows = panel_at(work_.weights[1], kPanelTile, hidden_);
    fill_panel(expert_.gate, begin, width_, gate_rows, work_.row, context_);
    fill_panel(expert_.up, begin, width_, up_rows, work_.row, context_);
    const Panel gate = gate_.tiles_from(tile, 1), up = up_.tiles_from(tile, 1);
    panel_dots_avx512(x_, gate_rows, gate, 0);
    panel_dots_avx512(x_, up_rows, up, 0);
    work_.adapters[0].add_product(gate, tile), work_.adapters[1].add_product(up, tile);
    for (int64_t r = 0; r < n_; ++r) {
      float *g = gate.at(r, 0), *u = up.at(r, 0), *dh = dh_.at(r, tile);
      work_.along[r] +=
          swiglu_gradient_row({g, u, dh, weight(first_ + r), g, u, dh}, kPanelTile, context_.avx2());
    }
    const PanelTerm terms[] = {{gate, gate_rows}, {up, up_rows}};
    if (want_dx) panel_sums_avx512(terms, dx_, tile > 0);
  }

  float* dslot(int64_t slot) const {
    const Tensor& to = args_.dslots;
    return to.f32() + sorted_.token[slot] * to.stride[0] + sorted_.k[slot] * to.stride[1];
  }
  float weight(int64_t slot) const {
    return args_.weights.f32()[sorted_.token[slot] * args_.weights.stride[0] + sorted_.k[slot]];
  }
  void store_dweights() const {
    for (int64_t r = 0; r < n_ && !args_.dweights.empty(); ++r) {
      const int64_t t = sorted_.token[first_ + r], k = sorted_.k[first_ + r];
      args_.dweights.f32()[t * args_.dweights.stride[0] + k] = work_.along[r];
    }
  }

  const ExpertFfnBackwardArgs& args_;
  const ExpertWeights& expert_;
  const SortedSlots& sorted_;
  const ExpertPart& part_;
  Workspace& work_;
  const HostContext& context_;
  const int64_t hidden_, width_;
  int64_t first_ = 0, n_ = 0;  // the chunk's slots
  Panel x_, dy_, dx_, gate_, up_, dh_;
};

}  // namespace

void run_parts_by_panels(const ExpertFfnBackwardArgs& args, const SortedSlots& sorted,
                         const std::vector<ExpertPart>& parts, HostContext& context) {
  const int64_t units = static_cast<int64_t>(parts.size());
  std::vector<Workspace> work;
  for (int i = 0; i < worker_count(context, units); ++i) work.emplace_back(args, context.scratch);
  for_each_unit(context, units, [&](int64_t i, int64_t worker) {
    PartTask(args, sorted, parts[static_cast<size_t>(i)], work[static_cast<size_t>(worker)], context).run();
  });
}

}  // namespace moebius
