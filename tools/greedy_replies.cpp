#include "tools/greedy_replies.h"

#include <algorithm>
#include <memory>

namespace moebius {
namespace {

struct Place {
  std::unique_ptr<Session> session;
  size_t prompt = 0;
  bool busy = false;
  int64_t tokens = 0;
  std::string reply;
  StreamDecoder decoder;
};

class Replies {
 public:
  Replies(Engine& engine, std::span<const std::vector<int32_t>> prompts, const GreedyOptions& options)
      : engine_(engine), prompts_(prompts), options_(options) {}

  Status run(int64_t* skipped) {
    for (int64_t i = 0; i < engine_.options().sessions; ++i) {
      MOEBIUS_ASSIGN(std::unique_ptr<Session> session, engine_.new_session());
      places_.push_back({std::move(session), 0, false, 0, "", StreamDecoder(engine_.tokenizer())});
    }
    while (true) {
      for (Place& place : places_)
        while (!place.busy && next_ < prompts_.size()) MOEBIUS_TRY(begin(place, skipped));
      std::vector<Session*> sessions;
      std::vector<int32_t> ids;
      for (Place& place : places_) {
        if (!place.busy) continue;
        const int32_t id = greedy_.sample(place.session->logits());
        if (!take(place, id)) continue;
        sessions.push_back(place.session.get());
        ids.push_back(id);
      }
      if (!sessions.empty()) MOEBIUS_TRY(engine_.append(sessions, ids));
      if (sessions.empty() && next_ == prompts_.size()) return Status();
    }
  }

 private:
  static SamplingParams greedy() {
    SamplingParams params;
    params.temperature = 0;
    return params;
  }

  Status begin(Place& place, int64_t* skipped) {
    const std::vector<int32_t>& prompt = prompts_[next_];
    if (std::ssize(prompt) >= place.session->context()) {
      ++*skipped, ++next_;
      return Status();
    }
    MOEBIUS_TRY(place.session->sync(prompt));
    place.prompt = next_++, place.busy = true, place.tokens = 0;
    place.reply.clear();
    return Status();
  }

  // False when the reply ends with, or before, this id.
  bool take(Place& place, int32_t id) {
    const std::vector<int32_t>& stops = engine_.generation().eos_ids;
    const bool stop = std::find(stops.begin(), stops.end(), id) != stops.end();
    if (!stop) place.reply += place.decoder.push(id);
    const bool full = std::ssize(place.session->tokens()) >= place.session->context();
    if (!stop && ++place.tokens < options_.max_tokens && !full) return true;
    place.reply += place.decoder.finish();
    place.busy = false;
    options_.on_reply(place.prompt, place.reply);
    return false;
  }

  Engine& engine_;
  std::span<const std::vector<int32_t>> prompts_;
  const GreedyOptions& options_;
  Sampler greedy_{greedy(), engine_.config().vocab};
  std::vector<Place> places_;
  size_t next_ = 0;
};

}  // namespace

Status greedy_replies(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                      const GreedyOptions& options, int64_t* skipped) {
  return Replies(engine, prompts, options).run(skipped);
}

}  // namespace moebius
