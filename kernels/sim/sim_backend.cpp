// The simulated device. A call checks its arguments, turns device addresses into aliases and queues the
// host's own operation on a stream.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <deque>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "kernels/backend.h"
#include "kernels/sim/arena.h"
#include "kernels/sim/stream.h"
#include "kernels/staging.h"
#include "kernels/traffic.h"

namespace moebius {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::microseconds kLateSleep{100};
constexpr int kStagingThreads = 2;

// The arguments of an operation with aliases for device addresses, and copies of what they point at.
template <class Args>
class Call {
 public:
  Call(const Args& from, const SimArena& arena, const Ranges& pinned, const char* op)
      : args(from), arena_(arena), pinned_(pinned), op_(op) {
    args.visit(*this);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  void operator()(Tensor& t) {
    if (t.empty()) return;
    if (t.space != Space::kPinned) {
      t.data = alias(t.data, t.space);
    } else {
      MOEBIUS_CHECK(pinned_.contain(t.data, 0), fmt::format("{}: an argument is not pinned", op_));
    }
    t.space = Space::kHost;
  }
  void operator()(Matrix& m) {
    if (m.empty()) return;
    m.data = alias(m.data, m.space);
    if (m.scales) m.scales = alias(m.scales, m.space);
    m.space = Space::kHost;
    if (!m.lora) return;
    Lora& lora = loras_.emplace_back(*m.lora);
    for (Tensor* t : {&lora.a, &lora.b, &lora.da, &lora.db}) (*this)(*t);
    m.lora = &lora;
  }
  void operator()(CacheView& c) {
    c.base = alias(c.base, c.space);
    c.space = Space::kHost;
    pages_.assign(c.pages, c.pages + c.capacity / c.page_tokens);
    c.pages = pages_.data();
  }
  void operator()(const ExpertWeights*& experts, int64_t count) {
    experts_.assign(experts, experts + count);
    for (ExpertWeights& e : experts_) (*this)(e.gate), (*this)(e.up), (*this)(e.down);
    experts = experts_.data();
  }
  void operator()(const ExpertGradients*& gradients, int64_t count) {
    gradients_.assign(gradients, gradients + count);
    for (ExpertGradients& g : gradients_) (*this)(g.gate), (*this)(g.up), (*this)(g.down);
    gradients = gradients_.data();
  }
  void operator()(std::span<const int64_t>& numbers) {
    numbers_.assign(numbers.begin(), numbers.end());
    numbers = numbers_;
  }

  Args args;

 private:
  template <class T>
  T* alias(T* at, Space space) const {
    MOEBIUS_CHECK(space == Space::kDevice && arena_.owns(at, 0),
                  fmt::format("{}: an argument is not in the device's memory", op_));
    return static_cast<T*>(arena_.alias(at));
  }

  const SimArena& arena_;
  const Ranges& pinned_;
  const char* op_;
  std::deque<Lora> loras_;
  std::vector<ExpertWeights> experts_;
  std::vector<ExpertGradients> gradients_;
  std::vector<int32_t> pages_;
  std::vector<int64_t> numbers_;
};

class SimBackend final : public Backend, private Staging::Streams {
 public:
  SimBackend(const SimOptions& options, std::unique_ptr<SimArena> arena)
      : options_(options), arena_(std::move(arena)), host_(make_host_backend(options.host)) {
    for (uint64_t i = 0; i < kStreams; ++i) streams_.emplace_back(options.seed == 0 ? 0 : options.seed + i);
  }
  ~SimBackend() override {
    drain();
    staging_.reset();
  }
  Status create() {
    MOEBIUS_ASSIGN(staging_, Staging::create(kStagingThreads, *this, *this));
    return Status();
  }

  std::string name() const override {
    return fmt::format("sim ({:.1f} GiB, {})", static_cast<double>(options_.memory_bytes) / (1 << 30),
                       host_->name());
  }
  Space space() const override { return Space::kDevice; }

  Result<Buffer> alloc(size_t bytes) override {
    MOEBIUS_TRY(allocate());
    MOEBIUS_ASSIGN(void* const at, arena_->take(static_cast<int64_t>(bytes)));
    const auto release = [](void* data, size_t, void* owner) {
      auto* backend = static_cast<SimBackend*>(owner);
      backend->drain();
      backend->arena_->give_back(data);
    };
    return Buffer(at, bytes, Space::kDevice, release, this);
  }
  Result<Buffer> alloc_pinned(size_t bytes) override {
    MOEBIUS_TRY(allocate());
    MOEBIUS_ASSIGN(Buffer host, Buffer::host(bytes));
    struct Pinned {
      SimBackend* backend;
      Buffer memory;
    };
    auto* pinned = new Pinned{this, std::move(host)};
    const auto release = [](void*, size_t, void* owner) {
      auto* p = static_cast<Pinned*>(owner);
      p->backend->drain();
      p->backend->pinned_.remove(p->memory.data());
      delete p;
    };
    pinned_.add(pinned->memory.data(), bytes);
    return Buffer(pinned->memory.data(), bytes, Space::kPinned, release, pinned);
  }

