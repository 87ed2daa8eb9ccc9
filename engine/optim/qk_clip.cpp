#include "engine/optim/qk_clip.h"

#include <cmath>

#include <fmt/format.h>

namespace moebius::optim {
namespace {

Status check_shapes(const ModelConfig& c, const QkWeights& w) {
  if (w.q.rows != c.heads * c.qk_dim()) {
    return invalid(fmt::format("QK-Clip: q has {} rows, but {} heads of {} need {}", w.q.rows, c.heads,
                               c.qk_dim(), c.heads * c.qk_dim()));
  }
  if (c.attention == AttentionKind::kMla && w.kv_b.rows != c.heads * (c.nope + c.v_dim)) {
    return invalid(fmt::format("QK-Clip: kv_b has {} rows, but {} heads of {} need {}", w.kv_b.rows, c.heads,
                               c.nope + c.v_dim, c.heads * (c.nope + c.v_dim)));
  }
  const bool biased = c.attention == AttentionKind::kGqa && c.qkv_bias;
  if (std::ssize(w.q_bias) != (biased ? w.q.rows : 0)) {
    return invalid(
        fmt::format("QK-Clip: q_bias has {} numbers, expected {}", w.q_bias.size(), biased ? w.q.rows : 0));
  }
  return Status();
}

Status check_logits(const ModelConfig& c, std::span<const float> s_max, float tau) {
  if (!(tau > 0) || !std::isfinite(tau))
    return invalid(fmt::format("QK-Clip: tau is {}, but must be above 0", tau));
  if (std::ssize(s_max) != c.heads)
    return invalid(fmt::format("QK-Clip: {} maxima for {} heads", s_max.size(), c.heads));
  for (size_t h = 0; h < s_max.size(); ++h) {
    if (!std::isfinite(s_max[h])) {
      return invalid(
          fmt::format("QK-Clip: the largest logit of head {} is {}: the step before it diverged; start anew "
                      "with a smaller learning rate",
                      h, s_max[h]));
    }
  }
  return Status();
}

void scale_rows(MatrixView w, int64_t begin, int64_t count, float factor) {
  scale(Team{}, {w.row(begin), static_cast<size_t>(count * w.cols)}, factor);
}

void shrink_head(const ModelConfig& c, const QkWeights& w, int64_t h, float gamma) {
  const int64_t q_row = h * c.qk_dim();
  if (c.attention == AttentionKind::kGqa) {
    scale_rows(w.q, q_row, c.head_dim, gamma);
    if (!w.q_bias.empty())
      scale(Team{}, w.q_bias.subspan(static_cast<size_t>(q_row), static_cast<size_t>(c.head_dim)), gamma);
    return;
  }
  const float root = std::sqrt(gamma);
  scale_rows(w.q, q_row, c.nope, root);
  scale_rows(w.q, q_row + c.nope, c.rope, gamma);
  scale_rows(w.kv_b, h * (c.nope + c.v_dim), c.nope, root);
}

}  // namespace

Result<QkClip> clip_qk(const ModelConfig& config, std::span<const float> s_max, float tau,
                       const QkWeights& weights) {
  MOEBIUS_TRY(check_logits(config, s_max, tau));
  QkClip clip;
  clip.gamma.assign(static_cast<size_t>(config.heads), 1.f);
  if (config.qk_norm) {
    clip.applicable = false;
    return clip;
  }
  MOEBIUS_TRY(check_shapes(config, weights));
  for (size_t h = 0; h < s_max.size(); ++h) {
    if (s_max[h] <= tau) continue;
    clip.gamma[h] = tau / s_max[h];
    shrink_head(config, weights, static_cast<int64_t>(h), clip.gamma[h]);
  }
  return clip;
}

}  // namespace moebius::optim
