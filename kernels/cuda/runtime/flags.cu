#include "kernels/cuda/runtime/flags.h"

#include <memory>
#include <thread>

namespace moebius::cuda {
namespace {

static_assert(sizeof(Flag) == sizeof(uint64_t) && Flag::is_always_lock_free);

template <class Function>
void find(const char* name, Function* function) {
  void* at = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  constexpr unsigned kVersion = 11070;  // of the driver that the types are from
  if (cudaGetDriverEntryPointByVersion(name, &at, kVersion, cudaEnableDefault, &found) != cudaSuccess ||
      found != cudaDriverEntryPointSuccess) {
    (void)cudaGetLastError();  // it does without
    return;
  }
  *function = reinterpret_cast<Function>(at);
}

void store(Flag& flag, uint64_t value) {
  flag.store(value, std::memory_order_release);
  flag.notify_all();
}

struct Call {
  Flag& flag;
  uint64_t value;
};

void CUDART_CB raise_on_host(void* data) {
  const std::unique_ptr<Call> call(static_cast<Call*>(data));
  store(call->flag, call->value);
}

void wait_for(Flag& flag, uint64_t value) {
  for (uint64_t now; (now = flag.load(std::memory_order_acquire)) < value;) flag.wait(now);
}

void CUDART_CB await_on_host(void* data) {
  const std::unique_ptr<Call> call(static_cast<Call*>(data));
  wait_for(call->flag, call->value);
}

CUdeviceptr address(Flag& flag) {
  void* device = nullptr;
  cudaHostGetDevicePointer(&device, &flag, 0);
  return reinterpret_cast<CUdeviceptr>(device);
}

// A processor spends a few dozen cycles on it, and leaves its core to the other hardware thread.
void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

void poll(const Flag& flag, uint64_t value) {
  constexpr int kLooks = 20000;
  for (int looks = 0; flag.load(std::memory_order_acquire) < value; ++looks) {
    if (looks < kLooks)
      relax();
    else
      std::this_thread::yield();
  }
}

void StreamFlags::create() {
  PFN_cuDeviceGetAttribute_v2000 attribute = nullptr;
  find("cuDeviceGetAttribute", &attribute);
  int device = 0, supported = 0;
  cudaGetDevice(&device);
  if (!attribute ||
      attribute(&supported, CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, device) != CUDA_SUCCESS ||
      supported == 0)
    return;
  find("cuStreamWriteValue64", &write_);
  find("cuStreamWaitValue64", &wait_);
}

bool StreamFlags::pinned(const Flag& flag) const {
  return write_ && wait_ && pinned_.contain(&flag, sizeof(Flag));
}

void StreamFlags::raise(Flag& flag, uint64_t value, cudaStream_t stream) {
  raised_.emplace_back(&flag, value);
  if (!failure_.first().ok()) return store(flag, value);
  if (pinned(flag)) {
    if (write_(stream, address(flag), value, CU_STREAM_WRITE_VALUE_DEFAULT) != CUDA_SUCCESS)
      failure_.ok(cudaErrorUnknown, "raising a flag");
    return;
  }
  auto call = std::make_unique<Call>(Call{flag, value});
  if (failure_.ok(cudaLaunchHostFunc(stream, raise_on_host, call.get()), "raising a flag")) call.release();
}

void StreamFlags::await(Flag& flag, uint64_t value, cudaStream_t stream) {
  awaited_.emplace_back(&flag, value);
  if (!failure_.first().ok()) return;
  if (pinned(flag)) {
    if (wait_(stream, address(flag), value, CU_STREAM_WAIT_VALUE_GEQ) != CUDA_SUCCESS)
      failure_.ok(cudaErrorUnknown, "waiting for a flag");
    return;
  }
  auto call = std::make_unique<Call>(Call{flag, value});
  if (failure_.ok(cudaLaunchHostFunc(stream, await_on_host, call.get()), "waiting for a flag"))
    call.release();
}

void StreamFlags::settle() {
  for (const auto& [flag, value] : raised_)
    if (flag->load(std::memory_order_acquire) < value) store(*flag, value);
  for (const auto& [flag, value] : awaited_) wait_for(*flag, value);
  forget();
}

}  // namespace moebius::cuda