  void zero(const Tensor& to) override {
    push(Stream::kCompute, "zero", 0, [this, to = aliased(to)] {
      host_->zero(to);
      return 0.0;
    });
  }
  void copy(const Tensor& from, const Tensor& to) override {
    for (const Tensor* t : {&from, &to})
      MOEBIUS_CHECK(arena_->owns(t->data, 0) || pinned_.contain(t->data, 0), "copy: a tensor is not pinned");
    const bool crosses = (from.space == Space::kDevice) != (to.space == Space::kDevice);
    const double bytes = static_cast<double>(from.numel()) * static_cast<double>(dtype_bytes(from.dtype));
    push(Stream::kCompute, "copy", options_.link_GBs,
         [this, from = aliased(from), to = aliased(to), crosses, bytes] {
           host_->copy(from, to);
           return crosses ? bytes : 0;
         });
  }
  void copy_bytes(Stream stream, const void* from, void* to, size_t bytes) override {
    if (bytes == 0) return;
    if (!reachable(from, bytes)) return staging_->to_device(stream, from, to, bytes);
    if (!reachable(to, bytes)) return staging_->to_host(stream, from, to, bytes);
    copy_pinned(stream, from, to, bytes);
  }

  Event record(Stream stream) override { return {stream, on(stream).pushed()}; }
  bool done(Event event) override { return on(event.stream).done() >= event.ticket; }
  void wait(Stream stream, Event event) override {
    if (event.stream == stream) return;  // in order already
    on(stream).push([this, stream, event] {
      stand_still(stream, "wait for the other stream", [&] { on(event.stream).wait_for(event.ticket); });
    });
  }
  void raise(Flag& flag, uint64_t value) override { raise_on(Stream::kCompute, flag, value); }
  void await(Flag& flag, uint64_t value) override { await_on(Stream::kCompute, flag, value); }
  Status sync() override {
    drain();
    staging_->finish();
    return status();
  }
  Status sync_compute() override {
    SimStream& compute = on(Stream::kCompute);
    compute.wait_for(compute.pushed());
    return status();
  }
  void begin_timing(Stream stream) override {
    on(stream).push([this, stream] { timed_[static_cast<size_t>(stream)] = Clock::now(); });
  }
  void end_timing(Stream stream, std::atomic<int64_t>& ns) override {
    on(stream).push([this, stream, &ns] {
      ns += std::chrono::nanoseconds(Clock::now() - timed_[static_cast<size_t>(stream)]).count();
    });
  }
  void trace(Tracer* tracer) override {
    drain();
    tracer_ = tracer;
  }
  void clear_error() override {
    drain();
    failed_ = false;
  }

#define X(op, Args)                                                        \
  void op(const Args& args) override {                                     \
    check(args);                                                           \
    auto call = std::make_shared<Call<Args>>(args, *arena_, pinned_, #op); \
    const double GBs = speed_of(args);                                     \
    push(Stream::kCompute, #op, GBs, [this, call, GBs] {                   \
      host_->op(call->args);                                               \
      return GBs > 0 ? Traffic::bytes(call->args) : 0;                     \
    });                                                                    \
  }
  MOEBIUS_OPS(X)
  MOEBIUS_GRAD_OPS(X)
#undef X

