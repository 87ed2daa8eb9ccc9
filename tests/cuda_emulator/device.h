// kernels/cuda/device.h on the emulated device: see machine.h. Included by it alone.
#pragma once

#include <cmath>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "tests/cuda_emulator/machine.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

namespace moebius::cuda {

using StreamHandle = emulator::Machine*;

inline int thread() { return emulator::Machine::now().thread; }
inline int threads() { return emulator::Machine::now().threads; }
inline int64_t block_x() { return emulator::Machine::now().block_x; }
inline int block_y() { return emulator::Machine::now().block_y; }
inline int block_z() { return emulator::Machine::now().block_z; }
inline int64_t blocks_x() { return emulator::Machine::now().blocks_x; }

// The defaults are taken where the kernel calls: they tell one barrier from another.
inline void barrier(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::Machine::now().machine->barrier({file, line});
}
inline void warp_barrier(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::Machine::now().machine->warp_barrier({file, line});
}
template <class T>
T shuffle(T value, int from_lane, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= emulator::kMostShuffled);
  T result;
  emulator::Machine::now().machine->shuffle(&value, sizeof(T), from_lane, &result, {file, line});
  return result;
}
template <class T>
T shuffle_xor(T value, int mask, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return shuffle(value, (thread() % emulator::kLanes) ^ mask, file, line);
}

// What all lanes of the warp give: for what a device's instructions do across them.
template <class T>
class Lanes {
 public:
  explicit Lanes(const emulator::Machine::LaneValues& values) : values_(values) {}
  T operator[](int from_lane) const {
    T value;
    std::memcpy(&value, values_[from_lane], sizeof(T));
    return value;
  }

 private:
  const emulator::Machine::LaneValues& values_;
};
template <class T>
Lanes<T> exchange(const T& value, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= emulator::kMostShuffled);
  return Lanes<T>(emulator::Machine::now().machine->exchange(&value, sizeof(T), {file, line}));
}

inline int32_t dot4(uint32_t a, uint32_t b, int32_t sum) {
  for (int shift = 0; shift < 32; shift += 8)
    sum += static_cast<int8_t>(a >> shift) * static_cast<int8_t>(b >> shift);
  return sum;
}

template <class T>
class SharedElement {
 public:
  explicit SharedElement(T* at) : at_(at) {}
  operator T() const {
    emulator::Machine::now().machine->touch(at_, sizeof(T), false);
    return *at_;
  }
  const SharedElement& operator=(const T& value) const {
    emulator::Machine::now().machine->touch(at_, sizeof(T), true);
    *at_ = value;
    return *this;
  }
  const SharedElement& operator=(const SharedElement& other) const { return *this = static_cast<T>(other); }
  SharedElement(const SharedElement&) = default;

 private:
  T* at_;
};

template <class T>
struct Shared {
  T* at;
  int64_t count;
  SharedElement<T> operator[](int64_t i) const {
    if (i < 0 || i >= count)
      emulator::Machine::now().machine->fail("element " + std::to_string(i) + " of a shared array of " +
                                             std::to_string(count));
    return SharedElement<T>(at + i);
  }
};
template <class T>
Shared<T> dynamic_shared(int64_t offset_bytes, int64_t count) {
  void* at =
      emulator::Machine::now().machine->dynamic_shared(offset_bytes, count * static_cast<int64_t>(sizeof(T)));
  return {static_cast<T*>(at), count};
}
#define MOEBIUS_SHARED(type, name, count)                                                \
  static const char name##_tag = 0;                                                      \
  const ::moebius::cuda::Shared<type> name {                                             \
    static_cast<type*>(::moebius::cuda::emulator::Machine::now().machine->static_shared( \
        &name##_tag, (count) * static_cast<int64_t>(sizeof(type)))),                     \
        count                                                                            \
  }

struct LaunchPlace {  // where launch() was called
  StreamHandle stream;
  emulator::Place place;
  LaunchPlace(StreamHandle on, const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : stream(on), place{file, line} {}
};

template <class... Parameters, class... Args>
void launch(LaunchPlace on, void (*kernel)(Parameters...), Grid grid, int block, size_t shared_bytes,
            Args... args) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "parameters are copied bit by bit");
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "a kernel has at most 4 KiB of parameters");
  const std::tuple<Parameters...> values{args...};
  size_t parameter = 0;
  const auto check = [&](const auto& value) {
    if constexpr (std::is_pointer_v<std::decay_t<decltype(value)>>)
      on.stream->check_pointer(on.place, parameter, value);
    ++parameter;
  };
  std::apply([&](const auto&... value) { (check(value), ...); }, values);
  on.stream->launch(on.place, grid, block, shared_bytes, [&] { std::apply(kernel, values); });
}

}  // namespace moebius::cuda
