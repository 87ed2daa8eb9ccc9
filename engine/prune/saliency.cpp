#include "engine/prune/saliency.h"

#include <sys/stat.h>

#include "engine/prune/calibration.h"

namespace moebius {
namespace {

constexpr std::chrono::seconds kBetweenWrites{60};

}  // namespace

Result<std::unique_ptr<Saliency>> Saliency::open(std::string path, const ModelFiles& model, Backend& host,
                                                 int threads, int64_t every) {
  MOEBIUS_TRY(check_prunable(model));
  std::unique_ptr<Saliency> out(new Saliency(std::move(path), model, every));
  MOEBIUS_ASSIGN(out->scorer_, ExpertScorer::create(model.config(), host, threads));
  struct stat info {};
  if (stat(out->path_.c_str(), &info) == 0) {
    MOEBIUS_ASSIGN(out->scores_, read_scores(out->path_, model));
    out->scorer_->go_on(out->scores_);
  } else {
    out->scores_ = no_scores(model.config());
  }
  out->by_layer_.resize(static_cast<size_t>(model.config().layers));
  for (LayerScores& layer : out->scores_.layers) out->by_layer_[static_cast<size_t>(layer.layer)] = &layer;
  MOEBIUS_TRY(out->write());
  return out;
}

void Saliency::run(int64_t layer, const std::vector<ExpertWeights>& experts, const RoutedTokens& tokens) {
  scorer_->run(experts, tokens, *by_layer_[static_cast<size_t>(layer)]);
}

void Saliency::begin_pass(int64_t n) {
  if (std::chrono::steady_clock::now() - written_ > kBetweenWrites) static_cast<void>(write());
  scores_pass_ = passes_++ % every_ == 0;
  if (scores_pass_) scores_.tokens += n;
}

Status Saliency::write() {
  written_ = std::chrono::steady_clock::now();
  scorer_->finish(scores_);
  return write_scores(path_, model_, scores_);
}

}  // namespace moebius
