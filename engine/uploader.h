// Uploader: places weights one behind the other in a block of device memory, and copies them there.
#pragma once

#include <deque>

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
  // With its adapter, and the gradients of that if they are wanted. loras: holds what w points at then.
  void put(Matrix& w, std::deque<Lora>& loras, bool gradients = true) {
    put(w);
    if (!w.lora) return;
    Lora& lora = loras.emplace_back(*w.lora);
    if (!gradients) lora.da = lora.db = Tensor();
    for (Tensor* t : {&lora.a, &lora.b, &lora.da, &lora.db}) put(*t);
    w.lora = &lora;
  }
  void put(ExpertWeights& e, std::deque<Lora>& loras, bool gradients = true) {
    for (Matrix* w : {&e.gate, &e.up, &e.down}) put(*w, loras, gradients);
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
