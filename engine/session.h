// The inside of a Session: one timeline over a cache. See engine.h for the contract.
#pragma once

#include "engine/engine.h"
#include "engine/prefill.h"

namespace moebius {

// What an engine's sessions share.
struct SessionParts {
  Model model;
  KvCache& cache;
  const WorkspaceMemory& workspace;
  const WorkspaceMemory& second_workspace;  // of the second of two groups
  StreamedPrefill* prefill = nullptr;       // null where all experts are in one place
  int64_t context = 0;                      // tokens of a session
  int64_t chunk = 0;                        // tokens of a prompt per pass
  int64_t two_groups_from =
      0;                    // tokens from which a pass over several sessions is made in two groups; 0: never
  std::string fingerprint;  // of the model, for save and restore
};

struct Session::Impl {
  explicit Impl(SessionParts& shared) : parts(shared) {}
  ~Impl();
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  Status check_ids(std::span<const int32_t> ids) const;
  // The first `chunk` of what ids has beyond the timeline.
  std::span<const int32_t> next_part(std::span<const int32_t> ids) const;
  // Appends at most `chunk` tokens to the timeline; the workspace then holds their last layer.
  Result<Workspace> advance(std::span<const int32_t> part);
  // The same by a pass of the streamed prefill, of what ids has beyond the timeline: the workspace holds the
  // last of them.
  Result<Workspace> advance_streamed(std::span<const int32_t> ids, const Progress& progress);
  void truncate(int64_t count);
  // After an error of a step: the timeline is empty, for its cache may be half written. Returns the error.
  Status give_up(Status status);
  Status keep_logits(const Result<Tensor>& row);
  Status settle();
  template <class Body>
  void for_each_page(int64_t layer, int64_t n, const Body& body) const;

  SessionParts& parts;
  PageTable pages;
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // after tokens.back(); empty when unknown
  int64_t reused = 0;
};

// Engine::append.
Status append_to_all(std::span<Session::Impl* const> sessions, std::span<const int32_t> ids);

}  // namespace moebius
