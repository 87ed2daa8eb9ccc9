// Engine::generate: the loop from prompt to answer, and the text that may be shown at each step.
#include <algorithm>
#include <chrono>
#include <optional>

#include <fmt/format.h>

#include "engine/engine.h"

namespace moebius {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Passes text through, but holds back what may be the beginning of a stop string.
class StopFilter {
 public:
  explicit StopFilter(const std::vector<std::string>& stops) : stops_(stops) {}

  // The text that may be shown now. After a match, matched() names the stop string and nothing more is given
  // out.
  std::string push(const std::string& text) {
    held_ += text;
    size_t at = std::string::npos;
    for (const std::string& stop : stops_) {
      const size_t found = stop.empty() ? std::string::npos : held_.find(stop);
      if (found < at) at = found, matched_ = stop;
    }
    if (at != std::string::npos) {
      std::string shown = held_.substr(0, at);
      held_.clear();
      return shown;
    }
    const size_t keep = possible_start();
    std::string shown = held_.substr(0, held_.size() - keep);
    held_.erase(0, shown.size());
    return shown;
  }

  std::string finish() { return std::exchange(held_, ""); }
  const std::optional<std::string>& matched() const { return matched_; }

 private:
  // Length of the longest end of held_ that begins a stop string.
  size_t possible_start() const {
    size_t longest = 0;
    for (const std::string& stop : stops_) {
      for (size_t n = std::min(stop.size(), held_.size()); n > longest; --n) {
        if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) longest = n;
      }
    }
    return longest;
  }

  const std::vector<std::string>& stops_;
  std::string held_;
  std::optional<std::string> matched_;
};

Piece make_piece(std::span<const float> logits, int32_t id, int top_logprobs,
                 std::vector<TokenProbability>& storage) {
  Piece piece;
  piece.id = id;
  if (top_logprobs >= 0) piece.chosen = log_probability(logits, id);
  if (top_logprobs > 0) {
    storage = top_log_probabilities(logits, top_logprobs);
    piece.alternatives = storage;
  }
  return piece;
}

}  // namespace

Result<GenerateStats> Engine::generate(Session& session, std::span<const int32_t> prompt,
                                       const GenerateOptions& options, const OnPiece& on_piece,
                                       const Session::Progress& progress) {
  MOEBIUS_TRY(options.sampling.validate(config().vocab));
  GenerateStats stats;
  stats.prompt_tokens = static_cast<int64_t>(prompt.size());
  const auto started = std::chrono::steady_clock::now();
  if (const Status status = session.sync(prompt, progress); !status.ok()) {
    if (status.code() != Code::kCancelled) return status;
    stats.finish = FinishReason::kCancelled;
    return stats;
  }
  stats.prefill_s = seconds_since(started);
  stats.reused_tokens = session.reused();

  const auto decode_started = std::chrono::steady_clock::now();
  Sampler sampler(options.sampling, config().vocab);
  sampler.observe_prompt(prompt);
  StreamDecoder decoder(tokenizer());
  StopFilter filter(options.stop);
  const std::vector<int32_t>& eos = generation().eos_ids;
  std::vector<TokenProbability> alternatives;
  std::string text;
  stats.finish = FinishReason::kLength;
  while (options.max_tokens < 0 || stats.answer_tokens < options.max_tokens) {
    const int32_t id = sampler.sample(session.logits());
    ++stats.answer_tokens;
    if (!options.ignore_eos && std::find(eos.begin(), eos.end(), id) != eos.end()) {
      stats.finish = FinishReason::kStop;
      break;
    }
    Piece piece = make_piece(session.logits(), id, options.top_logprobs, alternatives);
    text = filter.push(decoder.push(id));
    piece.text = text;
    if (on_piece && !on_piece(piece)) {
      stats.finish = FinishReason::kCancelled;
      break;
    }
    if (filter.matched()) {
      stats.finish = FinishReason::kStop;
      stats.matched_stop = *filter.matched();
      break;
    }
    const bool last = stats.answer_tokens == options.max_tokens;
    if (last || static_cast<int64_t>(session.tokens().size()) >= session.context()) break;
    MOEBIUS_TRY(session.append(id));
  }
  if (!filter.matched() && stats.finish != FinishReason::kCancelled) {
    text = filter.push(decoder.finish());
    if (!filter.matched()) text += filter.finish();
    if (filter.matched()) stats.finish = FinishReason::kStop, stats.matched_stop = *filter.matched();
    Piece rest;
    rest.text = text;
    if (on_piece && !text.empty()) on_piece(rest);
  }
  stats.decode_s = seconds_since(decode_started);
  return stats;
}

}  // namespace moebius
