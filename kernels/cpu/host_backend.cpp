#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "kernels/cpu/host_grad.h"

namespace moebius {
namespace {

constexpr int64_t kGrainBytes = 1 << 17;  // that a thread copies at a time

template <class Args>
void dispatch(std::span<const Candidate<Args>> candidates, const Args& args, HostContext& context) {
  for (const Candidate<Args>& candidate : candidates) {
    if (candidate.declines(args, context)) continue;
    const Scratch::Frame frame(context.scratch);
    return candidate.run(args, context);
  }
  MOEBIUS_CHECK(false, "every candidate declined, though the reference takes everything");
}

class HostBackend final : public Backend {
 public:
  explicit HostBackend(const HostOptions& options)
      : context_(options.threads > 0 ? options.threads : physical_cores()) {
    context_.exact_activations = options.exact_activations;
    context_.isa = std::min(options.isa, cpu_features().isa());
    context_.gemm = options.gemm;
  }

  std::string name() const override {
    return fmt::format("host ({} thread{}, {})", context_.threads, context_.threads == 1 ? "" : "s",
                       isa_name(context_.isa));
  }

  Result<Buffer> alloc(size_t bytes) override { return Buffer::host(bytes); }

  void zero(const Tensor& to) override {
    for_each_row(to, [&](int64_t row, int64_t width) {
      std::memset(row_of(to, row), 0, static_cast<size_t>(width) * sizeof(float));
    });
  }

  void copy(const Tensor& from, const Tensor& to) override {
    MOEBIUS_CHECK(std::equal(from.shape, from.shape + 4, to.shape) && from.dtype == to.dtype);
    if (from.contiguous() && to.contiguous()) {
      const int64_t bytes = from.numel() * static_cast<int64_t>(dtype_bytes(from.dtype));
      parallel_for(context_.pool, bytes, kGrainBytes, [&](int64_t begin, int64_t end) {
        std::memcpy(static_cast<char*>(to.data) + begin, static_cast<const char*>(from.data) + begin,
                    static_cast<size_t>(end - begin));
      });
      return;
    }
    for_each_row(to, [&](int64_t row, int64_t width) {
      std::memcpy(row_of(to, row), row_of(from, row), static_cast<size_t>(width) * sizeof(float));
    });
  }

#define X(op, Args)                        \
  void op(const Args& args) override {     \
    check(args);                           \
    dispatch(host_##op(), args, context_); \
  }
  MOEBIUS_OPS(X)
  MOEBIUS_GRAD_OPS(X)
#undef X

 private:
  static float* row_of(const Tensor& t, int64_t row) { return t.f32() + row * t.stride[0]; }

  // body(row, width) for every row of [n, width].
  template <class Body>
  void for_each_row(const Tensor& t, const Body& body) {
    MOEBIUS_CHECK(t.ndim == 2 && t.stride[1] == 1);
    const int64_t width = t.shape[1], row_bytes = std::max<int64_t>(1, width) * int64_t{sizeof(float)};
    const int64_t grain = std::max<int64_t>(1, kGrainBytes / row_bytes);
    parallel_for(context_.pool, t.shape[0], grain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) body(row, width);
    });
  }

  HostContext context_;
};

}  // namespace

std::unique_ptr<Backend> make_host_backend(const HostOptions& options) {
  return std::make_unique<HostBackend>(options);
}

}  // namespace moebius
