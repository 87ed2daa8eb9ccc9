#include "kernels/cuda/context.h"

namespace moebius::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

struct EmbedGradient {
  const int32_t* ids;
  const float* dy;
  float* dtable;
  int64_t n, hidden, ids_stride, dy_stride, table_stride;
};

// Which of kThreads tokens from `first` on have this id: a bit to a token, a word to a warp.
__device__ void find(const EmbedGradient& g, int32_t id, int64_t first, const Shared<uint32_t>& found) {
  const int64_t i = first + thread();
  uint32_t bits = i < g.n && g.ids[i * g.ids_stride] == id ? 1u << lane() : 0u;
  for (int mask = kWarp / 2; mask > 0; mask /= 2) bits |= shuffle_xor(bits, mask);
  barrier();
  if (lane() == 0) found[warp()] = bits;
  barrier();
}

// A block to a token: the first one of an id adds up all of them, in their order.
__global__ void embed_gradient(EmbedGradient g) {
  MOEBIUS_SHARED(uint32_t, found, kWarps);
  const int64_t me = block_x();
  const int32_t id = g.ids[me * g.ids_stride];
  for (int64_t first = 0; first < me; first += kThreads) {
    find(g, id, first, found);
    for (int w = 0; w < kWarps; ++w) {
      const int64_t before = me - first - w * kWarp;  // tokens of this word that come before this one
      const uint32_t bits = found[w];
      if (before > 0 && (before >= kWarp ? bits : bits & ((1u << before) - 1)) != 0) return;
    }
  }
  float* row = g.dtable + id * g.table_stride;
  for (int64_t first = me / kThreads * kThreads; first < g.n; first += kThreads) {
    find(g, id, first, found);
    for (int w = 0; w < kWarps; ++w) {
      const uint32_t bits = found[w];
      for (int bit = 0; bit < kWarp && bits >> bit != 0; ++bit) {
        if ((bits >> bit & 1) == 0) continue;
        const float* dy = g.dy + (first + w * kWarp + bit) * g.dy_stride;
        for (int64_t c = thread(); c < g.hidden; c += kThreads) row[c] += dy[c];
      }
    }
  }
}

}  // namespace

// Reads dy once, and reads and writes the rows of the table whose ids occur: up to 12 bytes a number. Every
// block reads all ids, from the cache.
void embed_backward(Context& context, const EmbedBackwardArgs& args) {
  const int64_t n = args.dy.shape[0], hidden = args.dy.shape[1];
  if (n == 0 || hidden == 0) return;
  const EmbedGradient g{args.ids.i32(), args.dy.f32(),      args.dtable.f32(), n,
                        hidden,         args.ids.stride[0], args.dy.stride[0], args.dtable.stride[0]};
  launch(context.compute(), embed_gradient, Grid{n}, kThreads, 0, g);
}

}  // namespace moebius::cuda
