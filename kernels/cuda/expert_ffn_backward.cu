// The backward of expert_ffn, grouped over experts: the device sorts the slots by expert and finds how many
// there are, and one set of launches does all experts, 64 slots of one by 64 columns at a time.
//
//   gate = gate x, up = up x, dh = down^T dy   three products, the weights read as they lie
//   dgate, dup, weighted h, dweights           number by number
//   dslots = gate^T dgate + up^T dup           one product of both
//   gradients of matrices and adapters         one launch of all of them
#include <vector>

#include "kernels/cuda/expert_gradient.h"

namespace moebius::cuda {
namespace {

using gradient::Experts;
using gradient::Grouped;
using gradient::Mid;
using gradient::Outer;
using gradient::SlotRows;
using gradient::Which;

constexpr Which kMatrices[] = {Which::kGate, Which::kUp, Which::kDown};

const Matrix& matrix_of(const ExpertWeights& e, Which which) {
  return which == Which::kGate ? e.gate : which == Which::kUp ? e.up : e.down;
}

// What goes through adapters, by number of slot: [slots, rank] each.
struct Mids {
  float* forward[3] = {};   // rows a^T of each matrix
  float* backward[3] = {};  // gradients b
};

class Backward {
 public:
  Backward(Context& context, const ExpertFfnBackwardArgs& args)
      : context_(context), args_(args), slots_(args.ids.shape[0] * args.ids.shape[1]) {}

  void run() {
    if (!args_.dweights.empty()) gradient::clear_unused(context_, args_.ids, args_.dweights);
    table_ = upload_experts(context_, args_.experts, args_.n_experts, args_.x.shape[1]);
    if (!table_.experts || !prepare()) return;
    multiply(Which::kGate, Lie::kAlong, x_, gate_), multiply(Which::kUp, Lie::kAlong, x_, up_);
    multiply(Which::kDown, Lie::kAcross, dy_, dh_);
    pass_swiglu();
    if (!args_.dslots.empty() || any_adapter_gradient_)
      make_mid(Which::kGate, Lie::kAcross, gate_), make_mid(Which::kUp, Lie::kAcross, up_);
    if (!args_.dslots.empty()) pass_to_slots();
    if (any_adapter_gradient_) make_mid(Which::kDown, Lie::kAlong, dh_);
    add_gradients();
  }

 private:
  template <class T>
  T* take(int64_t count) {
    return static_cast<T*>(context_.scratch(std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(T))));
  }

  bool prepare() {
    e_.experts = table_.experts, e_.applied = table_.adapters, e_.n_experts = args_.n_experts;
    e_.slots = sort_all_slots(context_, args_.ids, table_, args_.n_experts, kGradLines);
    const int64_t ld = (table_.widest + 3) / 4 * 4;
    auto* tokens = take<int32_t>(slots_);
    auto* hidden = take<float>(3 * slots_ * ld);
    if (e_.slots.most_tiles == 0 || !tokens || !hidden || !prepare_adapters()) return false;
    gradient::find_tokens(context_, e_, slots_, tokens);
    x_ = gradient::slot_rows(args_.x.f32(), args_.x.stride[0], tokens);
    dy_ = gradient::slot_rows(args_.dy.f32(), args_.dy.stride[0], tokens);
    gate_ = gradient::slot_rows(hidden, ld), up_ = gradient::slot_rows(hidden + slots_ * ld, ld);
    dh_ = gradient::slot_rows(hidden + 2 * slots_ * ld, ld);
    return true;
  }
  // Merged adapters, too: they have gradients.
  bool prepare_adapters() {
    std::vector<ExpertAdapters> adapters(static_cast<size_t>(args_.n_experts));
    for (int64_t i = 0; i < args_.n_experts; ++i) {
      const ExpertWeights& e = args_.experts[i];
      if (e.elsewhere()) continue;
      ExpertAdapters& all = adapters[static_cast<size_t>(i)];
      all = {lora_view(e.gate.lora), lora_view(e.up.lora), lora_view(e.down.lora)};
      for (const Which which : kMatrices) {
        const Lora* lora = matrix_of(e, which).lora;
        if (!lora) continue;
        e_.rank = std::max(e_.rank, static_cast<int32_t>(lora->a.shape[0]));
        any_adapter_gradient_ = any_adapter_gradient_ || !lora->da.empty() || !lora->db.empty();
      }
    }
    if (e_.rank == 0) return true;
    e_.adapters = context_.upload(adapters.data(), args_.n_experts);
    auto* mids = take<float>(6 * slots_ * e_.rank);
    for (int i = 0; i < 3; ++i) {
      mids_.forward[i] = mids + i * slots_ * e_.rank;
      mids_.backward[i] = mids + (3 + i) * slots_ * e_.rank;
    }
    return e_.adapters && mids;
  }

