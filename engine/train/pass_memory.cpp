#include "engine/train/pass_memory.h"

#include <algorithm>

namespace moebius {
namespace {

constexpr int64_t kLogitNumbers = 1 << 25;  // in one piece of the head's work, which reads the head once
constexpr int64_t kMaxHeadRows = 1024;

int64_t head_rows_at_once(const ModelConfig& c, int64_t n) {
  return std::clamp<int64_t>(kLogitNumbers / c.vocab, std::min<int64_t>(n, 16), std::min(n, kMaxHeadRows));
}

// Takes the tensors of a pass of n rows.
class LayOut {
 public:
  LayOut(const ModelConfig& config, const PassOptions& options, int64_t n, bool on_host, bool head_here)
      : c_(config), options_(options), n_(n), on_host_(on_host), head_here_(head_here) {}

  Arena kept{nullptr}, workspace{nullptr}, head{nullptr}, pinned{nullptr};

  PassViews take() {
    PassViews v;
    v.bw = lay_out_backward(c_, n_, workspace);
    v.neg_sin = shared(workspace, DType::kF32, {n_, c_.rotary.dim / 2});
    v.bw.neg_sin = v.neg_sin.here;
    v.highest = shared(workspace, DType::kF32, {c_.layers, c_.heads});
    if (parks()) v.x = workspace.take(DType::kF32, {n_, c_.hidden});
    for (int64_t l = 0; l < c_.layers; ++l) v.saved.push_back(saved(l));
    v.head = head_workspace();
    return v;
  }

 private:
  bool parks() const { return options_.park && !on_host_; }
  Shared shared(Arena& arena, DType dtype, std::initializer_list<int64_t> shape) {
    const Tensor here = arena.take(dtype, shape);
    return {here, on_host_ ? here : pinned.take(dtype, shape)};
  }

  SavedLayer saved(int64_t layer) {
    SavedLayer s;
    const int64_t k = c_.moe_layer[static_cast<size_t>(layer)] ? c_.moe.top_k : 0;
    s.x = (parks() ? pinned : kept).take(DType::kF32, {n_, c_.hidden});
    s.ids = kept.take(DType::kI32, {n_, k});
    s.weights = kept.take(DType::kF32, {n_, k});
    const Shared chosen = shared(kept, DType::kI32, {n_, k});
    s.chosen = chosen.here, s.chosen_host = chosen.host;
    if (layer < c_.layers - layers_kept(c_, options_)) return s;
    s.after_attention = kept.take(DType::kF32, {n_, c_.hidden});
    s.attention = lay_out_attention(c_, n_, kept);
    return s;
  }

  HeadWorkspace head_workspace() {
    const DType f32 = DType::kF32, i32 = DType::kI32;
    const int64_t m = head_rows_at_once(c_, n_);
    HeadWorkspace h;
    h.rows = shared(workspace, i32, {n_});
    h.x = workspace.take(f32, {m, c_.hidden}), h.dx = workspace.take(f32, {m, c_.hidden});
    for (Shared* s : {&h.h, &h.dh}) {
      s->here = workspace.take(f32, {m, c_.hidden});
      s->host = head_here_ ? s->here : pinned.take(f32, {m, c_.hidden});
    }
    h.logits = head.take(f32, {m, c_.vocab});
    const auto beside_head = [&](DType dtype) {
      const Tensor there = head.take(dtype, {n_});
      return Shared{there, on_host_ || !head_here_ ? there : pinned.take(dtype, {n_})};
    };
    h.targets = beside_head(i32), h.hits = beside_head(i32);
    h.weights = beside_head(f32), h.loss = beside_head(f32);
    return h;
  }

  const ModelConfig& c_;
  const PassOptions& options_;
  const int64_t n_;
  const bool on_host_, head_here_;
};

}  // namespace

int64_t layers_kept(const ModelConfig& c, const PassOptions& options) {
  Arena layer(nullptr);
  layer.take(DType::kF32, {options.max_tokens, c.hidden});
  lay_out_attention(c, options.max_tokens, layer);
  return std::min(c.layers, options.kept_bytes / layer.used());
}

int64_t cached_positions(const PassOptions& o) {
  const int64_t sequences = std::max<int64_t>(1, o.max_tokens / o.shortest);
  return o.max_tokens + sequences * (kPageTokens - 1);
}

int64_t scratch_bytes(const ModelConfig& c, int64_t tokens) {
  constexpr int64_t kThroughAdapters = 64;  // numbers of a slot
  constexpr int64_t kMost = int64_t{256} << 20;
  return std::min(kMost, 4 * tokens * c.moe.top_k * (3 * c.moe.width + kThroughAdapters));
}

PassMemory::Bytes PassMemory::bytes(const ModelConfig& config, const PassOptions& options, bool on_host,
                                    bool head_here) {
  LayOut out(config, options, options.max_tokens, on_host, head_here);
  out.take();
  return {out.kept.used(), out.workspace.used(), out.head.used(), out.pinned.used()};
}

Result<PassMemory> PassMemory::create(const ModelConfig& config, const PassOptions& options, Backend& backend,
                                      Backend& head) {
  PassMemory m;
  m.config_ = config, m.options_ = options;
  m.on_host_ = backend.space() == Space::kHost, m.head_here_ = head.space() == backend.space();
  const Bytes needed = bytes(config, options, m.on_host_, m.head_here_);
  MOEBIUS_ASSIGN(m.kept_, backend.alloc(static_cast<size_t>(needed.kept)));
  MOEBIUS_ASSIGN(m.workspace_, backend.alloc(static_cast<size_t>(needed.workspace)));
  MOEBIUS_ASSIGN(m.head_, head.alloc(static_cast<size_t>(needed.head)));
  if (m.on_host_) return m;
  MOEBIUS_ASSIGN(m.pinned_, backend.alloc_pinned(static_cast<size_t>(needed.pinned)));
  return m;
}

PassViews PassMemory::view(int64_t n) const {
  MOEBIUS_CHECK(n >= 1 && n <= options_.max_tokens);
  LayOut out(config_, options_, n, on_host_, head_here_);
  out.kept = Arena(kept_), out.workspace = Arena(workspace_), out.head = Arena(head_);
  if (!on_host_) out.pinned = Arena(pinned_);
  return out.take();
}

}  // namespace moebius
