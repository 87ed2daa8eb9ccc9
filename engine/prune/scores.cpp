#include "engine/prune/scores.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

namespace moebius {
namespace {

constexpr const char* kScoresFormat = "moebius tenp scores 1";

std::string model_text(const ModelFiles& model) {
  const ModelConfig& c = model.config();
  return fmt::format("{} {} bytes, {} layers, {} experts of {}", c.model_type,
                     model.checkpoint().total_bytes(), c.layers, c.moe.n_experts, c.moe.width);
}

std::string name_of(const LayerScores& layer, const char* what) {
  return fmt::format("layers.{}.{}", layer.layer, what);
}

// visit(name, dtype, shape, data, bytes) for every tensor of the file, in its order.
template <class Scores, class Visit>
Status visit_tensors(Scores& scores, const Visit& visit) {
  const int64_t e = scores.experts, w = scores.width;
  const auto bytes = [](const auto& values) { return values.size() * sizeof(values[0]); };
  for (auto& l : scores.layers) {
    MOEBIUS_TRY(visit(name_of(l, "tokens"), DType::kI64, {e}, l.tokens.data(), bytes(l.tokens)));
    MOEBIUS_TRY(visit(name_of(l, "gate"), DType::kF64, {e}, l.gate.data(), bytes(l.gate)));
    MOEBIUS_TRY(visit(name_of(l, "importance"), DType::kF64, {e}, l.importance.data(), bytes(l.importance)));
    MOEBIUS_TRY(visit(name_of(l, "neurons"), DType::kF32, {e, w}, l.neurons.data(), bytes(l.neurons)));
  }
  return visit("tokens", DType::kI64, {1}, &scores.tokens, sizeof scores.tokens);
}

using Shape = std::vector<int64_t>;

// squares[r] += the squared norm of row r, or squares[c] += that of column c.
void add_squares(const Matrix& w, bool of_columns, std::vector<double>& squares) {
  std::vector<float> row(static_cast<size_t>(w.cols));
  for (int64_t r = 0; r < w.rows; ++r) {
    format_kernels(w.format).back().dequantize_rows(w, r, r + 1, row.data(), w.cols);
    for (int64_t c = 0; c < w.cols; ++c) {
      const double value = row[static_cast<size_t>(c)];
      squares[static_cast<size_t>(of_columns ? c : r)] += value * value;
    }
  }
}

void score_by_norms(const ExpertWeights& expert, float* scores) {
  const size_t width = static_cast<size_t>(expert.gate.rows);
  std::vector<double> gate(width), up(width), down(width);
  add_squares(expert.gate, false, gate);
  add_squares(expert.up, false, up);
  add_squares(expert.down, true, down);
  for (size_t k = 0; k < width; ++k) scores[k] = static_cast<float>(std::sqrt(gate[k] * up[k] * down[k]));
}

bool finite(const PruneScores& scores) {
  const auto all = [](const auto& values) {
    return std::ranges::all_of(values, [](auto v) { return std::isfinite(v); });
  };
  return std::ranges::all_of(scores.layers, [&](const LayerScores& l) {
    return all(l.gate) && all(l.importance) && all(l.neurons) &&
           std::ranges::all_of(l.tokens, [](int64_t n) { return n >= 0; });
  });
}

}  // namespace

PruneScores no_scores(const ModelConfig& c) {
  PruneScores scores;
  scores.experts = c.moe.n_experts, scores.width = c.moe.width;
  const size_t experts = static_cast<size_t>(scores.experts);
  for (int64_t l = 0; l < c.layers; ++l) {
    if (!c.moe_layer[static_cast<size_t>(l)]) continue;
    LayerScores layer{l, {}, {}, {}, {}};
    layer.tokens.resize(experts), layer.gate.resize(experts), layer.importance.resize(experts);
    layer.neurons.resize(experts * static_cast<size_t>(scores.width));
    scores.layers.push_back(std::move(layer));
  }
  return scores;
}

std::vector<RareExpert> score_rare_experts(const Weights& weights, int64_t least, PruneScores& scores) {
  std::vector<RareExpert> rare;
  for (LayerScores& layer : scores.layers) {
    const std::vector<ExpertWeights>& experts = weights.layers[static_cast<size_t>(layer.layer)].experts;
    for (size_t e = 0; e < experts.size(); ++e) {
      if (layer.tokens[e] >= least) continue;
      score_by_norms(experts[e], layer.neurons.data() + static_cast<int64_t>(e) * scores.width);
      rare.push_back({layer.layer, static_cast<int64_t>(e), layer.tokens[e]});
    }
  }
  return rare;
}

Status write_scores(const std::string& path, const ModelFiles& model, const PruneScores& scores) {
  SafetensorsWriter writer(path, {{"format", kScoresFormat}, {"model", model_text(model)}});
  MOEBIUS_TRY(visit_tensors(scores, [&](std::string name, DType type, Shape shape, const void*, size_t) {
    writer.declare(std::move(name), type, std::move(shape));
    return Status();
  }));
  MOEBIUS_TRY(visit_tensors(scores, [&](const std::string&, DType, Shape, const void* data, size_t bytes) {
    return writer.append(data, bytes);
  }));
  return writer.finish();
}

Result<PruneScores> read_scores(const std::string& path, const ModelFiles& model) {
  MOEBIUS_ASSIGN(const std::unique_ptr<SafetensorsFile> file, SafetensorsFile::open(path));
  std::string format, of;
  for (const auto& [name, value] : file->metadata()) {
    if (name == "format") format = value;
    if (name == "model") of = value;
  }
  if (format != kScoresFormat)
    return invalid(fmt::format("'{}' holds no scores; make some with --calibrate", printable(path)));
  if (of != model_text(model)) {
    return invalid(fmt::format("'{}' holds scores of another model ({}); this one is {}; calibrate it",
                               printable(path), printable(of), model_text(model)));
  }
  PruneScores scores = no_scores(model.config());
  MOEBIUS_TRY(visit_tensors(
      scores, [&](const std::string& name, DType type, const Shape& shape, void* to, size_t bytes) -> Status {
        const auto is = [&](const TensorEntry& t) { return t.name == name; };
        const auto entry = std::ranges::find_if(file->tensors(), is);
        if (entry == file->tensors().end() || entry->dtype != type || entry->shape != shape) {
          return invalid(fmt::format("'{}': tensor {} is missing or of another shape; calibrate again",
                                     printable(path), name));
        }
        std::memcpy(to, entry->data, bytes);
        return Status();
      }));
  if (!finite(scores))
    return invalid(fmt::format("'{}' holds numbers that are no scores; calibrate again", printable(path)));
  return scores;
}

}  // namespace moebius
