// A backend that hands everything on to another one: what watches operations derives from it and overrides
// those it wants to see.
#pragma once

#include "kernels/backend.h"

namespace moebius {

class ForwardingBackend : public Backend {
 public:
  explicit ForwardingBackend(std::unique_ptr<Backend> to) : to_(std::move(to)) {}

  std::string name() const override { return to_->name(); }
  Space space() const override { return to_->space(); }
  Result<Buffer> alloc(size_t bytes) override { return to_->alloc(bytes); }
  Result<Buffer> alloc_pinned(size_t bytes) override { return to_->alloc_pinned(bytes); }
  void zero(const Tensor& at) override { to_->zero(at); }
  void copy(const Tensor& from, const Tensor& at) override { to_->copy(from, at); }
  void copy_bytes(Stream stream, const void* from, void* at, size_t bytes) override {
    to_->copy_bytes(stream, from, at, bytes);
  }
  Event record(Stream stream) override { return to_->record(stream); }
  bool done(Event event) override { return to_->done(event); }
  void wait(Stream stream, Event event) override { to_->wait(stream, event); }
  void raise(Flag& flag, uint64_t value) override { to_->raise(flag, value); }
  void await(Flag& flag, uint64_t value) override { to_->await(flag, value); }
  void wait_on_host(const Flag& flag, uint64_t value) override { to_->wait_on_host(flag, value); }
  Status sync() override { return to_->sync(); }
  Status sync_compute() override { return to_->sync_compute(); }
  void clear_error() override { to_->clear_error(); }
  void begin_timing(Stream stream) override { to_->begin_timing(stream); }
  void end_timing(Stream stream, std::atomic<int64_t>& ns) override { to_->end_timing(stream, ns); }
  void trace(Tracer* tracer) override { to_->trace(tracer); }
#define X(name, Args) \
  void name(const Args& args) override { to_->name(args); }
  MOEBIUS_OPS(X)
  MOEBIUS_GRAD_OPS(X)
#undef X

 private:
  std::unique_ptr<Backend> to_;
};

}  // namespace moebius
