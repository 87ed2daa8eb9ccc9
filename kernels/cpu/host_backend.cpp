#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "kernels/cpu/host.h"

namespace moebius {
namespace {

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
    context_.avx2 = options.use_avx2 && cpu_features().avx2;
    context_.gemm = options.gemm;
  }

  std::string name() const override {
    return fmt::format("host ({} thread{}, {})", context_.threads, context_.threads == 1 ? "" : "s",
                       context_.avx2 ? "AVX2" : "scalar");
  }

  Result<Buffer> alloc(size_t bytes) override { return Buffer::host(bytes); }

#define X(op, Args)                        \
  void op(const Args& args) override {     \
    check(args);                           \
    dispatch(host_##op(), args, context_); \
  }
  MOEBIUS_OPS(X)
#undef X

 private:
  HostContext context_;
};

}  // namespace

std::unique_ptr<Backend> make_host_backend(const HostOptions& options) {
  return std::make_unique<HostBackend>(options);
}

}  // namespace moebius
