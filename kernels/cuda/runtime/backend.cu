// A CUDA device as a Backend: its streams, memory and the Context of its launchers.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>

#include "kernels/cuda/abi.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/no_memory.h"
#include "kernels/cuda/runtime/events.h"
#include "kernels/cuda/runtime/flags.h"
#include "kernels/cuda/runtime/product.h"
#include "kernels/cuda/runtime/scratch.h"
#include "kernels/cuda/runtime/stream_trace.h"
#include "kernels/gpu.h"
#include "kernels/staging.h"

namespace moebius::cuda {
namespace {

class CudaContext final : public Context {
 public:
  explicit CudaContext(Failure& failure)
      : failure_(failure), scratch_(failure), uploads_(failure), products_(failure) {}

  Status create(cudaStream_t compute, int multiprocessors) {
    compute_ = compute, multiprocessors_ = multiprocessors;
    MOEBIUS_TRY(uploads_.create());
    MOEBIUS_TRY(products_.create());
    return scratch_.create(scratch_bytes());
  }
  void merge_scratch() { scratch_.merge(); }

  StreamHandle compute() override { return compute_; }
  int multiprocessors() const override { return multiprocessors_; }
  void* scratch(int64_t bytes) override { return scratch_.take(bytes); }
  int64_t scratch_bytes() const override {
    return kCudaWorkBytes - static_cast<int64_t>(Products::kWorkspaceBytes);
  }
  void reuse_scratch() override { scratch_.reset(); }
  const void* upload(const void* from, int64_t bytes) override {
    void* to = scratch_.take(bytes);
    if (to) uploads_.copy(from, to, bytes, compute_);
    return to;
  }
  void gemm(DType type, int64_t n, int64_t rows, int64_t cols, const void* x, int64_t ldx, const void* w,
            int64_t ldw, float* y, int64_t ldy, bool accumulate) override {
    products_.run(type, n, rows, cols, x, ldx, w, ldw, y, ldy, accumulate, compute_);
  }

 private:
  Failure& failure_;
  cudaStream_t compute_ = nullptr;
  int multiprocessors_ = 1;
  DeviceScratch scratch_;
  UploadRing uploads_;
  Products products_;
};

// A thread copies some GB/s out of a mapped file, a link takes 10 to 60.
int staging_threads() { return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 4, 1, 4); }

class CudaBackend final : public CudaOperations, private Staging::Streams {
 public:
  CudaBackend(int device, int64_t memory_bytes)
      : device_(device),
        memory_bytes_(memory_bytes),
        events_{StreamEvents(failure_), StreamEvents(failure_)},
        flags_(failure_, pinned_),
        trace_(failure_, streams_) {}

  ~CudaBackend() override {
    use();
    cudaDeviceSynchronize();
    staging_.reset();
    context_.reset();
    for (cudaStream_t stream : streams_)
      if (stream) cudaStreamDestroy(stream);
    if (setup_) cudaStreamDestroy(setup_);
  }

  Status create() {
    cudaDeviceProp properties;
    if (!use() || !failure_.ok(cudaGetDeviceProperties(&properties, device_), "looking at it"))
      return failure_.first();
    if (properties.major < 8)
      return unsupported(fmt::format("GPU {} ({}) is of compute capability {}.{}; 8.0 is needed", device_,
                                     properties.name, properties.major, properties.minor));
    name_ = fmt::format("cuda ({}, {:.1f} GiB)", properties.name,
                        static_cast<double>(properties.totalGlobalMem) / (1 << 30));
    for (cudaStream_t* stream : {&streams_[0], &streams_[1], &setup_})
      failure_.ok(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), "making a stream");
    MOEBIUS_TRY(failure_.first());
    flags_.create();
    context_.emplace(failure_);
    MOEBIUS_TRY(context_->create(streams_[0], properties.multiProcessorCount));
    MOEBIUS_ASSIGN(staging_, Staging::create(staging_threads(), *this, *this));
    return Status();
  }

  std::string name() const override { return name_; }
  Space space() const override { return Space::kDevice; }

