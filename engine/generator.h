// Generator: one answer, a token at a time: what may come next, what is chosen, what of it may be shown and
// when it ends. Knows nothing of how logits are computed: who calls it puts each token on a timeline and
// comes back with the logits after it.
#pragma once

#include <chrono>
#include <optional>
#include <span>
#include <vector>

#include "engine/engine.h"
#include "engine/token_gate.h"

namespace moebius {

// For the times of GenerateStats.
inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class Generator {
 public:
  // engine and options outlive it. options.sampling must be valid. prompt: what the answer continues.
  Generator(const Engine& engine, std::span<const int32_t> prompt, const GenerateOptions& options);

  // Chooses the next token by the logits after the last one, and tells on_piece of it, which may be empty.
  // Nothing: the answer has ended, as stats() say, and all of its text is shown. kInvalid: a constraint that
  // cannot be followed any further.
  Result<std::optional<int32_t>> advance(std::span<const float> logits, const Engine::OnPiece& on_piece);

  const GenerateStats& stats() const { return stats_; }  // of prompt_tokens and the answer's; times are 0

 private:
  std::optional<int32_t> end(FinishReason reason, const Engine::OnPiece& on_piece);
  Piece piece_of(std::span<const float> logits, int32_t id);

  const Engine& engine_;
  const GenerateOptions& options_;
  Sampler sampler_;
  AnswerStream stream_;
  TokenGate gate_;
  std::vector<TokenProbability> alternatives_;
  GenerateStats stats_;
};

}  // namespace moebius
