// Backend: a device as the engine sees it: memory, streams and the operations of ops.h and grad_ops.h.
//
// Operations read and write the backend's own space. The host backend runs everything at once on the calling
// thread's team; on other devices a call only queues work, in order, on a stream, and errors come with the
// next sync(). One thread at a time may call a backend. Host memory that queued work reads (what is copied,
// spans, page tables, arrays of experts) must stay as it is until a sync. Asking for a device that
// this build or machine lacks gives a Status, never a crash.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "kernels/grad_ops.h"
#include "kernels/isa.h"
#include "kernels/trace.h"

namespace moebius {

enum class CpuGemm : uint8_t { kAuto, kOneDnn, kOwn };  // who multiplies large batches on the CPU

struct HostOptions {
  int threads = 0;                 // 0: one per physical core this process may use
  bool exact_activations = false;  // float32, with integer formats and over BF16 caches (for comparison)
  Isa isa = Isa::kAmx;             // the most that is used; less where the processor has less
  CpuGemm gemm = CpuGemm::kAuto;
};

// Work on one stream runs in the order of the calls; streams run beside each other. Operations, zero and copy
// are on kCompute.
enum class Stream : uint8_t { kCompute, kLoad };
inline constexpr int kStreams = 2;

struct Event {  // all that was queued on a stream before it was recorded
  Stream stream = Stream::kCompute;
  uint64_t ticket = 0;
};

// A number in pinned memory that a stream and the host raise and wait for; it never falls.
using Flag = std::atomic<uint64_t>;

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;  // "host (2 threads, AVX2)"

  // Memory that operations work on, zeroed; and host memory that streams copy to and from. kNoMemory says
  // what is left. A buffer may be released at any time: that waits for what was queued.
  virtual Space space() const { return Space::kHost; }
  virtual Result<Buffer> alloc(size_t bytes) = 0;
  virtual Result<Buffer> alloc_pinned(size_t bytes) { return Buffer::host(bytes); }

  // Float32 [n, d], rows may be strided.
  virtual void zero(const Tensor& to) = 0;
  // [n, d] or dense, on the device and in pinned memory. from and to: of one shape and type, not aliasing.
  virtual void copy(const Tensor& from, const Tensor& to) = 0;
  // The same for bytes, on any stream; one side may be any memory of the host (kernels/staging.h).
  virtual void copy_bytes(Stream stream, const void* from, void* to, size_t bytes);

  virtual Event record(Stream stream) { return {stream, 0}; }
  virtual bool done(Event) { return true; }
  virtual void wait(Stream, Event) {}  // what is queued next on the stream comes after the event
  // kCompute raises a flag, or goes on when the flag has reached the value.
  virtual void raise(Flag& flag, uint64_t value) { flag.store(value, std::memory_order_release); }
  virtual void await(Flag& flag, uint64_t value);
  // Any thread of the host waits for a flag that a stream raises.
  virtual void wait_on_host(const Flag& flag, uint64_t value);
  // Returns when all streams are idle; the first error of anything queued. After an error nothing queued is
  // done, but flags are raised and waited for; clear_error() ends that where the device can go on.
  virtual Status sync() { return Status(); }
  // The same of kCompute alone, whatever kLoad still brings; copies to memory that is not pinned may not have
  // arrived.
  virtual Status sync_compute() { return Status(); }
  virtual void clear_error() {}
  // Adds what the stream takes from one to the other, in nanoseconds, to a counter, when it is over and at
  // the latest in the next sync(). One pair after the other. On the host nothing is added.
  virtual void begin_timing(Stream) {}
  virtual void end_timing(Stream, std::atomic<int64_t>&) {}
  // From now on what the streams do is told to the tracer, which outlives the backend; on the host nothing
  // is.
  virtual void trace(Tracer*) {}
#define X(name, Args) virtual void name(const Args& args) = 0;
  MOEBIUS_OPS(X)
  MOEBIUS_GRAD_OPS(X)
#undef X
};

std::unique_ptr<Backend> make_host_backend(const HostOptions& options);

// The simulated device: the host's maths behind memory of its own, which faults when the host touches it, and
// streams of its own with delays that follow from a seed.
struct SimOptions {
  int64_t memory_bytes = int64_t{1} << 30;
  double link_GBs = 0;    // between host and device, each way; 0: as fast as memory
  double device_GBs = 0;  // of the device: an operation lasts as long as its bytes; 0: no limit
  uint64_t seed = 0;      // of random delays before each piece of work; 0: none
  uint64_t fail_work = 0, fail_alloc = 0;  // the piece of work, or allocation, that fails, from 1; 0: none
  HostOptions host;                        // of the maths
};
Result<std::unique_ptr<Backend>> make_sim_backend(const SimOptions& options);

// What the processor offers, read once by the caller: for dispatch, `doctor` and messages.
struct CpuFeatures {
  bool avx2 = false;  // with FMA and F16C, which every AVX2 kernel here uses too
  bool avx512 = false, avx512_vnni = false, avx512_bf16 = false, avx512_vbmi = false;
  bool amx = false;              // tiles of INT8 and of BF16; this process has asked the system for them
  Isa isa() const;               // the best that kernels are written for
  std::string describe() const;  // "AVX2 FMA F16C"
};
CpuFeatures cpu_features();
int physical_cores();  // that this process may run on, at least 1

}  // namespace moebius
