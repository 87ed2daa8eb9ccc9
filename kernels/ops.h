// The operations of a forward pass: one line in MOEBIUS_OPS, one struct of arguments with its contract.
//
// Every operation reads and writes float32 activations, checks its shapes at the door (check(args) in
// ops_check.cpp aborts with the shapes on a mismatch), runs on one backend and has a scalar reference in
// kernels/ref. Unless stated, outputs must not alias inputs. n is the number of tokens in the call; a result
// never depends on n or on the company of a token, except for the order of float sums in `linear` and
// `expert_ffn` on float formats. visit(v) hands v every member that points into a device's memory.
#pragma once

#include "kernels/quant.h"
#include "kernels/tensor.h"

namespace moebius {

// A cached row of kI8: `width` codes, from the next even byte on a BF16 scale for every kCacheGroup columns,
// and a number is code * scale, exactly. cache_write rounds a group with m = max|x| so: scale = m / 127
// rounded up to BF16, code = nearest-even(x / scale), in float32, clamped to [-127, 127]; hence |x - code *
// scale| <= scale / 2
// <= (1 + 2^-7) m / 254, up to float32 rounding. A group with m < 2^-110 becomes zeros; in one with an
// infinity or a NaN every number reads as NaN. The host's operations and the simulated device's know the
// type, CUDA's do not.
inline constexpr int64_t kCacheGroup = 32;
constexpr int64_t cache_scales_at(int64_t width) { return (width + 1) / 2 * 2; }  // byte of a kI8 row
inline int64_t cache_row_bytes(DType dtype, int64_t width) {
  if (dtype == DType::kI8) return cache_scales_at(width) + (width + kCacheGroup - 1) / kCacheGroup * 2;
  return width * static_cast<int64_t>(dtype_bytes(dtype));
}

// Rows of cached keys and values of one layer of one sequence. Position p is row (p % page_tokens) of page
// pages[p / page_tokens]; a page holds page_tokens rows of `width` numbers.
struct CacheView {
  void* base = nullptr;
  DType dtype = DType::kF32;  // kF32, kBF16 or kI8
  Space space = Space::kHost;
  int64_t width = 0;
  int64_t page_tokens = 0;
  const int32_t* pages = nullptr;  // host memory
  int64_t capacity = 0;            // positions that pages cover

