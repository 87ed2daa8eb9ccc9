// Sampler: from logits to the next token. The order is: penalties, bias, then greedy at temperature 0, else
// temperature, top-k, min-p, top-p, XTC and one draw. All state, the random generator's too, is explicit.
//
// DRY ("don't repeat yourself", Weidmann 2024, github.com/oobabooga/text-generation-webui/pull/5677): a token
// that would go on with a repetition of the last n >= dry_allowed_length tokens, of prompt and answer, loses
// dry_multiplier * dry_base^(n - dry_allowed_length). Repetitions end at breakers, which are never punished;
// n counts up to 50. XTC ("exclude top choices", Weidmann 2024, .../pull/6335): with xtc_probability, of the
// tokens with at least xtc_threshold of what top-p left only the least likely stays.
//
// Logits are taken as they come: NaN counts as impossible (-inf), +inf as the largest float. Ties go to the
// lowest id everywhere. When every token is impossible, the answer is the lowest id that is allowed.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/status.h"

namespace moebius {

struct SamplingParams {
  float temperature = 1;  // 0: greedy, the lowest id on ties; at most 100
  int64_t top_k = 0;      // 0: all
  float top_p = 1;        // (0, 1]: the fewest tokens that together have this share of what min-p left
  float min_p = 0;        // [0, 1]: drops tokens below min_p times the largest probability
  float repetition_penalty =
      1;  // (0, 10]: logits of ids seen in prompt or answer: divided if positive, else multiplied
  float presence_penalty = 0;   // [-2, 2]: subtracted once for ids seen in the answer
  float frequency_penalty = 0;  // [-2, 2]: subtracted per occurrence in the answer
  uint64_t seed = 0;
  float dry_multiplier = 0;                           // [0, 100]; 0: off
  float dry_base = 1.75f;                             // [1, 100]
  int64_t dry_allowed_length = 2;                     // at least 1
  int64_t dry_last = -1;                              // tokens looked back at; -1: all
  std::vector<int32_t> dry_breakers;                  // ids
  float xtc_probability = 0;                          // [0, 1]; without effect at temperature 0
  float xtc_threshold = 0.1f;                         // [0, 1]
  std::vector<std::pair<int32_t, float>> logit_bias;  // id, added to its logit; [-100, 100]

  Status validate(int64_t vocab) const;  // kInvalid names the field and its range
};

struct TokenProbability {
  int32_t id = -1;
  float logprob = 0;  // natural logarithm, of the softmax of the raw logits; kImpossible for probability 0
};

constexpr float kImpossible = -9999;  // finite, so that it can stand in JSON

class Sampler {
 public:
  // params must be valid for vocab, which is at least 1.
  Sampler(SamplingParams params, int64_t vocab);

  void observe_prompt(std::span<const int32_t> ids);  // for repetitions; ids out of range are skipped
  // Chooses and counts the next token. logits: [vocab], left as they are. allowed: one bit per id, at least
  // one set, of the tokens that may come (see TokenMask); empty: every token.
  int32_t sample(std::span<const float> logits, std::span<const uint64_t> allowed = {});

  // What the next sample() would draw from: (probability, id), most likely first; one entry at temperature 0.
  std::vector<std::pair<float, int32_t>> distribution(std::span<const float> logits);

 private:
  std::span<const float> adjust(std::span<const float> logits, std::span<const uint64_t> allowed);
  double keep(std::span<const float> logits);
  double keep_of_all(std::span<const float> logits);
  void keep_top_k(std::span<const float> logits);
  double keep_top_p(double total);
  void punish_repetitions();
  double exclude_top(double total, uint64_t* state);
  int32_t draw(double total);

  SamplingParams params_;
  int64_t vocab_;
  uint64_t state_;  // SplitMix64
  std::unordered_map<int32_t, int32_t> answer_counts_;
  std::vector<bool> seen_;         // [vocab], with a repetition penalty
  std::vector<int32_t> seen_ids_;  // the true entries of seen_
  std::vector<int32_t> history_;   // prompt and answer, for DRY
  std::vector<bool> breaks_;       // [vocab], with DRY
  std::vector<int32_t> repeated_;  // of each place in the history, counted from its end
  std::vector<float> adjusted_;
  std::vector<std::pair<float, int32_t>> candidates_;  // (logit, then weight, id)
  // Of keep_of_all(): every token's weight, sums of weights that are alike, and the tokens that top-p cuts
  // among.
  std::vector<float> weights_;
  std::vector<double> sums_;
  std::vector<std::pair<float, int32_t>> edge_;
};

// The chosen token's log-probability and the `top` most likely ones, of the raw logits; id must be in range,
// top is cut to the vocabulary.
TokenProbability log_probability(std::span<const float> logits, int32_t id);
std::vector<TokenProbability> top_log_probabilities(std::span<const float> logits, int top);

}  // namespace moebius
