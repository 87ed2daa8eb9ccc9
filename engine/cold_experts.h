// ColdExperts: the host's half of a hybrid step, beside the device's, by a mailbox in pinned memory.
//
//   device stream   copies h and ids into the mailbox, raises `asked`, goes on with what it has itself
//   worker thread   waits for `asked`, computes the slots of the experts that are on the host from their
//                   weights in place, each slot's vector into the mailbox, raises `answered`
//   device stream   waits for `answered`, takes these slots over (take_slots); combine adds all in slot order
//
// The calling thread only queues. One mailbox is enough: the stream copies the next request after it has
// taken the last answer. Both sides split the same ids by the same table (engine/expert_store.h), so every
// slot is computed exactly once, and by the same arithmetic wherever it is.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "engine/expert_store.h"
#include "engine/workspace.h"

namespace moebius {

class ColdExperts {
 public:
  // store and device must outlive this. overlap: false computes on the calling thread after the device is
  // idle: the slow twin, with the same bits.
  static Result<std::unique_ptr<ColdExperts>> create(const ModelConfig& config, int64_t max_tokens,
                                                     ExpertStore& store, const HostOptions& host,
                                                     Backend& device, bool overlap);
  ~ColdExperts();  // the device must be idle

  // At the start of a step, while the device is idle: experts may move.
  void next_step() { store_.next_step(); }
  // After a device's error was cleared: what was on its way may not have arrived.
  void start_again() { store_.load_again(); }
  // Tells the tracer, which outlives this, what the host computes. Between steps.
  void trace(Tracer* tracer) { tracer_ = tracer; }
  // Hands ws.h and ws.expert_ids over, when the layer has experts on the host.
  void ask(int64_t layer, const Workspace& ws) {
    if (store_.any_on_host(layer)) ask(layer, ws.h, ws.expert_ids, store_.on_host(layer));
  }
  // Puts their slots into ws.slots.
  void answer(int64_t layer, const Workspace& ws) {
    if (store_.any_on_host(layer)) answer(store_.on_device(layer), ws.expert_ids, ws.slots);
  }
  // The same for h [n, hidden] and ids [n, top_k], n <= max_tokens, with other lists of who has which expert;
  // both must stay as they are until a sync.
  void ask(int64_t layer, const Tensor& h, const Tensor& ids, const std::vector<ExpertWeights>& on_host);
  void answer(const std::vector<ExpertWeights>& on_device, const Tensor& ids, const Tensor& slots);

 private:
  struct Mailbox {
    Tensor x;      // [n, hidden]
    Tensor ids;    // I32 [n, top_k]
    Tensor slots;  // [n, top_k, hidden]
  };
  struct Job {
    int64_t layer;
    uint64_t ticket;
    Mailbox mail;
    const std::vector<ExpertWeights>& experts;
  };
  ColdExperts(const ModelConfig& config, ExpertStore& store, const HostOptions& host, Backend& device)
      : config_(config), store_(store), device_(device), host_(make_host_backend(host)) {}
  Mailbox mailbox(int64_t n) const;
  void compute(const Job& job);
  void work();

  const ModelConfig& config_;
  ExpertStore& store_;
  Backend& device_;
  std::unique_ptr<Backend> host_;
  Buffer memory_;
  uint64_t ticket_ = 0;
  Tracer* tracer_ = nullptr;
  Flag asked_{0}, answered_{0};

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  bool stop_ = false;
  std::thread worker_;  // not joinable without overlap
};

}  // namespace moebius