  int64_t row_bytes() const { return cache_row_bytes(dtype, width); }
  void* row(int64_t position) const {
    const int64_t slot = pages[position / page_tokens] * page_tokens + position % page_tokens;
    return static_cast<char*>(base) + slot * row_bytes();
  }
};

// out[i] = row ids[i] of the table. ids in [0, table.rows).
struct EmbedArgs {
  Matrix table;  // [vocab, hidden]
  Tensor ids;    // I32 [n]
  Tensor out;    // [n, hidden]
  template <class V>
  void visit(V&& v) {
    v(table), v(ids), v(out);
  }
};

// y = x / sqrt(mean(x^2) + eps) * weight, row by row. y may be x.
struct RmsNormArgs {
  Tensor x;       // [n, d], rows may be strided
  Tensor weight;  // [d]
  float eps = 0;
  Tensor y;  // [n, d], rows may be strided
  template <class V>
  void visit(V&& v) {
    v(x), v(weight), v(y);
  }
};

// y = x w^T + bias, or y += x w^T + bias.
struct LinearArgs {
  Matrix w;     // [rows, cols]
  Tensor x;     // [n, cols], rows may be strided
  Tensor bias;  // [rows] or empty
  Tensor y;     // [n, rows], rows may be strided
  bool accumulate = false;
  template <class V>
  void visit(V&& v) {
    v(w), v(x), v(bias), v(y);
  }
};

// y += scale b (a x): what an adapter adds to a product that was made without it, for tokens that use it when
// others of the batch do not. A token's bits do not depend on its company. The adapter is not merged.
struct AddAdapterArgs {
  Lora lora;  // [rank, cols], [rows, rank]
  Tensor x;   // [n, cols], rows may be strided
  Tensor y;   // [n, rows], rows may be strided
  template <class V>
  void visit(V&& v) {
    v(lora.a), v(lora.b), v(x), v(y);
  }
};

// Rotates, in place, the first 2 * half numbers of each head by the token's angles (RoPE). Pairs are
// (2i, 2i + 1) when interleaved, else (i, i + half).
struct RotaryArgs {
  Tensor x;         // [n, heads, >= 2 * half], strided
  Tensor cos, sin;  // [n, half]
  bool interleaved = false;
  template <class V>
  void visit(V&& v) {
    v(x), v(cos), v(sin);
  }
};

// Converts x to the cache's type and stores it at columns [column, column + w) of positions first .. first +
// n - 1. In a kI8 cache these are whole groups, the row's last one included.
struct CacheWriteArgs {
  Tensor x;  // [n, w], rows may be strided
  CacheView cache;
  int64_t column = 0;
  int64_t first = 0;
  template <class V>
  void visit(V&& v) {
    v(x), v(cache);
  }
};

// Causal attention of n consecutive tokens over the cache: token i stands at position first + i and sees
// positions 0 .. first + i (all written before). Query head h uses key/value head h / (heads / kv_heads):
//   key   = columns [k_column + kv * k_dim, + k_dim)     value = columns [v_column + kv * v_dim, + v_dim)
// out = softmax(scale * q . key) value, in float32, each (token, head) in ascending positions; over a BF16
// cache the host may round q and the softmax's weights to BF16, unless activations stay exact. Absorbed MLA
// is kv_heads = 1, k_dim = latent + rotary, v_column = k_column, v_dim = latent: the value is a prefix of the
// key.
struct AttentionArgs {
  Tensor q;  // [n, heads, k_dim], strided
  CacheView cache;
  int64_t first = 0;
  int64_t kv_heads = 1;
  int64_t k_dim = 0, v_dim = 0;
  int64_t k_column = 0, v_column = 0;
  float scale = 1;
  Tensor out;  // [n, heads, v_dim]
  template <class V>
  void visit(V&& v) {
    v(q), v(cache), v(out);
  }
};

// MLA in expanded form, for many tokens: keys and values of each head are rebuilt from the cached latent c
// and rotary key r: [k_nope | v] of head h = rows [h * (nope + v_dim), ...) of kv_b applied to c; key =
// [k_nope | r]. Otherwise as attention.
struct MlaPrefillArgs {
  Tensor q;         // [n, heads, nope + rope]
  Matrix kv_b;      // [heads * (nope + v_dim), latent]
  CacheView cache;  // rows [latent | rope]
  int64_t first = 0;
  int64_t nope = 0, rope = 0, v_dim = 0;
  float scale = 1;
  Tensor out;  // [n, heads, v_dim]
  template <class V>
  void visit(V&& v) {
    v(q), v(kv_b), v(cache), v(out);
  }
};

// Absorbed MLA, before: y[t, h, :latent] = sum over i < nope of q[t, h, i] * kv_b[h * (nope + v_dim) + i, :],
// and the rest of q (the rotary part) is copied behind it, so that y is the query of `attention` over cache
// rows [latent | rope].
struct MlaAbsorbArgs {
  Tensor q;     // [n, heads, nope + rope], strided
  Matrix kv_b;  // [heads * (nope + v_dim), latent]
  int64_t nope = 0, v_dim = 0;
  Tensor y;  // [n, heads, latent + rope], strided
  template <class V>
  void visit(V&& v) {
    v(q), v(kv_b), v(y);
  }
};

// Absorbed MLA, after: out[t, h, j] = kv_b[h * (nope + v_dim) + nope + j, :] . o[t, h, :]. Activations are
// not rounded.
struct MlaValueArgs {
  Tensor o;     // [n, heads, latent]
  Matrix kv_b;  // [heads * (nope + v_dim), latent]
  int64_t nope = 0, v_dim = 0;
  Tensor out;  // [n, heads, v_dim]
  template <class V>
  void visit(V&& v) {
    v(o), v(kv_b), v(out);
  }
};

enum class Scoring : uint8_t { kSoftmax, kSigmoid };
enum class GroupScore : uint8_t { kNone, kMax, kTop2Sum };  // DeepSeek-V2, DeepSeek-V3

// Top-k routing with zero experts. scores = scoring(x gate^T), in float32; selection uses scores + bias;
// unless group_score is kNone, n_group divides the gate's rows, a group is that many consecutive rows, and
// all but the topk_group best groups are masked out (score 0 for kMax as V2 does, -inf for kTop2Sum). Slots
// are ordered by descending selection score, ties by lower id; NaN counts as -inf. weights = un-biased scores
// of the chosen, divided by (their sum + 1e-20) if `normalize`, times `scale`; then slots with id >=
// n_experts (zero experts; ZEDA, arXiv 2605.18643), and those whose score / (sum + 1e-20) is below skip_below
// or, of odd ids, below skip_odd_below (minor halves; DualSparse-MoE, arXiv 2508.18376), become id -1, weight
// 0: nothing is renormalised after masking. Where rows are `forced`, they are the slots', in their order, and
// nothing is selected. Bit-equal for any n, whatever the format of the gate.
struct RouterArgs {
  Tensor x;     // [n, hidden]
  Matrix gate;  // [n_experts + zero experts, hidden]
  Tensor bias;  // [n_experts + zero experts] or empty; takes part in selection only
  Scoring scoring = Scoring::kSoftmax;
  GroupScore group_score = GroupScore::kNone;
  int64_t n_experts = 0;
  int64_t n_group = 1, topk_group = 1;
  bool normalize = false;
  float scale = 1;
  float skip_below = 0, skip_odd_below = 0;
  Tensor ids;      // I32 [n, k], out
  Tensor weights;  // [n, k], out
  Tensor chosen;   // I32 [n, k], out: ids with zero experts by their row, for router_backward; or empty
  Tensor forced;   // I32 [n, k]: rows of the gate, as `chosen` had them; or empty
  template <class V>
  void visit(V&& v) {
    v(x), v(gate), v(bias), v(ids), v(weights), v(chosen), v(forced);
  }
};

// One expert's SwiGLU; widths may differ from expert to expert (TENP).
struct ExpertWeights {
  Matrix gate;                                       // [width, hidden]
  Matrix up;                                         // [width, hidden]
  Matrix down;                                       // [hidden, width]
  bool elsewhere() const { return gate.cols == 0; }  // on another device: an expert without matrices
};

// slots[t, k, :] = down(silu(gate x[t]) * up x[t]) of expert ids[t, k]. Slots with id -1 or an expert
// that is elsewhere are left untouched.
struct ExpertFfnArgs {
  Tensor x;                                // [n, hidden]
  const ExpertWeights* experts = nullptr;  // [n_experts]
  int64_t n_experts = 0;
  Tensor ids;    // I32 [n, k], each -1 or in [0, n_experts)
  Tensor slots;  // [n, k, hidden]
  template <class V>
  void visit(V&& v) {
    v(x), v(experts, n_experts), v(ids), v(slots);
  }
};

// Takes over the slots that another device computed: slots[t, k, :] = from[t, k, :] where expert ids[t, k] is
// elsewhere. Slots with id -1 are left untouched.
struct TakeSlotsArgs {
  Tensor from;                             // [n, k, hidden], may be in pinned memory
  const ExpertWeights* experts = nullptr;  // [n_experts]
  int64_t n_experts = 0;
  Tensor ids;    // I32 [n, k], each -1 or in [0, n_experts)
  Tensor slots;  // [n, k, hidden]
  template <class V>
  void visit(V&& v) {
    v(from), v(experts, n_experts), v(ids), v(slots);
  }
};

// y[t, :] += sum over k ascending, ids[t, k] >= 0, of weights[t, k] * slots[t, k, :], each term by fma.
// Without weights, all are 1.
struct CombineArgs {
  Tensor slots;    // [n, k, hidden]
  Tensor ids;      // I32 [n, k]
  Tensor weights;  // [n, k], or empty
  Tensor y;        // [n, hidden]
  template <class V>
  void visit(V&& v) {
    v(slots), v(ids), v(weights), v(y);
  }
};

// y = silu(gate) * up, element by element; silu(a) = a / (1 + exp(-a)). y may be gate or up.
struct SwigluArgs {
  Tensor gate, up, y;  // [n, d]
  template <class V>
  void visit(V&& v) {
    v(gate), v(up), v(y);
  }
};

// name, arguments
#define MOEBIUS_OPS(X)           \
  X(embed, EmbedArgs)            \
  X(rms_norm, RmsNormArgs)       \
  X(linear, LinearArgs)          \
  X(add_adapter, AddAdapterArgs) \
  X(rotary, RotaryArgs)          \
  X(cache_write, CacheWriteArgs) \
  X(attention, AttentionArgs)    \
  X(mla_prefill, MlaPrefillArgs) \
  X(mla_absorb, MlaAbsorbArgs)   \
  X(mla_value, MlaValueArgs)     \
  X(router, RouterArgs)          \
  X(expert_ffn, ExpertFfnArgs)   \
  X(take_slots, TakeSlotsArgs)   \
  X(combine, CombineArgs)        \
  X(swiglu, SwigluArgs)

// check(args): aborts with operation and shapes unless they fit the contract above.
#define X(name, Args) void check(const Args& args);
MOEBIUS_OPS(X)
#undef X

// ref::name(args): the scalar reference, the oracle of every other implementation. exact: see Activations::q.
namespace ref {
#define X(name, Args) void name(const Args& args, bool exact_activations);
MOEBIUS_OPS(X)
#undef X
}  // namespace ref

}  // namespace moebius
