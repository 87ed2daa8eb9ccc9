// More tokens on each of several timelines, in one pass over the weights.
#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "engine/routing_log.h"
#include "engine/session.h"

namespace moebius {
namespace {

using Extensions = std::span<const Extension>;

Status check(Extensions all) {
  MOEBIUS_CHECK(!all.empty());
  const SessionParts& parts = all[0].session->parts;
  int64_t rows = 0;
  for (const Extension& e : all) {
    const auto same = [&](const Extension& other) { return other.session == e.session; };
    MOEBIUS_CHECK(!e.ids.empty() && std::ranges::count_if(all, same) == 1 && &e.session->parts == &parts);
    MOEBIUS_TRY(check_ids(parts, e.ids));
    if (std::ssize(e.session->tokens) + std::ssize(e.ids) > parts.context)
      return invalid(fmt::format("the context of {} tokens is full; raise --ctx-size", parts.context));
    rows += std::ssize(e.ids);
  }
  if (rows <= parts.workspace.max_tokens()) return Status();
  return invalid(
      fmt::format("{} tokens in one pass are more than the {} that room was made for; raise "
                  "--parallel",
                  rows, parts.workspace.max_tokens()));
}

Status reserve(Extensions all) {
  KvCache& cache = all[0].session->parts.cache;
  for (const Extension& e : all) {
    const int64_t done = std::ssize(e.session->tokens);
    MOEBIUS_TRY(cache.reserve(e.session->pages, done, done + std::ssize(e.ids)));
  }
  return Status();
}

// Some of the extensions, as one batch.
struct Group {
  std::vector<Extension> members;
  std::vector<int32_t> ids;
  std::vector<Segment> segments;
  std::vector<AdapterRun> runs;

  void add(const Extension& e) {
    const Session::Impl& s = *e.session;
    segments.push_back({&s.pages, std::ssize(ids), std::ssize(e.ids), std::ssize(s.tokens)});
    const BatchAdapter* adapter = s.adapter.get();
    if (runs.empty() || runs.back().adapter != adapter) runs.push_back({std::ssize(ids), 0, adapter});
    runs.back().count += std::ssize(e.ids);
    ids.insert(ids.end(), e.ids.begin(), e.ids.end());
    members.push_back(e);
  }
  // The first rows of `memory`.
  Workspace view(const WorkspaceMemory& memory) const {
    Workspace ws = memory.view(std::ssize(ids));
    if (runs.size() > 1 || runs[0].adapter) ws.runs = runs;
    return ws;
  }
  Batch batch() const { return {ids, segments}; }
  int64_t last_row(size_t i) const { return segments[i].begin + segments[i].count - 1; }
  Status keep_logits(const Model& model, const Workspace& ws) const;
  Status add_hidden(const Model& model, const Workspace& ws) const;
  void keep_routing(RoutingLog& log) const;
};

// Rows that lie side by side are taken together.
Status Group::keep_logits(const Model& model, const Workspace& ws) const {
  for (size_t i = 0; i < members.size();) {
    size_t end = i;
    while (end < members.size() && members[end].logits && end - i < static_cast<size_t>(kLogitRows) &&
           last_row(end) - last_row(i) == static_cast<int64_t>(end - i))
      ++end;
    if (end == i) {
      members[i++].session->logits.clear();
      continue;
    }
    const int64_t count = static_cast<int64_t>(end - i);
    MOEBIUS_ASSIGN(const Tensor rows, head_forward(model, ws, last_row(i), count));
    for (int64_t r = 0; r < count; ++r) {
      const float* row = rows.f32() + r * model.config.vocab;
      members[i++].session->logits.assign(row, row + model.config.vocab);
    }
  }
  return Status();
}

Status Group::add_hidden(const Model& model, const Workspace& ws) const {
  for (size_t i = 0; i < members.size(); ++i) {
    if (!members[i].sum) continue;
    MOEBIUS_ASSIGN(const Tensor rows, hidden_forward(model, ws, segments[i].begin, segments[i].count));
    std::vector<double>& sum = *members[i].sum;
    for (int64_t r = 0; r < rows.shape[0]; ++r)
      for (size_t c = 0; c < sum.size(); ++c)
        sum[c] += static_cast<double>(rows.f32()[r * rows.stride[0] + static_cast<int64_t>(c)]);
  }
  return Status();
}

void Group::keep_routing(RoutingLog& log) const {
  for (size_t i = 0; i < members.size(); ++i) {
    std::vector<int32_t> sequence = members[i].session->tokens;
    sequence.insert(sequence.end(), members[i].ids.begin(), members[i].ids.end());
    log.keep(sequence, segments[i].begin, segments[i].count);
  }
}

// Half of the single tokens is the second group, where the plan says that two pay, be they of answers or the
// last of a prompt. Those that use the same adapter lie side by side.
void divide(const SessionParts& parts, std::vector<Extension> all, Group& one, Group& two) {
  std::ranges::stable_sort(all, {}, [](const Extension& e) { return e.session->adapter.get(); });
  const int64_t single = std::ranges::count_if(all, [](const Extension& e) { return e.ids.size() == 1; });
  const bool in_two = parts.two_groups_from > 0 && single >= parts.two_groups_from &&
                      single / 2 <= parts.second_workspace.max_tokens();
  int64_t first = in_two ? single - single / 2 : single;
  for (const Extension& e : all) (e.ids.size() == 1 && first-- <= 0 ? two : one).add(e);
}

Status step(Extensions all) {
  const SessionParts& parts = all[0].session->parts;
  Group one, two;
  divide(parts, {all.begin(), all.end()}, one, two);
  const Workspace ws = one.view(parts.workspace);
  RoutingLog* const routing = parts.model.routing;
  if (routing) routing->begin(std::ssize(one.ids));
  if (two.members.empty()) {
    forward(parts.model, one.batch(), parts.cache, ws);
    if (routing) one.keep_routing(*routing);
    MOEBIUS_TRY(one.add_hidden(parts.model, ws));
    MOEBIUS_TRY(one.keep_logits(parts.model, ws));
    return count_chosen(parts.model, ws);
  }
  const Workspace second = two.view(parts.second_workspace);
  forward_in_two(parts.model, one.batch(), ws, two.batch(), second, parts.cache);
  MOEBIUS_TRY(one.add_hidden(parts.model, ws));
  MOEBIUS_TRY(one.keep_logits(parts.model, ws));
  MOEBIUS_TRY(two.add_hidden(parts.model, second));
  return two.keep_logits(parts.model, second);
}

}  // namespace

Status extend(Extensions all) {
  MOEBIUS_TRY(check(all));
  const Model& model = all[0].session->parts.model;
  MOEBIUS_TRY(all[0].session->settle());  // the device may still read the host's side of the workspace
  MOEBIUS_TRY(reserve(all));
  next_step(model);
  std::set<BatchAdapter*> adapters;
  for (const Extension& e : all) adapters.insert(e.session->adapter.get());
  for (BatchAdapter* adapter : adapters)
    if (adapter) adapter->follow(model);
  const Status status = step(all);
  if (!status.ok()) clear_error(model);
  for (const Extension& e : all) {
    e.session->tokens.insert(e.session->tokens.end(), e.ids.begin(), e.ids.end());
    if (!status.ok()) e.session->truncate(0);  // its cache may be half written
  }
  return status;
}

}  // namespace moebius
