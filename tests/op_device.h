// Cases of op_test on devices: their memory is mirrored there, the operation run, and its outputs fetched.
#pragma once

#include <deque>
#include <memory>

#include "kernels/backend.h"
#include "tests/op_compare.h"

namespace moebius::test {

// An arena's memory on a device. From make() on, the host's copy may change: what is read there are only
// arrays that stay on the host (pages, experts, adapters).
class Mirror {
 public:
  Mirror(Backend& backend, const Arena& arena) : backend_(backend) {
    for (const Buffer& host : arena.buffers()) {
      if (host.bytes() == 0) continue;
      Result<Buffer> device = backend.alloc(host.bytes());
      MOEBIUS_CHECK(device.ok(), device.status().message());
      backend.copy_bytes(Stream::kCompute, host.data(), device->data(), host.bytes());
      pieces_.push_back({static_cast<const char*>(host.data()), std::move(*device)});
    }
  }

  // Arguments that point into the arena, pointing into the device instead; valid as long as this is.
  template <class Args>
  Args operator()(const Args& host) {
    Args args = host;
    args.visit(Translate{*this});
    return args;
  }
  void upload(const std::vector<Output>& outputs) {
    for (const Output& out : outputs)
      backend_.copy_bytes(Stream::kCompute, out.data, device(out.data), size(out));
  }
  Status fetch(const std::vector<Output>& outputs) {
    for (const Output& out : outputs)
      backend_.copy_bytes(Stream::kCompute, device(out.data), out.data, size(out));
    return backend_.sync();
  }

 private:
  struct Piece {
    const char* host;
    Buffer device;
  };
  struct Translate {
    Mirror& mirror;
    void operator()(Tensor& t) const {
      if (t.empty()) return;
      t.data = mirror.device(t.data), t.space = Space::kDevice;
    }
    void operator()(Matrix& m) const {
      if (m.empty()) return;
      m.data = mirror.device(m.data), m.space = Space::kDevice;
      if (m.scales) m.scales = mirror.device(m.scales);
      if (!m.lora) return;
      Lora& lora = mirror.loras_.emplace_back(*m.lora);
      for (Tensor* t : {&lora.a, &lora.b, &lora.da, &lora.db}) (*this)(*t);
      m.lora = &lora;
    }
    void operator()(CacheView& cache) const {
      cache.base = mirror.device(cache.base), cache.space = Space::kDevice;
    }
    void operator()(const ExpertWeights*& experts, int64_t count) const {
      auto& copy = mirror.experts_.emplace_back(experts, experts + count);
      for (ExpertWeights& e : copy) (*this)(e.gate), (*this)(e.up), (*this)(e.down);
      experts = copy.data();
    }
    void operator()(std::span<const int64_t>) const {}  // on the host
    void operator()(const ExpertGradients*& gradients, int64_t count) const {
      auto& copy = mirror.gradients_.emplace_back(gradients, gradients + count);
      for (ExpertGradients& g : copy) (*this)(g.gate), (*this)(g.up), (*this)(g.down);
      gradients = copy.data();
    }
  };

  static size_t size(const Output& out) { return static_cast<size_t>(out.count) * dtype_bytes(out.dtype); }
  void* device(const void* host) const {
    const char* at = static_cast<const char*>(host);
    for (const Piece& piece : pieces_)
      if (at >= piece.host && at < piece.host + piece.device.bytes())
        return static_cast<char*>(piece.device.data()) + (at - piece.host);
    // An empty matrix may point one past a piece, or into an empty one.
    return pieces_.empty() ? nullptr : pieces_.front().device.data();
  }

  Backend& backend_;
  std::vector<Piece> pieces_;
  std::deque<Lora> loras_;
  std::deque<std::vector<ExpertWeights>> experts_;
  std::deque<std::vector<ExpertGradients>> gradients_;
};

// A device to run the cases on.
struct Device {
  std::string name;                                // "cuda emulated"
  std::vector<std::unique_ptr<Backend>> backends;  // of one kind; parts are run on the first
  double most_flops = INFINITY;                    // of a case; larger ones are skipped

  struct Count {
    Tally tally;
    int cases = 0, large = 0, exact = 0, host_only = 0;
  };
};

// The operation of a backend by its arguments.
#define X(op, Args) \
  inline void call(Backend& backend, const Args& args) { backend.op(args); }
MOEBIUS_OPS(X)
MOEBIUS_GRAD_OPS(X)
#undef X

template <class Args>
class DeviceTest {
 public:
  // The case's outputs hold `before`; reference: what they should hold afterwards.
  DeviceTest(const char* op, const std::string& shape, Case<Args>& c, const Snapshot& before,
             const Snapshot& reference)
      : op_(op), shape_(shape), case_(c), before_(before), reference_(reference) {}

  void test(const Device& device, Device::Count& count) {
    if (case_.exact_activations) {
      ++count.exact;
    } else if (case_.host_only) {
      ++count.host_only;
    } else if (case_.flops > device.most_flops) {
      ++count.large;
    } else {
      ++count.cases;
      Snapshot first;
      for (const std::unique_ptr<Backend>& backend : device.backends) test_on(*backend, first, count.tally);
    }
  }

 private:
  // first: what the first of the device's backends gave; others, which run blocks and threads in another
  // order, must give the same bits.
  void test_on(Backend& backend, Snapshot& first, Tally& tally) {
    restore(case_.outputs, before_);
    Mirror mirror(backend, case_.arena);
    const auto run = [&](int64_t count) {  // tokens at a time; 0: all
      restore(case_.outputs, before_);
      mirror.upload(case_.outputs);
      if (count == 0) call(backend, mirror(case_.args));
      for (int64_t t = 0; count > 0 && t < case_.tokens; t += count)
        call(backend, mirror(case_.part(case_.args, t, std::min(count, case_.tokens - t))));
      const Status status = mirror.fetch(case_.outputs);
      report(backend, "", status.message(), tally);
      return snapshot(case_.outputs);
    };
    const Snapshot whole = run(0);
    report(backend, "", difference(case_.outputs, whole, reference_, false), tally);
    if (!first.empty()) {
      if (case_.bits_by_place) return;
      report(backend, ", in another order", difference(case_.outputs, whole, first, true), tally);
      return;
    }
    first = whole;
    report(backend, ", again", difference(case_.outputs, run(0), whole, true), tally);
    if (!case_.part) return;
    for (const int64_t count : {int64_t{1}, int64_t{3}})
      if (case_.tokens > count)
        report(backend, fmt::format(", tokens by {} against whole", count),
               difference(case_.outputs, run(count), whole, true), tally);
  }

  void report(const Backend& backend, const std::string& how, const std::string& problem, Tally& tally) {
    problem.empty() ? ++tally.passed : ++tally.failed;
    if (!problem.empty()) fmt::print("FAILED {} {} [{}{}]: {}\n", op_, shape_, backend.name(), how, problem);
  }

  const char* op_;
  const std::string& shape_;
  Case<Args>& case_;
  const Snapshot& before_;
  const Snapshot& reference_;
};

}  // namespace moebius::test
