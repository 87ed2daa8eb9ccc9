// One token more on each of several timelines, in one pass over the weights.
#include <algorithm>

#include <fmt/format.h>

#include "engine/session.h"

namespace moebius {
namespace {

using Sessions = std::span<Session::Impl* const>;

Status check(Sessions sessions, std::span<const int32_t> ids) {
  MOEBIUS_CHECK(!sessions.empty() && sessions.size() == ids.size());
  const SessionParts& parts = sessions[0]->parts;
  if (std::ssize(sessions) > parts.workspace.max_tokens())
    return invalid(
        fmt::format("{} sequences at once are more than the {} that room was made for; raise "
                    "--parallel",
                    sessions.size(), parts.workspace.max_tokens()));
  for (size_t i = 0; i < sessions.size(); ++i) {
    MOEBIUS_CHECK(std::ranges::count(sessions, sessions[i]) == 1 && &sessions[i]->parts == &parts);
    MOEBIUS_TRY(sessions[i]->check_ids(ids.subspan(i, 1)));
    if (std::ssize(sessions[i]->tokens) >= parts.context)
      return invalid(fmt::format("the context of {} tokens is full; raise --ctx-size", parts.context));
  }
  return Status();
}

Status reserve(Sessions sessions) {
  for (Session::Impl* s : sessions) MOEBIUS_TRY(s->parts.cache.reserve(s->pages, std::ssize(s->tokens) + 1));
  return Status();
}

// Some of the sessions, a row each.
struct Group {
  Sessions sessions;
  std::span<const int32_t> ids;
  Workspace ws;
  std::vector<Segment> segments;

  Group(Sessions of, std::span<const int32_t> tokens, const WorkspaceMemory& memory)
      : sessions(of), ids(tokens), ws(memory.view(std::ssize(of))) {
    for (const Session::Impl* s : of)
      segments.push_back({&s->pages, std::ssize(segments), 1, std::ssize(s->tokens)});
  }
  Batch batch() const { return {ids, segments}; }
  Status keep_logits(const Model& model) const;
};

Status Group::keep_logits(const Model& model) const {
  const int64_t n = std::ssize(sessions);
  for (int64_t begin = 0; begin < n; begin += kLogitRows) {
    const int64_t count = std::min(kLogitRows, n - begin);
    MOEBIUS_ASSIGN(const Tensor rows, head_forward(model, ws, begin, count));
    for (int64_t i = 0; i < count; ++i) {
      const float* row = rows.f32() + i * model.config.vocab;
      sessions[static_cast<size_t>(begin + i)]->logits.assign(row, row + model.config.vocab);
    }
  }
  return Status();
}

Status step(Sessions sessions, std::span<const int32_t> ids) {
  const SessionParts& parts = sessions[0]->parts;
  const size_t n = sessions.size();
  const bool in_two = parts.two_groups_from > 0 && std::ssize(sessions) >= parts.two_groups_from &&
                      static_cast<int64_t>(n / 2) <= parts.second_workspace.max_tokens();
  const size_t first = in_two ? n - n / 2 : n;
  const Group one(sessions.first(first), ids.first(first), parts.workspace);
  if (!in_two) {
    forward(parts.model, one.batch(), parts.cache, one.ws);
    return one.keep_logits(parts.model);
  }
  const Group two(sessions.subspan(first), ids.subspan(first), parts.second_workspace);
  forward_in_two(parts.model, one.batch(), one.ws, two.batch(), two.ws, parts.cache);
  MOEBIUS_TRY(one.keep_logits(parts.model));
  return two.keep_logits(parts.model);
}

}  // namespace

Status append_to_all(Sessions sessions, std::span<const int32_t> ids) {
  MOEBIUS_TRY(check(sessions, ids));
  MOEBIUS_TRY(sessions[0]->settle());
  MOEBIUS_TRY(reserve(sessions));
  next_step(sessions[0]->parts.model);
  Status status = step(sessions, ids);
  for (size_t i = 0; i < sessions.size(); ++i) {
    Session::Impl& s = *sessions[i];
    s.reused = std::ssize(s.tokens);
    s.tokens.push_back(ids[i]);
    if (!status.ok()) status = s.give_up(std::move(status));
  }
  return status;
}

}  // namespace moebius
