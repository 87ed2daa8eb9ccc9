// The inside of a Session: one timeline over a cache. See engine.h for the contract.
#pragma once

#include "engine/engine.h"
#include "engine/prefill.h"

namespace moebius {

struct Session::Impl {
  Impl(const Model& m, KvCache kv, const WorkspaceMemory& memory, int64_t context_tokens,
       int64_t chunk_tokens, StreamedPrefill* streamed, std::string model_fingerprint)
      : model(m),
        prefill(streamed),
        cache(std::move(kv)),
        workspace(memory),
        context(context_tokens),
        chunk(chunk_tokens),
        fingerprint(std::move(model_fingerprint)) {}

  Status check_ids(std::span<const int32_t> ids) const;
  // The first `chunk` of what ids has beyond the timeline.
  std::span<const int32_t> next_part(std::span<const int32_t> ids) const;
  // Appends at most `chunk` tokens to the timeline; the workspace then holds their last layer.
  Result<Workspace> advance(std::span<const int32_t> part);
  // The same by a pass of the streamed prefill, of what ids has beyond the timeline: the workspace holds the
  // last of them.
  Result<Workspace> advance_streamed(std::span<const int32_t> ids, const Progress& progress);
  void truncate(int64_t count);
  // After an error of the device: the timeline is empty, for its cache may be half written. Returns the
  // error.
  Status give_up(Status status);
  Status keep_logits(const Result<Tensor>& row);
  Status settle();
  template <class Body>
  void for_each_page(int64_t layer, int64_t n, const Body& body) const;

  Model model;
  StreamedPrefill* prefill;  // shared by the engine's sessions; null where all experts are in one place
  KvCache cache;
  PageTable pages;
  const WorkspaceMemory& workspace;  // shared by the engine's sessions
  int64_t context;
  int64_t chunk;
  std::string fingerprint;  // of the model, for save and restore
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // after tokens.back(); empty when unknown
  int64_t reused = 0;
};

}  // namespace moebius