  float* mid_of(Which which, Lie lie) const {
    return (lie == Lie::kAlong ? mids_.forward : mids_.backward)[static_cast<int>(which)];
  }
  void make_mid(Which which, Lie lie, const SlotRows& rows) {
    if (e_.rank > 0) gradient::make_mids(context_, e_, lie, {rows, which, mid_of(which, lie)});
  }
  void multiply(Which which, Lie lie, const SlotRows& rows, const SlotRows& out) {
    make_mid(which, lie, rows);
    Grouped g;
    g.terms[0] = {rows, which, mid_of(which, lie)};
    g.columns = static_cast<int32_t>(table_.widest), g.out = out.at, g.ld = out.ld;
    gradient::multiply_experts(context_, e_, lie,
                               which == Which::kDown ? table_.down_formats : table_.up_formats, g);
  }
  void pass_swiglu() {
    gradient::Slopes s{gate_.at, up_.at, dh_.at, gate_.ld, args_.weights.f32(), args_.weights.stride[0]};
    if (!args_.dweights.empty()) s.dweights = args_.dweights.f32(), s.dweights_ld = args_.dweights.stride[0];
    gradient::pass_swiglu(context_, e_, slots_, s);
  }
  void pass_to_slots() {
    Grouped g;
    g.terms[0] = {gate_, Which::kGate, mid_of(Which::kGate, Lie::kAcross)};
    g.terms[1] = {up_, Which::kUp, mid_of(Which::kUp, Lie::kAcross)};
    g.count = 2, g.columns = static_cast<int32_t>(args_.x.shape[1]), g.out = args_.dslots.f32();
    g.token_ld = args_.dslots.stride[0], g.slot_ld = args_.dslots.stride[1];
    gradient::multiply_experts(context_, e_, Lie::kAcross, table_.up_formats, g);
  }

  void add_gradients() {
    for (int64_t i = 0; i < args_.n_experts; ++i) {
      const ExpertWeights& e = args_.experts[i];
      if (e.elsewhere()) continue;
      const ExpertGradients none, &g = args_.gradients ? args_.gradients[i] : none;
      add_matrix(i, Which::kGate, e.gate, g.gate, gate_, x_);
      add_matrix(i, Which::kUp, e.up, g.up, up_, x_);
      add_matrix(i, Which::kDown, e.down, g.down, dy_, dh_);
    }
    if (!outers_.empty())
      gradient::add_outers(context_, e_, outers_.data(), std::ssize(outers_), most_tiles_);
  }
  // dw += dout^T in, and the same through an adapter. The slot's weight is in dout, or in `in` for down.
  void add_matrix(int64_t expert, Which which, const Matrix& w, const Tensor& dw, const SlotRows& dout,
                  const SlotRows& in) {
    add(expert, dout, in, 1, dw);
    if (!w.lora) return;
    const auto mid = [&](Lie lie) { return gradient::slot_rows(mid_of(which, lie), e_.rank); };
    add(expert, mid(Lie::kAcross), in, w.lora->scale, w.lora->da);
    add(expert, dout, mid(Lie::kAlong), w.lora->scale, w.lora->db);
  }
  void add(int64_t expert, const SlotRows& a, const SlotRows& b, float factor, const Tensor& c) {
    if (c.empty() || c.numel() == 0) return;
    Outer outer;
    outer.a = a, outer.b = b, outer.expert = static_cast<int32_t>(expert);
    FloatProduct& p = outer.product;
    const FloatView view = float_view(c);
    p.c = c.f32(), p.ldc = view.ld, p.rows = view.rows, p.cols = view.cols;
    p.factor = factor, p.add = true;
    most_tiles_ = std::max(most_tiles_, p.tiles());
    outers_.push_back(outer);
  }

  Context& context_;
  const ExpertFfnBackwardArgs& args_;
  const int64_t slots_;
  ExpertTable table_;
  Experts e_;
  SlotRows x_, dy_;          // by token
  SlotRows gate_, up_, dh_;  // by number; then dgate, dup and the weighted h
  Mids mids_;
  bool any_adapter_gradient_ = false;
  std::vector<Outer> outers_;
  int64_t most_tiles_ = 0;
};

}  // namespace

// Reads an expert's three matrices twice (down once) for every 64 of its slots, all but the first time from
// the cache, and x and dy of a slot once for every 64 rows of them; three numbers of the expert's width stand
// in scratch for each slot, written once, and read again by each product that takes them.
void expert_ffn_backward(Context& context, const ExpertFfnBackwardArgs& args) {
  const int64_t slots = args.ids.shape[0] * args.ids.shape[1];
  if (slots == 0 || args.x.shape[1] == 0 || args.n_experts == 0) return;
  MOEBIUS_CHECK(slots <= INT32_MAX, args.ids.describe());
  Backward(context, args).run();
}

}  // namespace moebius::cuda