  Result<Buffer> alloc(size_t bytes) override {
    if (!use()) return failure_.first();
    const int64_t left = memory_bytes_ > 0 ? std::max<int64_t>(0, memory_bytes_ - allocated_) : INT64_MAX;
    void* at = nullptr;
    if (bytes > static_cast<size_t>(left) || cudaMalloc(&at, std::max<size_t>(1, bytes)) != cudaSuccess) {
      (void)cudaGetLastError();
      size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      return no_device_memory(bytes, static_cast<size_t>(left), free);
    }
    if (!failure_.ok(cudaMemsetAsync(at, 0, bytes, setup_), "clearing memory") ||
        !failure_.ok(cudaStreamSynchronize(setup_), "clearing memory")) {
      cudaFree(at);
      return failure_.first();
    }
    allocated_ += static_cast<int64_t>(bytes);
    here_.add(at, bytes);
    const auto release = [](void* data, size_t size, void* owner) {
      auto* backend = static_cast<CudaBackend*>(owner);
      backend->use();
      cudaFree(data);  // waits for the device
      backend->here_.remove(data);
      backend->allocated_ -= static_cast<int64_t>(size);
    };
    return Buffer(at, bytes, Space::kDevice, release, this);
  }
  Result<Buffer> alloc_pinned(size_t bytes) override {
    if (!use()) return failure_.first();
    void* at = nullptr;
    if (cudaHostAlloc(&at, std::max<size_t>(1, bytes), cudaHostAllocPortable | cudaHostAllocMapped) !=
        cudaSuccess) {
      (void)cudaGetLastError();
      return no_memory(
          fmt::format("no {} bytes of memory can be pinned for the GPU; free some memory", bytes));
    }
    std::memset(at, 0, bytes);
    pinned_.add(at, bytes);
    const auto release = [](void* data, size_t, void* owner) {
      auto* backend = static_cast<CudaBackend*>(owner);
      backend->use();
      cudaDeviceSynchronize();
      backend->pinned_.remove(data);
      cudaFreeHost(data);
    };
    return Buffer(at, bytes, Space::kPinned, release, this);
  }

  void zero(const Tensor& to) override {
    if (to.numel() == 0 || !ready()) return;
    const StreamTrace::Piece traced(trace_, Stream::kCompute, "zero");
    failure_.ok(
        cudaMemset2DAsync(to.f32(), static_cast<size_t>(std::max(to.stride[0], to.shape[1])) * sizeof(float),
                          0, static_cast<size_t>(to.shape[1]) * sizeof(float),
                          static_cast<size_t>(to.shape[0]), streams_[0]),
        "zero");
  }
  void copy(const Tensor& from, const Tensor& to) override {
    MOEBIUS_CHECK(from.space != Space::kHost && to.space != Space::kHost, "copy: a tensor is not pinned");
    if (from.numel() == 0 || !ready()) return;
    const StreamTrace::Piece traced(trace_, Stream::kCompute, "copy");
    const size_t width = dtype_bytes(from.dtype);
    const auto bytes = [&](int64_t count) { return static_cast<size_t>(count) * width; };
    if (from.contiguous() && to.contiguous()) {
      failure_.ok(cudaMemcpyAsync(to.data, from.data, bytes(from.numel()), cudaMemcpyDefault, streams_[0]),
                  "copy");
      return;
    }
    const int64_t rows = from.shape[0], row = from.numel() / rows;
    failure_.ok(cudaMemcpy2DAsync(to.data, bytes(std::max(row, to.stride[0])), from.data,
                                  bytes(std::max(row, from.stride[0])), bytes(row), static_cast<size_t>(rows),
                                  cudaMemcpyDefault, streams_[0]),
                "copy");
  }
  void copy_bytes(Stream stream, const void* from, void* to, size_t bytes) override {
    if (bytes == 0 || !ready()) return;
    if (!reachable(from, bytes)) return staging_->to_device(stream, from, to, bytes);
    if (!reachable(to, bytes)) return staging_->to_host(stream, from, to, bytes);
    copy_pinned(stream, from, to, bytes);
  }

