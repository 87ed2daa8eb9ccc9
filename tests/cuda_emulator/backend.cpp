#include "tests/cuda_emulator/backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cuda/dispatch.h"
#include "kernels/half.h"

namespace moebius::cuda::emulator {
namespace {

constexpr int64_t kScratchAlign = 256;
constexpr uint8_t kUnwritten = 0xff;
constexpr int kMultiprocessors = 4;

float number_at(DType type, const void* at, int64_t i) {
  if (type == DType::kF32) return static_cast<const float*>(at)[i];
  const uint16_t bits = static_cast<const uint16_t*>(at)[i];
  return type == DType::kBF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

class EmulatedContext final : public Context {
 public:
  EmulatedContext(uint64_t seed, Fit fit, int64_t scratch_bytes, ScratchUse* use)
      : machine_(Options{seed, fit}), scratch_bytes_(scratch_bytes), use_(use ? *use : own_use_) {}
  ~EmulatedContext() override { drop_scratch(); }

  DeviceMemory& memory() { return machine_.memory(); }
  void drop_scratch() {
    for (void* at : scratch_) memory().give_back(at);
    scratch_.clear();
    scratch_used_ = 0;
  }

  StreamHandle compute() override { return &machine_; }
  int multiprocessors() const override { return kMultiprocessors; }
  void* scratch(int64_t bytes) override {
    MOEBIUS_CHECK(bytes >= 0, "scratch of a negative size");
    scratch_.push_back(memory().take(bytes, kUnwritten, kScratchAlign));
    scratch_used_ += (bytes + kScratchAlign - 1) / kScratchAlign * kScratchAlign;
    use_.most_bytes = std::max(use_.most_bytes, scratch_used_);
    return scratch_.back();
  }
  int64_t scratch_bytes() const override { return scratch_bytes_; }
  void reuse_scratch() override {
    drop_scratch();
    ++use_.pieces;
  }
  const void* upload(const void* from, int64_t bytes) override {
    void* to = scratch(bytes);
    const DeviceMemory::Open open(memory());
    std::memcpy(to, from, static_cast<size_t>(bytes));
    return to;
  }
  void gemm(DType type, int64_t n, int64_t rows, int64_t cols, const void* x, int64_t ldx, const void* w,
            int64_t ldw, float* y, int64_t ldy, bool accumulate) override {
    for (const void* at : {x, w, static_cast<const void*>(y)})
      MOEBIUS_CHECK(memory().reachable(at) && reinterpret_cast<uintptr_t>(at) % dtype_bytes(type) == 0,
                    "gemm: memory that the device cannot reach, or whose elements are not aligned");
    MOEBIUS_CHECK(
        n > 0 && rows > 0 && cols > 0 && ldx >= cols && ldw >= cols && ldy >= rows,
        fmt::format("gemm: n {} rows {} cols {} ldx {} ldw {} ldy {}", n, rows, cols, ldx, ldw, ldy));
    const DeviceMemory::Open open(memory());
    std::vector<float> token(static_cast<size_t>(cols)), row(token);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) row[static_cast<size_t>(c)] = number_at(type, w, r * ldw + c);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t c = 0; c < cols; ++c) token[static_cast<size_t>(c)] = number_at(type, x, i * ldx + c);
        float sum = 0;
        for (size_t c = 0; c < token.size(); ++c) sum = std::fma(token[c], row[c], sum);
        y[i * ldy + r] = accumulate ? y[i * ldy + r] + sum : sum;
      }
    }
  }

 private:
  Machine machine_;
  std::vector<void*> scratch_;
  const int64_t scratch_bytes_;
  int64_t scratch_used_ = 0;
  ScratchUse own_use_, &use_;
};

class EmulatedBackend final : public CudaOperations {
 public:
  EmulatedBackend(uint64_t seed, Fit fit, int64_t scratch_bytes, ScratchUse* use)
      : name_(fmt::format("cuda emulated (seed {}, memory up to the {} of pages)", seed,
                          fit == Fit::kStart ? "start" : "end")),
        context_(seed, fit, scratch_bytes, use) {}

  std::string name() const override { return name_; }
  Space space() const override { return Space::kDevice; }
  Result<Buffer> alloc(size_t bytes) override {
    void* at = context_.memory().take(static_cast<int64_t>(bytes), 0);
    if (!at) return no_memory(fmt::format("no memory for {} bytes", bytes));
    const auto release = [](void* data, size_t, void* owner) {
      static_cast<EmulatedBackend*>(owner)->context_.memory().give_back(data);
    };
    return Buffer(at, bytes, Space::kDevice, release, this);
  }
  Result<Buffer> alloc_pinned(size_t bytes) override {
    struct Pinned {
      DeviceMemory& device;
      Buffer memory;
    };
    MOEBIUS_ASSIGN(Buffer host, Buffer::host(bytes));
    auto* pinned = new Pinned{context_.memory(), std::move(host)};
    void* const at = pinned->memory.data();
    context_.memory().pin(at, static_cast<int64_t>(bytes));
    const auto release = [](void* data, size_t, void* owner) {
      auto* p = static_cast<Pinned*>(owner);
      p->device.unpin(data);
      delete p;
    };
    return Buffer(at, bytes, Space::kPinned, release, pinned);
  }

  void zero(const Tensor& to) override {
    const DeviceMemory::Open open(context_.memory());
    for (int64_t i = 0; i < to.shape[0]; ++i)
      std::memset(to.f32() + i * to.stride[0], 0, static_cast<size_t>(to.shape[1]) * sizeof(float));
  }
  void copy(const Tensor& from, const Tensor& to) override {
    const DeviceMemory::Open open(context_.memory());
    const int64_t width = static_cast<int64_t>(dtype_bytes(from.dtype));
    const int64_t rows = from.shape[0], row_bytes = from.numel() / std::max<int64_t>(1, rows) * width;
    for (int64_t i = 0; i < rows; ++i)
      std::memcpy(static_cast<char*>(to.data) + i * to.stride[0] * width,
                  static_cast<const char*>(from.data) + i * from.stride[0] * width,
                  static_cast<size_t>(row_bytes));
  }
  void copy_bytes(Stream, const void* from, void* to, size_t bytes) override {
    const DeviceMemory::Open open(context_.memory());
    std::memcpy(to, from, bytes);
  }

 private:
  Context& context() override { return context_; }
  bool begin() override {
    context_.drop_scratch();
    return true;
  }
  void end(const char*) override {}

  const std::string name_;
  EmulatedContext context_;
};

}  // namespace

std::unique_ptr<Backend> make_emulated_backend(uint64_t seed, Fit fit, int64_t scratch_bytes,
                                               ScratchUse* use) {
  return std::make_unique<EmulatedBackend>(seed, fit, scratch_bytes, use);
}

}  // namespace moebius::cuda::emulator