 private:
  template <class Args>
  double speed_of(const Args& args) const {
    if constexpr (std::is_same_v<Args, TakeSlotsArgs>)
      if (args.from.space == Space::kPinned)
        return 2 * options_.link_GBs;  // half of its bytes cross the link
    return options_.device_GBs;
  }
  void copy_pinned(Stream stream, const void* from, void* to, size_t bytes) override {
    MOEBIUS_CHECK(reachable(from, bytes) && reachable(to, bytes), "a copy of memory that is not pinned");
    const int64_t size = static_cast<int64_t>(bytes);
    const bool from_device = arena_->owns(from, size), to_device = arena_->owns(to, size);
    if (from_device) from = arena_->alias(from);
    if (to_device) to = arena_->alias(to);
    push(stream, "copy", options_.link_GBs, [from, to, bytes, crosses = from_device != to_device] {
      std::memcpy(to, from, bytes);
      return crosses ? static_cast<double>(bytes) : 0;
    });
  }
  void raise_on(Stream stream, Flag& flag, uint64_t value) override {
    on(stream).push([&flag, value] {
      flag.store(value, std::memory_order_release);
      flag.notify_all();
    });
  }
  void await_on(Stream stream, Flag& flag, uint64_t value) override {
    on(stream).push([this, stream, &flag, value] {
      if (flag.load(std::memory_order_acquire) >= value) return;
      stand_still(stream, stream == Stream::kCompute ? "wait for the CPU" : "wait for staging", [&] {
        for (uint64_t now; (now = flag.load(std::memory_order_acquire)) < value;) flag.wait(now);
      });
    });
  }
  bool reachable(const void* at, size_t bytes) const {
    return arena_->owns(at, static_cast<int64_t>(bytes)) || pinned_.contain(at, bytes);
  }
  SimStream& on(Stream stream) { return streams_[static_cast<size_t>(stream)]; }
  // work() says how many bytes it moved, which take their time at so many GB/s (0: none).
  template <class Work>
  void push(Stream stream, const char* name, double GBs, Work work) {
    on(stream).push(
        [this, stream, name, GBs, fails = ++pieces_ == options_.fail_work, work = std::move(work)] {
          if (fails) failed_ = true;
          if (!failed_) run(stream, name, GBs, work);
        });
  }
  // What follows on the stream at once starts where this ends, not where a sleep was noticed to be over.
  template <class Work>
  void run(Stream stream, const char* name, double GBs, const Work& work) {
    Clock::time_point& ended = ended_[static_cast<size_t>(stream)];
    const Clock::time_point now = Clock::now(), start = now - ended < kLateSleep ? ended : now;
    const double bytes = work(), ns = GBs > 0 ? bytes / GBs : 0;
    ended = std::max(Clock::now(), start + std::chrono::nanoseconds(static_cast<int64_t>(ns)));
    std::this_thread::sleep_until(ended);
    trace(stream, name, start, ended);
  }
  template <class Wait>
  void stand_still(Stream stream, const char* name, const Wait& wait) {
    const Clock::time_point start = Clock::now();
    wait();
    ended_[static_cast<size_t>(stream)] = Clock::now();
    trace(stream, name, start, ended_[static_cast<size_t>(stream)]);
  }
  void trace(Stream stream, const char* name, Clock::time_point start, Clock::time_point end) const {
    if (!tracer_) return;
    const Tracer::Row row = stream == Stream::kCompute ? Tracer::Row::kCompute : Tracer::Row::kLoad;
    tracer_->add({row, name, -1, start, end});
  }
  Status status() const {
    return failed_ ? io_error("the simulated device failed, as it was told to") : Status();
  }
  Status allocate() {
    return ++allocations_ == options_.fail_alloc
               ? no_memory("the simulated device has no memory, as it was told")
               : Status();
  }
  void drain() {
    for (SimStream& stream : streams_) stream.wait_for(stream.pushed());
  }
  Tensor aliased(Tensor t) const {
    if (t.space != Space::kDevice) return t;
    MOEBIUS_CHECK(arena_->owns(t.data, 0), "a tensor of another device");
    t.data = arena_->alias(t.data);
    t.space = Space::kHost;
    return t;
  }
  const SimOptions options_;
  const std::unique_ptr<SimArena> arena_;
  const std::unique_ptr<Backend> host_;  // used by the compute stream alone
  uint64_t pieces_ = 0, allocations_ = 0;
  std::atomic<bool> failed_{false};
  Tracer* tracer_ = nullptr;
  Ranges pinned_;
  std::unique_ptr<Staging> staging_;
  std::array<Clock::time_point, kStreams> ended_{};  // of the last piece of work; each stream has its own
  std::array<Clock::time_point, kStreams> timed_{};  // since when
  std::deque<SimStream> streams_;                    // the last to be made, the first to end
};

}  // namespace

Result<std::unique_ptr<Backend>> make_sim_backend(const SimOptions& options) {
  MOEBIUS_ASSIGN(std::unique_ptr<SimArena> arena, SimArena::create(options.memory_bytes));
  auto backend = std::make_unique<SimBackend>(options, std::move(arena));
  MOEBIUS_TRY(backend->create());
  return std::unique_ptr<Backend>(std::move(backend));
}

}  // namespace moebius