  Event record(Stream stream) override {
    use();
    return {stream, events_[static_cast<size_t>(stream)].record(on(stream))};
  }
  bool done(Event event) override {
    use();
    return events_[static_cast<size_t>(event.stream)].done(event.ticket);
  }
  void wait(Stream stream, Event event) override {
    if (event.stream == stream || !use()) return;  // in order already
    const StreamTrace::Piece traced(trace_, stream, "wait for the other stream");
    events_[static_cast<size_t>(event.stream)].wait(on(stream), event.ticket);
  }
  void raise(Flag& flag, uint64_t value) override { raise_on(Stream::kCompute, flag, value); }
  void await(Flag& flag, uint64_t value) override { await_on(Stream::kCompute, flag, value); }
  void wait_on_host(const Flag& flag, uint64_t value) override { poll(flag, value); }
  Status sync() override {
    use();
    const bool failed = !failure_.first().ok();
    if (failed) flags_.settle();  // so that streams that wait for them come to an end
    for (cudaStream_t stream : streams_) failure_.ok(cudaStreamSynchronize(stream), "a kernel");
    failure_.first().ok() ? flags_.forget() : flags_.settle();
    staging_->finish();
    if (failure_.first().ok()) context_->merge_scratch();
    trace_.tell();
    return failure_.first();
  }
  Status sync_compute() override {
    if (!use() || !failure_.first().ok()) return sync();
    failure_.ok(cudaStreamSynchronize(streams_[0]), "a kernel");
    trace_.add_times(Stream::kCompute);
    return failure_.first().ok() ? Status() : sync();
  }
  // After a fault of a kernel the device gives the same error again at the next call.
  void clear_error() override { failure_.clear(); }
  void begin_timing(Stream stream) override {
    if (ready()) trace_.begin_timing(stream);
  }
  void end_timing(Stream stream, std::atomic<int64_t>& ns) override {
    if (ready()) trace_.end_timing(stream, ns);
  }
  void trace(Tracer* tracer) override {
    static_cast<void>(sync());  // an error stays for the next
    trace_.start(tracer);
  }

 private:
  bool use() { return failure_.ok(cudaSetDevice(device_), "choosing it"); }
  Context& context() override { return *context_; }
  bool ready() { return use() && failure_.first().ok(); }
  bool begin() override {
    if (!ready()) return false;
    context_->reuse_scratch();
    trace_.begin(Stream::kCompute);
    return true;
  }
  void end(const char* op) override {
    failure_.ok(cudaGetLastError(), op);
    trace_.end(Stream::kCompute, op);
  }
  void copy_pinned(Stream stream, const void* from, void* to, size_t bytes) override {
    const StreamTrace::Piece traced(trace_, stream, "copy");
    failure_.ok(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, on(stream)), "copy");
  }
  void raise_on(Stream stream, Flag& flag, uint64_t value) override {
    use();
    flags_.raise(flag, value, on(stream));
  }
  void await_on(Stream stream, Flag& flag, uint64_t value) override {
    use();
    const StreamTrace::Piece traced(trace_, stream,
                                    stream == Stream::kCompute ? "wait for the CPU" : "wait for staging");
    flags_.await(flag, value, on(stream));
  }
  bool reachable(const void* at, size_t bytes) const {
    return here_.contain(at, bytes) || pinned_.contain(at, bytes);
  }
  cudaStream_t on(Stream stream) const { return streams_[static_cast<size_t>(stream)]; }

  const int device_;
  const int64_t memory_bytes_;
  std::string name_;
  Failure failure_;
  int64_t allocated_ = kCudaWorkBytes;
  std::array<cudaStream_t, kStreams> streams_{};
  cudaStream_t setup_ = nullptr;
  std::array<StreamEvents, kStreams> events_;
  Ranges here_, pinned_;  // memory of the device and of the host
  StreamFlags flags_;
  StreamTrace trace_;
  std::unique_ptr<Staging> staging_;
  std::optional<CudaContext> context_;
};

}  // namespace
}  // namespace moebius::cuda

void* moebius_cuda_backend(uint64_t layout_checksum, int device, int64_t memory_bytes, char* error) {
  using moebius::unsupported;
  namespace cuda = moebius::cuda;
  const auto create = [&]() -> moebius::Result<cuda::CudaBackend*> {
    if (layout_checksum != cuda::layout_checksum())
      return unsupported("libmoebius_cuda.so is of another version; build again");
    auto backend = std::make_unique<cuda::CudaBackend>(device, memory_bytes);
    MOEBIUS_TRY(backend->create());
    return backend.release();
  };
  moebius::Result<cuda::CudaBackend*> backend = create();
  if (backend.ok()) return static_cast<moebius::Backend*>(*backend);
  std::snprintf(error, kMoebiusCudaErrorBytes, "%s", backend.status().message().c_str());
  return nullptr;
}
