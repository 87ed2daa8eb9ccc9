#include "kernels/tensor.h"

#include <sys/mman.h>

#include <cstdlib>

#include <fmt/format.h>

namespace moebius {

size_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
    case DType::kU64:
      return 8;
    case DType::kF32:
    case DType::kI32:
    case DType::kU32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
    case DType::kI16:
    case DType::kU16:
      return 2;
    case DType::kF8E4M3:
    case DType::kF8E5M2:
    case DType::kI8:
    case DType::kU8:
    case DType::kBool:
      return 1;
  }
  MOEBIUS_CHECK(false, "unknown dtype");
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "F64";
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
    case DType::kF8E4M3:
      return "F8_E4M3";
    case DType::kF8E5M2:
      return "F8_E5M2";
    case DType::kI64:
      return "I64";
    case DType::kI32:
      return "I32";
    case DType::kI16:
      return "I16";
    case DType::kI8:
      return "I8";
    case DType::kU64:
      return "U64";
    case DType::kU32:
      return "U32";
    case DType::kU16:
      return "U16";
    case DType::kU8:
      return "U8";
    case DType::kBool:
      return "BOOL";
  }
  MOEBIUS_CHECK(false, "unknown dtype");
}

bool checked_mul(int64_t a, int64_t b, int64_t* product) {
  return a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, product);
}

Tensor::Tensor(void* at, DType type, std::initializer_list<int64_t> dims, Space where)
    : data(at), dtype(type), space(where), ndim(static_cast<int>(dims.size())) {
  MOEBIUS_CHECK(dims.size() <= 4, "a tensor has at most four dimensions");
  int i = 0;
  for (int64_t dim : dims) shape[i++] = dim;
  int64_t step = 1;
  for (int d = ndim - 1; d >= 0; --d) {
    stride[d] = step;
    step *= shape[d];
  }
}

bool Tensor::contiguous() const {
  int64_t step = 1;
  for (int d = ndim - 1; d >= 0; --d) {
    if (shape[d] != 1 && stride[d] != step) return false;
    step *= shape[d];
  }
  return true;
}

Tensor Tensor::slice(int dim, int64_t begin, int64_t count) const {
  MOEBIUS_CHECK(dim < ndim && begin >= 0 && count >= 0 && begin + count <= shape[dim], describe());
  Tensor view = *this;
  view.data = static_cast<char*>(data) + begin * stride[dim] * static_cast<int64_t>(dtype_bytes(dtype));
  view.shape[dim] = count;
  return view;
}

Tensor Tensor::split(int64_t parts) const {
  MOEBIUS_CHECK(ndim == 2 && parts > 0 && shape[1] % parts == 0 && stride[1] == 1, describe());
  Tensor view = *this;
  view.ndim = 3;
  view.shape[1] = parts, view.shape[2] = shape[1] / parts;
  view.stride[1] = view.shape[2], view.stride[2] = 1;
  return view;
}

Tensor Tensor::reshape(std::initializer_list<int64_t> dims) const {
  const Tensor view(data, dtype, dims, space);
  MOEBIUS_CHECK(contiguous() && view.numel() == numel(), describe());
  return view;
}

std::string Tensor::describe() const {
  std::string text = fmt::format("{}[", dtype_name(dtype));
  for (int d = 0; d < ndim; ++d) text += fmt::format("{}{}", d ? ", " : "", shape[d]);
  return text + "]";
}

Result<Buffer> Buffer::host(size_t bytes) {
  constexpr size_t kAlign = 64;
  const size_t rounded = (bytes + kAlign - 1) / kAlign * kAlign;
  if (rounded < bytes) return no_memory(fmt::format("an allocation of {} bytes overflows", bytes));
  Status refused = no_memory(fmt::format("no memory for {} bytes; use a smaller model or context", bytes));
  constexpr size_t kMapFrom = size_t{1}
                              << 20;  // pages from the system are zero and cost nothing until touched
  if (rounded >= kMapFrom) {
    void* data =
        mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) return refused;
    return Buffer(
        data, rounded, Space::kHost, [](void* at, size_t size, void*) { munmap(at, size); }, nullptr);
  }
  void* data = std::aligned_alloc(kAlign, rounded ? rounded : kAlign);
  if (!data) return refused;
  std::memset(data, 0, rounded);
  return Buffer(
      data, bytes, Space::kHost, [](void* at, size_t, void*) { std::free(at); }, nullptr);
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    reset();
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    space_ = other.space_;
    release_ = std::exchange(other.release_, nullptr);
    owner_ = std::exchange(other.owner_, nullptr);
  }
  return *this;
}

void Buffer::reset() {
  if (data_ && release_) release_(data_, bytes_, owner_);
  data_ = nullptr;
  bytes_ = 0;
}

}  // namespace moebius
