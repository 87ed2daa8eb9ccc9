#include "kernels/op_meter.h"

#include <chrono>

#include "kernels/flops.h"
#include "kernels/forwarding_backend.h"
#include "kernels/traffic.h"

namespace moebius {
namespace {

using Clock = std::chrono::steady_clock;

template <class Args>
const void* matrix_of(const Args& args) {
  if constexpr (requires { args.w.data; }) return args.w.data;
  return nullptr;
}

class MeteredBackend final : public ForwardingBackend {
 public:
  MeteredBackend(std::unique_ptr<Backend> to, OpMeter& meter)
      : ForwardingBackend(std::move(to)), meter_(meter) {}

#define X(name, Args)                                   \
  void name(const Args& args) override {                \
    const Clock::time_point start = Clock::now();       \
    ForwardingBackend::name(args);                      \
    const Clock::duration took = Clock::now() - start;  \
    add(meter_.of(#name, matrix_of(args)), args, took); \
  }
  MOEBIUS_OPS(X)
  MOEBIUS_GRAD_OPS(X)
#undef X

 private:
  template <class Args>
  static void add(OpTotal& total, const Args& args, Clock::duration took) {
    ++total.calls;
    total.seconds += std::chrono::duration<double>(took).count();
    total.flops += Flops::of(args);
    total.bytes += Traffic::bytes(args);
    if constexpr (!std::is_same_v<Args, EmbedArgs> && !std::is_same_v<Args, TakeSlotsArgs>)
      total.stored_bytes += Traffic::of(args).stored();
  }

  OpMeter& meter_;
};

}  // namespace

OpTotal& OpMeter::of(const char* op, const void* data) {
  OpTotal*& known = known_[{op, data}];
  if (known) return *known;
  const auto label = data ? labels_.find(data) : labels_.end();
  known = &totals_[label == labels_.end() ? op : std::string(op) + " " + label->second];
  return *known;
}

void OpMeter::clear() {
  totals_.clear();
  known_.clear();
}

std::unique_ptr<Backend> make_metered_backend(std::unique_ptr<Backend> to, OpMeter& meter) {
  return std::make_unique<MeteredBackend>(std::move(to), meter);
}

}  // namespace moebius
