// Tensor and Buffer: a view of numbers, and the owner of memory.
//
// A Tensor owns nothing: it is a pointer, a type, a space and up to four dimensions with strides, passed by
// value. Shapes stand in a comment where a tensor is declared and are checked at each operation's door. A
// Buffer owns one allocation and is move-only; every Tensor into it dies with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>

#include "kernels/status.h"

namespace moebius {

enum class DType : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kF8E4M3,
  kF8E5M2,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool
};

size_t dtype_bytes(DType dtype);
const char* dtype_name(DType dtype);  // the safetensors spelling: "F32", "BF16", "F8_E4M3", ...

enum class Space : uint8_t { kHost, kPinned, kDevice };

// a * b, or false when the product does not fit 63 bits or a factor is negative: for sizes read from files.
bool checked_mul(int64_t a, int64_t b, int64_t* product);

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Space space = Space::kHost;
  int ndim = 0;
  int64_t shape[4] = {1, 1, 1, 1};
  int64_t stride[4] = {0, 0, 0, 0};  // in elements

  Tensor() = default;
  // A dense row-major view of data.
  Tensor(void* at, DType type, std::initializer_list<int64_t> dims, Space where = Space::kHost);

  bool empty() const { return data == nullptr; }
  int64_t numel() const { return shape[0] * shape[1] * shape[2] * shape[3]; }
  bool contiguous() const;
  float* f32() const {
    MOEBIUS_CHECK(dtype == DType::kF32);
    return static_cast<float*>(data);
  }
  int32_t* i32() const {
    MOEBIUS_CHECK(dtype == DType::kI32);
    return static_cast<int32_t*>(data);
  }
  // Views that alias this tensor: [begin, begin + count) of one dimension, or of the first;
  Tensor slice(int dim, int64_t begin, int64_t count) const;
  Tensor rows(int64_t begin, int64_t count) const { return slice(0, begin, count); }
  // and [n, parts * d] seen as [n, parts, d].
  Tensor split(int64_t parts) const;
  // The same numbers of a contiguous tensor under other dimensions.
  Tensor reshape(std::initializer_list<int64_t> dims) const;
  std::string describe() const;  // "F32[2, 64]"
};

inline Tensor f32_tensor(float* at, std::initializer_list<int64_t> dims) { return {at, DType::kF32, dims}; }

// Elements of files may lie at any address: read and write them through these.
template <class T>
T load_unaligned(const void* base, int64_t index = 0) {
  T value;
  std::memcpy(&value, static_cast<const char*>(base) + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

// Owns host memory aligned to 64 bytes, zeroed. Other spaces come from a Backend, with their own release.
class Buffer {
 public:
  using Release = void (*)(void* data, size_t bytes, void* owner);

  Buffer() = default;
  Buffer(void* data, size_t bytes, Space space, Release release, void* owner)
      : data_(data), bytes_(bytes), space_(space), release_(release), owner_(owner) {}
  static Result<Buffer> host(size_t bytes);  // kNoMemory with the size asked for
  ~Buffer() { reset(); }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void reset();
  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }
  Space space() const { return space_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  Space space_ = Space::kHost;
  Release release_ = nullptr;
  void* owner_ = nullptr;
};

}  // namespace moebius
