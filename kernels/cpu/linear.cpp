#include <algorithm>
#include <cstring>

#include "kernels/cpu/adapter.h"
#include "kernels/rows.h"

namespace moebius {
namespace {

const char* declines_onednn(const LinearArgs& args, const HostContext& context) {
  if (goes_by_parts(args.w, args.x.shape[0], args.x.shape[0], context)) return "tiles of our own are faster";
  return declines_panels(args.w, args.x.shape[0], context);
}

void linear_onednn(const LinearArgs& args, HostContext& context) {
  const int64_t n = args.x.shape[0], ldy = args.y.stride[0];
  const bool bias = !args.bias.empty();
  for (int64_t i = 0; bias && i < n; ++i) {
    float* y = args.y.f32() + i * ldy;
    for (int64_t r = 0; r < args.w.rows; ++r) y[r] = (args.accumulate ? y[r] : 0.0f) + args.bias.f32()[r];
  }
  multiply_panels_adapted(args.w, args.x.f32(), args.x.stride[0], n, args.y.f32(), ldy,
                          args.accumulate || bias, context);
}

void finish_rows(const LinearArgs& args, int64_t token, int64_t begin, int64_t end, const float* product) {
  float* y = args.y.f32() + token * args.y.stride[0];
  const float* bias = args.bias.empty() ? nullptr : args.bias.f32();
  if (!bias && !args.accumulate) {
    std::memcpy(y + begin, product, static_cast<size_t>(end - begin) * sizeof(float));
    return;
  }
  for (int64_t r = begin; r < end; ++r) {
    float value = product[r - begin];
    if (bias) value += bias[r];
    y[r] = args.accumulate ? y[r] + value : value;
  }
}

Activations with_parts(const Activations& x, const Matrix& w, int64_t n, HostContext& context) {
  if (!goes_by_parts(w, n, n, context)) return x;
  uint16_t* parts = take_parts(w, n, context.scratch);
  parallel_for(context.pool, n, kPartTokens, [&](int64_t begin, int64_t end) {
    split_tokens_amx(x.x + begin * x.ld, x.ld, nullptr, end - begin, x.cols,
                     parts + begin / kPartTokens * parts_block(x.cols));
  });
  Activations both = x;
  both.parts = parts;
  return both;
}

void linear_rows(const LinearArgs& args, HostContext& context) {
  const Matrix& w = args.w;
  const int64_t n = args.x.shape[0];
  const Activations x =
      with_parts(prepare_tokens(w, args.x.f32(), n, args.x.stride[0], context), w, n, context);
  const Adapter adapter = prepare_adapter(w, x, n, context);
  const FormatKernels& kernels = context.kernels(w.format);
  const int64_t some = tokens_at_once(n, context);
  parallel_for(context.pool, w.rows, blocks_of(w, n, context).rows, [&](int64_t begin, int64_t end) {
    Tile tile;
    for (int64_t first = 0; first < n; first += some) {
      const int64_t count = std::min(some, n - first);
      kernels.dot_rows(w, begin, end, tokens_from(x, first), nullptr, count, tile.values, end - begin);
      add_adapter(adapter, begin, end, first, count, tile.values, context);
      for (int64_t i = 0; i < count; ++i)
        finish_rows(args, first + i, begin, end, tile.values + i * (end - begin));
    }
  });
}

// By rows of float32, for any number of tokens: their bits must not depend on it, and ranks are small.
void add_adapter_rows(const AddAdapterArgs& args, HostContext& context) {
  const int64_t n = args.x.shape[0], rows = args.y.shape[1];
  Matrix w;  // that the adapter belongs to, but for its weights
  w.rows = rows, w.cols = args.x.shape[1], w.lora = &args.lora;
  Activations x;
  x.x = args.x.f32(), x.ld = args.x.stride[0], x.cols = w.cols;
  const Adapter adapter = prepare_adapter(w, x, n, context);
  const int64_t some = tokens_at_once(n, context);
  parallel_for(context.pool, rows, blocks_of(adapter.b, n, context).rows, [&](int64_t begin, int64_t end) {
    for (int64_t first = 0; first < n; first += some) {
      const int64_t count = std::min(some, n - first);
      Tile tile;
      std::fill_n(tile.values, count * (end - begin), 0.0f);
      add_adapter(adapter, begin, end, first, count, tile.values, context);
      for (int64_t i = 0; i < count; ++i) {
        float* y = args.y.f32() + (first + i) * args.y.stride[0] + begin;
        for (int64_t r = 0; r < end - begin; ++r) y[r] += tile.values[i * (end - begin) + r];
      }
    }
  });
}

}  // namespace

std::span<const Candidate<LinearArgs>> host_linear() {
  static constexpr Candidate<LinearArgs> kCandidates[] = {
      {"linear_onednn", declines_onednn, linear_onednn},
      {"linear_rows", declines_nothing<LinearArgs>, linear_rows},
      {"linear_ref", declines_nothing<LinearArgs>,
       [](const LinearArgs& args, HostContext& context) { ref::linear(args, exact_activations(context)); }},
  };
  return kCandidates;
}

std::span<const Candidate<AddAdapterArgs>> host_add_adapter() {
  static constexpr Candidate<AddAdapterArgs> kCandidates[] = {
      {"add_adapter_rows", declines_nothing<AddAdapterArgs>, add_adapter_rows},
      reference_candidate<AddAdapterArgs, ref::add_adapter>("add_adapter_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
