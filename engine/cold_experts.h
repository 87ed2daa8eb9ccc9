// ColdExperts: the host's half of a hybrid step, beside the device's, by a mailbox in pinned memory.
//
//   device stream   copies h and ids into the mailbox, asks, goes on with what it has itself
//   host            computes the slots of the experts that are there from their weights in place, each slot's
//                   vector into the mailbox, and answers (engine/host_worker.h)
//   device stream   takes these slots over (take_slots); combine adds all in slot order
//
// The calling thread only queues. A mailbox serves a batch: the stream copies the next request after it has
// taken the last answer. Two of them let the host compute for one batch while the device is at the other
// (forward_in_two). Of a layer whose experts are all on the device only the ids come to the host, to be
// counted when the step is over. Both sides split the same ids by the same table (engine/expert_store.h), so
// every slot is computed exactly once, and by the same arithmetic wherever it is.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "engine/disk_tier.h"
#include "engine/expert_store.h"
#include "engine/host_worker.h"
#include "engine/workspace.h"

namespace moebius {

inline constexpr int kMailboxes = 2;

// Rows [begin, begin + count) of a batch, and the experts that they use.
struct ExpertRows {
  int64_t begin = 0, count = 0;
  const std::vector<ExpertWeights>* experts = nullptr;
};

class ColdExperts {
 public:
  struct Options {
    std::array<int64_t, kMailboxes> tokens{};  // the largest batch of each mailbox
    int64_t pass_tokens = 0;                   // of the longest pass of a prompt, by the first mailbox
    bool overlap = true;                       // as HostWorker's
    uint64_t fail = 0;                         // the request that fails, from 1, for tests; 0: none
    DiskTier* disk = nullptr;                  // of experts that may be in no memory; null: all are
  };
  // All that is referred to must outlive this. host: nobody else calls it while a step is on its way.
  static Result<std::unique_ptr<ColdExperts>> create(const ModelConfig& config, const Options& options,
                                                     ExpertStore& store, Backend& host, Backend& device);

  // At the start of a step, while the device is idle: experts may move.
  void next_step() {
    count_resident();
    store_.next_step();
  }
  // Of the host's experts, the first since start_again(); while the device is idle.
  const Status& error() const { return worker_->error(); }
  // After an error, the device's having been cleared: what was on its way may not have arrived.
  void start_again() {
    resident_.clear();
    worker_->start_again();
    store_.load_again();
  }
  // Tells the tracer, which outlives this, what the host computes. Between steps.
  void trace(Tracer* tracer) { tracer_ = tracer; }
  const ExpertStore& experts() const { return store_; }
  std::atomic<int64_t>& device_ns(int64_t layer) { return store_.device_ns(layer); }
  int64_t pinned_bytes() const;  // of the mailboxes and the ids
  // Hands ws.h and ws.expert_ids over, when the layer has experts on the host.
  void ask(int64_t layer, const Workspace& ws, std::vector<ExpertRows> on_host) {
    if (!store_.any_on_host(layer)) return note_resident(layer, ws);
    ask(layer, ws.mailbox, ws.h, ws.expert_ids, std::move(on_host));
  }
  // Puts their slots into ws.slots.
  void answer(int64_t layer, const Workspace& ws) {
    if (store_.any_on_host(layer)) answer(ws.mailbox, store_.on_device(layer), ws.expert_ids, ws.slots);
  }
  // The same for h [n, hidden] and ids [n, top_k] with other lists of who has which expert; they must stay as
  // they are until a sync. All lists of on_host have the same experts elsewhere.
  void ask(int64_t layer, int mailbox, const Tensor& h, const Tensor& ids, std::vector<ExpertRows> on_host);
  void answer(int mailbox, const std::vector<ExpertWeights>& on_device, const Tensor& ids,
              const Tensor& slots);

 private:
  struct Mailbox {
    Tensor x;      // [n, hidden]
    Tensor ids;    // I32 [n, top_k]
    Tensor slots;  // [n, top_k, hidden]
  };
  struct Job {
    int64_t layer;
    Mailbox mail;
    std::vector<ExpertRows> rows;
  };
  ColdExperts(const ModelConfig& config, const Options& options, ExpertStore& store, Backend& host,
              Backend& device)
      : config_(config), options_(options), store_(store), host_(host), device_(device) {}
  int64_t most_tokens(size_t mailbox) const {
    return std::max(options_.tokens[mailbox], mailbox == 0 ? options_.pass_tokens : 0);
  }
  Mailbox lay_out(int mailbox, int64_t n) const;
  Status compute(const Job& job);
  struct ResidentLayer {  // of the step that is on its way, or the last
    int64_t layer;
    Tensor ids;  // I32 [n, top_k], pinned
  };
  void note_resident(int64_t layer, const Workspace& ws);
  void count_resident();

  const ModelConfig& config_;
  const Options options_;
  ExpertStore& store_;
  Backend& host_;
  Backend& device_;
  std::array<Buffer, kMailboxes> memory_;
  Buffer ids_memory_;  // [layers] I32, of all tokens of both mailboxes
  std::vector<ResidentLayer> resident_;
  uint64_t requests_ = 0;
  std::array<uint64_t, kMailboxes> ticket_{};  // of the last request in each
  Tracer* tracer_ = nullptr;
  std::unique_ptr<HostWorker> worker_;  // the first to end
};

}  // namespace moebius
