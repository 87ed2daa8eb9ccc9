// The inside of a Session: one timeline over a cache. See engine.h for the contract.
#pragma once

#include "engine/batch_adapter.h"
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

// kInvalid: no ids, more than a context holds, or one that is out of range.
Status check_ids(const SessionParts& parts, std::span<const int32_t> ids);

struct Session::Impl {
  Impl(SessionParts& shared, std::shared_ptr<BatchAdapter> with) : parts(shared), adapter(std::move(with)) {}
  ~Impl();
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  // Appends at most `chunk` tokens of what ids has beyond the timeline, and keeps the logits after the last
  // of all; the workspace then holds the last layer of what was appended.
  Result<Workspace> advance(std::span<const int32_t> ids);
  // The same by a pass of the streamed prefill: it is begun, and goes on by a slice at a time until
  // slice_streamed() is true. Until then the timeline is as before. Other timelines may be extended between
  // two slices.
  Status begin_streamed(std::span<const int32_t> ids);
  Result<bool> slice_streamed(std::span<const int32_t> ids);
  Status advance_streamed(std::span<const int32_t> ids, const Progress& progress);
  // A pass of the streamed prefill knows no adapters.
  bool streaming_pays(int64_t rest) const { return parts.prefill && !adapter && parts.prefill->pays(rest); }
  std::string fingerprint() const;  // of the model and the adapter, for save and restore
  void truncate(int64_t count);
  // After an error of a step: the timeline is empty, for its cache may be half written. Returns the error.
  Status give_up(Status status);
  Status settle();
  template <class Body>
  void for_each_page(int64_t layer, int64_t n, const Body& body) const;

  SessionParts& parts;
  const std::shared_ptr<BatchAdapter> adapter;  // placed; null: the model as it is
  AdapterRun all_rows;                          // of the last pass of this session alone
  PageTable pages;
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // after tokens.back(); empty when unknown
  int64_t reused = 0;
};

// What a pass adds to a timeline.
struct Extension {
  Session::Impl* session = nullptr;
  std::span<const int32_t> ids;        // at least one
  bool logits = true;                  // keep those after the last
  std::vector<double>* sum = nullptr;  // [hidden]: += the last hidden states of ids, after the final norm
};

// Adds to timelines of one engine, all of them different, in one pass over the weights. Where the plan says
// that it pays, in two groups, of which one is on the device while the host computes its experts for the
// other. After kInvalid or kNoMemory all are as before, else after an error all are empty.
Status extend(std::span<const Extension> extensions);

}  // namespace moebius
