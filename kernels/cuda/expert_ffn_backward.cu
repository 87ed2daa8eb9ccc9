// The backward of expert_ffn, grouped over experts: the device sorts the slots by expert and finds how many
// there are, and one set of launches does all experts, 64 slots of one by 64 columns at a time.
//
//   gate = gate x, up = up x, dh = down^T dy   three products, the weights read as they lie
//   dgate, dup, weighted h, dweights           number by number
//   dslots = gate^T dgate + up^T dup           one product of both
//   gradients of matrices and adapters         one launch of all of them
#include <algorithm>
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

// Of scratch for each multiprocessor, about: tokens go in pieces that need no more.
constexpr int64_t kScratchBytes = int64_t{1} << 20;
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
  Backward(Context& context, const ExpertFfnBackwardArgs& args) : context_(context), args_(args) {}

  void run() {
    const int64_t n = args_.x.shape[0];
    if (!args_.dweights.empty()) gradient::clear_unused(context_, args_.ids, args_.dweights);
    table_ = upload_experts(context_, args_.experts, args_.n_experts, args_.x.shape[1]);
    if (!table_.experts || !prepare(n)) return;
    for (int64_t first = 0; first < n; first += piece_)
      if (!pass_back(first, std::min(piece_, n - first))) return;
  }

 private:
  template <class T>
  T* take(int64_t count) {
    return static_cast<T*>(context_.scratch(std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(T))));
  }

  // What all pieces share. False: no memory.
  bool prepare(int64_t n) {
    e_.experts = table_.experts, e_.applied = table_.adapters, e_.n_experts = args_.n_experts;
    if (!prepare_adapters()) return false;
    ld_ = (table_.widest + 3) / 4 * 4;
    const int64_t k = args_.ids.shape[1], numbers = 3 * ld_ + 6 * e_.rank;
    const int64_t most = kScratchBytes * context_.multiprocessors() / (4 * k * std::max<int64_t>(numbers, 1));
    piece_ = blocks_for(n, blocks_for(n, std::clamp<int64_t>(most, 1, n)));
    const int64_t slots = piece_ * k;
    tokens_ = take<int32_t>(slots);
    float* memory = take<float>(slots * numbers);
    if (!tokens_ || !memory) return false;
    gate_ = gradient::slot_rows(memory, ld_), up_ = gradient::slot_rows(memory + slots * ld_, ld_);
    dh_ = gradient::slot_rows(memory + 2 * slots * ld_, ld_);
    for (int i = 0; i < 3; ++i) {
      mids_.forward[i] = memory + slots * (3 * ld_ + i * e_.rank);
      mids_.backward[i] = memory + slots * (3 * ld_ + (3 + i) * e_.rank);
    }
    return true;
  }
  // Merged adapters, too: they have gradients.
  bool prepare_adapters() {
    std::vector<ExpertAdapters> adapters(static_cast<size_t>(args_.n_experts));
    for (int64_t i = 0; i < args_.n_experts; ++i) {
      const ExpertWeights& e = args_.experts[i];
      if (e.elsewhere()) continue;
      adapters[static_cast<size_t>(i)] = {lora_view(e.gate.lora), lora_view(e.up.lora),
                                          lora_view(e.down.lora)};
      for (const Which which : kMatrices) {
        const Lora* lora = matrix_of(e, which).lora;
        if (!lora) continue;
        e_.rank = std::max(e_.rank, static_cast<int32_t>(lora->a.shape[0]));
        any_adapter_gradient_ = any_adapter_gradient_ || !lora->da.empty() || !lora->db.empty();
      }
    }
    if (e_.rank > 0) e_.adapters = context_.upload(adapters.data(), args_.n_experts);
    return e_.rank == 0 || e_.adapters;
  }

  // Tokens [first, first + count). False: no memory.
  bool pass_back(int64_t first, int64_t count) {
    part_ = args_;
    for (Tensor* t : {&part_.x, &part_.ids, &part_.weights, &part_.dy, &part_.dslots, &part_.dweights})
      if (!t->empty()) *t = t->rows(first, count);
    slots_ = count * part_.ids.shape[1];
    e_.slots = sort_all_slots(context_, part_.ids, table_, args_.n_experts, kGradLines);
    if (e_.slots.most_tiles == 0) return false;
    gradient::find_tokens(context_, e_, slots_, tokens_);
    x_ = gradient::slot_rows(part_.x.f32(), part_.x.stride[0], tokens_);
    dy_ = gradient::slot_rows(part_.dy.f32(), part_.dy.stride[0], tokens_);
    multiply(Which::kGate, Lie::kAlong, x_, gate_), multiply(Which::kUp, Lie::kAlong, x_, up_);
    multiply(Which::kDown, Lie::kAcross, dy_, dh_);
    pass_swiglu();
    if (!part_.dslots.empty() || any_adapter_gradient_)
      make_mid(Which::kGate, Lie::kAcross, gate_), make_mid(Which::kUp, Lie::kAcross, up_);
    if (!part_.dslots.empty()) pass_to_slots();
    if (any_adapter_gradient_) make_mid(Which::kDown, Lie::kAlong, dh_);
    add_gradients();
    return true;
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
    gradient::Slopes s{gate_.at, up_.at, dh_.at, gate_.ld, part_.weights.f32(), part_.weights.stride[0]};
    if (!part_.dweights.empty()) s.dweights = part_.dweights.f32(), s.dweights_ld = part_.dweights.stride[0];
    gradient::pass_swiglu(context_, e_, slots_, s);
  }
  void pass_to_slots() {
    Grouped g;
    g.terms[0] = {gate_, Which::kGate, mid_of(Which::kGate, Lie::kAcross)};
    g.terms[1] = {up_, Which::kUp, mid_of(Which::kUp, Lie::kAcross)};
    g.count = 2, g.columns = static_cast<int32_t>(part_.x.shape[1]), g.out = part_.dslots.f32();
    g.token_ld = part_.dslots.stride[0], g.slot_ld = part_.dslots.stride[1];
    gradient::multiply_experts(context_, e_, Lie::kAcross, table_.up_formats, g);
  }

  void add_gradients() {
    outers_.clear();
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
  ExpertTable table_;
  Experts e_;
  bool any_adapter_gradient_ = false;
  int64_t piece_ = 0, ld_ = 0;  // tokens, and numbers of a slot's row
  int32_t* tokens_ = nullptr;   // of each slot by number
  SlotRows gate_, up_, dh_;     // by number; then dgate, dup and the weighted h
  Mids mids_;
  // Of the piece:
  ExpertFfnBackwardArgs part_;
  int64_t slots_ = 0;
  SlotRows x_, dy_;  // by token
  std::vector<Outer> outers_;
  int64_t most_tiles_ = 0;
};

}  // namespace

// Reads an expert's three matrices twice (down once) for every 64 of its slots, all but the first time from
// the cache, and x and dy of a slot once for every 64 rows of them; three numbers of the expert's width stand
// in scratch for each slot, written once, and read again by each product that takes them. Tokens beyond what
// the scratch is for, on Moonlight some thousand, read the matrices again.
void expert_ffn_backward(Context& context, const ExpertFfnBackwardArgs& args) {
  const int64_t slots = args.ids.shape[0] * args.ids.shape[1];
  if (slots == 0 || args.x.shape[1] == 0 || args.n_experts == 0) return;
  MOEBIUS_CHECK(slots <= INT32_MAX, args.ids.describe());
  Backward(context, args).run();
}

}  // namespace moebius::cuda
