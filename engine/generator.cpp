#include "engine/generator.h"

#include <algorithm>

namespace moebius {
namespace {

void show(const AnswerText& text, Piece& piece) {
  piece.text = text.content;
  piece.reasoning = text.reasoning;
  piece.calls = text.calls;
}

}  // namespace

Generator::Generator(const Engine& engine, std::span<const int32_t> prompt, const GenerateOptions& options)
    : engine_(engine),
      options_(options),
      sampler_(options.sampling, engine.config().vocab),
      stream_(engine.tokenizer(), options.stop, options.form.get(), prompt),
      gate_(options.constraint, options.form ? &options.form->markup : nullptr, prompt) {
  sampler_.observe_prompt(prompt);
  stats_.prompt_tokens = std::ssize(prompt);
}

Piece Generator::piece_of(std::span<const float> logits, int32_t id) {
  Piece piece;
  piece.id = id;
  if (options_.top_logprobs >= 0) piece.chosen = log_probability(logits, id);
  if (options_.top_logprobs > 0) {
    alternatives_ = top_log_probabilities(logits, options_.top_logprobs);
    piece.alternatives = alternatives_;
  }
  return piece;
}

std::optional<int32_t> Generator::end(FinishReason reason, const Engine::OnPiece& on_piece) {
  stats_.finish = reason;
  if (reason == FinishReason::kCancelled) return {};
  if (!stream_.matched()) {
    const AnswerText text = stream_.finish();
    Piece rest;
    show(text, rest);
    const bool empty = text.content.empty() && text.reasoning.empty() && text.calls.empty();
    if (on_piece && !empty) on_piece(rest);
  }
  if (stream_.matched()) stats_.finish = FinishReason::kStop, stats_.matched_stop = *stream_.matched();
  return {};
}

Result<std::optional<int32_t>> Generator::advance(std::span<const float> logits,
                                                  const Engine::OnPiece& on_piece) {
  if (options_.max_tokens == 0) return end(FinishReason::kLength, on_piece);
  MOEBIUS_ASSIGN(const std::span<const uint64_t> allowed, gate_.allowed());
  const int32_t id = sampler_.sample(logits, allowed);
  gate_.take(id);
  ++stats_.answer_tokens;
  const std::vector<int32_t>& eos = engine_.generation().eos_ids;
  const bool may_end = !options_.ignore_eos || gate_.constrained();  // which allows no end before it is due
  if (may_end && std::find(eos.begin(), eos.end(), id) != eos.end())
    return end(FinishReason::kStop, on_piece);
  Piece piece = piece_of(logits, id);
  const AnswerText text = stream_.push(id);
  stats_.reasoning_tokens += stream_.thinking();
  show(text, piece);
  if (on_piece && !on_piece(piece)) return end(FinishReason::kCancelled, on_piece);
  if (stream_.matched()) return end(FinishReason::kStop, on_piece);
  // The last token of all is chosen by the logits of a full timeline.
  const bool full = stats_.prompt_tokens + stats_.answer_tokens > engine_.options().context;
  if (stats_.answer_tokens == options_.max_tokens || full) return end(FinishReason::kLength, on_piece);
  return std::optional(id);
}

}  // namespace moebius
