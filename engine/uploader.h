// Uploader: places weights one behind the other in a block of device memory, and copies them there.
#pragma once

#include "kernels/backend.h"

namespace moebius {

class Uploader {
 public:
  // Without a backend it only measures, and what is put stays as it is. Copies are queued on kLoad; what they
  // read must stay until a sync.
  Uploader(char* base, Backend* backend) : base_(base), backend_(backend) {}

  void put(Tensor& t) {
    if (t.empty()) return;
    MOEBIUS_CHECK(t.contiguous());
    t.data = put(t.data, t.numel() * static_cast<int64_t>(dtype_bytes(t.dtype)));
    if (backend_) t.space = backend_->space();
  }
  void put(Matrix& w) {
    const int64_t data = w.rows * w.row_bytes();
    w.data = put(w.data, data);
    if (w.scales) w.scales = put(w.scales, w.bytes() - data);
    if (backend_) w.space = backend_->space();
  }
  int64_t used() const { return used_; }  // bytes

 private:
  static constexpr int64_t kAlign = 256;

  template <class T>
  T* put(T* from, int64_t bytes) {
    char* to = base_ + used_;
    used_ += (bytes + kAlign - 1) / kAlign * kAlign;
    if (!backend_) return from;
    backend_->copy_bytes(Stream::kLoad, from, to, static_cast<size_t>(bytes));
    return reinterpret_cast<T*>(to);
  }

  char* base_;
  Backend* backend_;
  int64_t used_ = 0;
};

}  // namespace moebius
