// Engine::generate: the loop from prompt to answer, and the text that may be shown at each step.
#include <algorithm>
#include <chrono>

#include "engine/engine.h"
#include "engine/token_gate.h"

namespace moebius {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

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

void show(const AnswerText& text, Piece& piece) {
  piece.text = text.content;
  piece.reasoning = text.reasoning;
  piece.calls = text.calls;
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
  AnswerStream stream(tokenizer(), options.stop, options.form.get(), prompt);
  TokenGate gate(options.constraint, options.form ? &options.form->markup : nullptr, prompt);
  const std::vector<int32_t>& eos = generation().eos_ids;
  std::vector<TokenProbability> alternatives;
  AnswerText text;
  stats.finish = FinishReason::kLength;
  while (options.max_tokens < 0 || stats.answer_tokens < options.max_tokens) {
    MOEBIUS_ASSIGN(const std::span<const uint64_t> allowed, gate.allowed());
    const int32_t id = sampler.sample(session.logits(), allowed);
    gate.take(id);
    ++stats.answer_tokens;
    const bool may_end = !options.ignore_eos || gate.constrained();  // which allows no end before it is due
    if (may_end && std::find(eos.begin(), eos.end(), id) != eos.end()) {
      stats.finish = FinishReason::kStop;
      break;
    }
    Piece piece = make_piece(session.logits(), id, options.top_logprobs, alternatives);
    text = stream.push(id);
    stats.reasoning_tokens += stream.thinking();
    show(text, piece);
    if (on_piece && !on_piece(piece)) {
      stats.finish = FinishReason::kCancelled;
      break;
    }
    if (stream.matched()) {
      stats.finish = FinishReason::kStop;
      stats.matched_stop = *stream.matched();
      break;
    }
    const bool last = stats.answer_tokens == options.max_tokens;
    if (last || static_cast<int64_t>(session.tokens().size()) >= session.context()) break;
    MOEBIUS_TRY(session.append(id));
  }
  if (!stream.matched() && stats.finish != FinishReason::kCancelled) {
    text = stream.finish();
    if (stream.matched()) stats.finish = FinishReason::kStop, stats.matched_stop = *stream.matched();
    Piece rest;
    show(text, rest);
    const bool empty = text.content.empty() && text.reasoning.empty() && text.calls.empty();
    if (on_piece && !empty) on_piece(rest);
  }
  stats.decode_s = seconds_since(decode_started);
  return stats;
}

}  // namespace moebius
