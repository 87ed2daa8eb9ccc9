// Saliency: PruneScores of the tokens that a model computes while it is used, for `moebius tenp` later.
//
// It stands in for expert_ffn on the host: the same routed outputs, and sums of what they say. No activation
// is kept. Tokens that come from the cache are not computed, and not scored again. Of passes, a prompt's
// piece or a token of each answer, one in so many is scored; the file counts the tokens of these alone.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "engine/prune/expert_scorer.h"

namespace moebius {

class Saliency {
 public:
  // Scores go to the file at path, which is written at once, so that what is wrong with it shows here. If it
  // holds scores of this model, they are gone on with. model and host must outlive this. kInvalid: as
  // check_prunable(), and a file that holds anything else. every: the first pass is scored, and so is each
  // that comes so many after one.
  static Result<std::unique_ptr<Saliency>> open(std::string path, const ModelFiles& model, Backend& host,
                                                int threads, int64_t every);

  // A layer's routed experts, as ExpertScorer::run().
  void run(int64_t layer, const std::vector<ExpertWeights>& experts, const RoutedTokens& tokens);
  // At the start of a pass of n tokens: counts them if it is one to score, and writes the file when that is a
  // minute ago. An error of writing is left for the last write.
  void begin_pass(int64_t n);
  bool scores_pass() const { return scores_pass_; }  // the one that began last
  Status write();                                    // atomically

 private:
  Saliency(std::string path, const ModelFiles& model, int64_t every)
      : path_(std::move(path)), model_(model), every_(every) {}

  const std::string path_;
  const ModelFiles& model_;
  const int64_t every_;
  int64_t passes_ = 0;
  bool scores_pass_ = false;
  PruneScores scores_;
  std::unique_ptr<ExpertScorer> scorer_;
  std::vector<LayerScores*> by_layer_;  // [layer of the model]; null without experts
  std::chrono::steady_clock::time_point written_;
};

}  // namespace moebius
