#include "engine/prune/calibration.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>

#include <fmt/format.h>

#include "engine/forward.h"
#include "engine/prune/expert_scorer.h"

namespace moebius {
namespace {

constexpr int64_t kLeastSlice = 2048;  // that go through attention at once, unless a sequence has more
constexpr int64_t kMaxPassTokens = 16384;

// Sequences [first, first + count) of the text, rows [begin, begin + tokens) of the pass.
struct Slice {
  size_t first = 0, count = 0;
  int64_t begin = 0, tokens = 0;
};

// Whole sequences go into a slice while they fit, and whole slices into a pass.
std::vector<std::vector<Slice>> cut_into_passes(std::span<const std::vector<int32_t>> sequences,
                                                int64_t slice_tokens, int64_t pass_tokens) {
  std::vector<std::vector<Slice>> passes;
  Slice slice;
  const auto close = [&](size_t next) {
    if (slice.count > 0) {
      const bool fits =
          !passes.empty() &&
          passes.back().back().begin + passes.back().back().tokens + slice.tokens <= pass_tokens;
      slice.begin = fits ? passes.back().back().begin + passes.back().back().tokens : 0;
      if (!fits) passes.emplace_back();
      passes.back().push_back(slice);
    }
    slice = {next, 0, 0, 0};
  };
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (slice.tokens + std::ssize(sequences[i]) > slice_tokens) close(i);
    ++slice.count, slice.tokens += std::ssize(sequences[i]);
  }
  close(sequences.size());
  return passes;
}

class Calibration {
 public:
  Calibration(const ModelFiles& files, std::span<const std::vector<int32_t>> sequences,
              const CalibrationOptions& options)
      : files_(files),
        config_(files.config()),
        sequences_(sequences),
        options_(options),
        threads_(options.threads > 0 ? options.threads : physical_cores()),
        backend_(make_host_backend({threads_})),
        rotary_(rotary_table(config_.rotary)),
        model_{config_, files.weights(), rotary_, *backend_},
        scores_(no_scores(config_)) {}

  Status prepare();
  Status run();
  PruneScores take() { return std::move(scores_); }

 private:
  void lay_out(int64_t n, Arena& arena);
  Workspace workspace_of(const Slice& slice) const;
  Status attend(int64_t layer, const Slice& slice);
  Status run_pass(const std::vector<Slice>& pass);
  Status count(int64_t tokens);

  struct Tokens {  // of a pass
    Tensor cos, sin, x, h, expert_ids, expert_weights, slots;
  };

  const ModelFiles& files_;
  const ModelConfig& config_;
  std::span<const std::vector<int32_t>> sequences_;
  const CalibrationOptions& options_;
  int threads_;
  std::unique_ptr<Backend> backend_;
  RotaryTable rotary_;
  Model model_;
  PruneScores scores_;
  std::unique_ptr<ExpertScorer> scorer_;
  std::vector<std::vector<Slice>> passes_;
  WorkspaceMemory workspace_;
  KvCache cache_;  // of one layer
  Buffer memory_;  // of tokens_
  Tokens tokens_;
  int64_t done_ = 0, total_ = 0;
};

void Calibration::lay_out(int64_t n, Arena& arena) {
  const DType f32 = DType::kF32;
  const int64_t half = config_.rotary.dim / 2, k = config_.moe.top_k;
  tokens_.cos = arena.take(f32, {n, half}), tokens_.sin = arena.take(f32, {n, half});
  tokens_.x = arena.take(f32, {n, config_.hidden}), tokens_.h = arena.take(f32, {n, config_.hidden});
  tokens_.expert_ids = arena.take(DType::kI32, {n, k});
  tokens_.expert_weights = arena.take(f32, {n, k});
  tokens_.slots = arena.take(f32, {n, k, config_.hidden});
}

Status Calibration::prepare() {
  int64_t longest = 1;
  for (const std::vector<int32_t>& ids : sequences_) {
    longest = std::max(longest, std::ssize(ids));
    scores_.tokens += std::ssize(ids);
    for (const int32_t id : ids) {
      if (id < 0 || id >= config_.vocab) {
        return invalid(
            fmt::format("the text has the token {}, and the vocabulary {}; the tokenizer is not "
                        "this model's",
                        id, config_.vocab));
      }
    }
  }
  if (scores_.tokens == 0) return invalid("the text has no tokens; give some");
  const int64_t slot_bytes = config_.moe.top_k * config_.hidden * static_cast<int64_t>(sizeof(float));
  const int64_t slice_tokens = std::max(kLeastSlice, longest);
  const int64_t pass_tokens =
      std::max(slice_tokens, std::min(kMaxPassTokens, options_.pass_bytes / slot_bytes));
  passes_ = cut_into_passes(sequences_, slice_tokens, pass_tokens);
  int64_t most = 0, largest_slice = 0, cached = 0;
  for (const std::vector<Slice>& pass : passes_) {
    most = std::max(most, pass.back().begin + pass.back().tokens);
    for (const Slice& s : pass) {
      largest_slice = std::max(largest_slice, s.tokens);
      cached = std::max(cached, s.tokens + static_cast<int64_t>(s.count) * kPageTokens);
    }
  }
  total_ = scores_.tokens * config_.layers;
  Arena measured(nullptr);
  lay_out(most, measured);
  MOEBIUS_ASSIGN(memory_, backend_->alloc(static_cast<size_t>(measured.used())));
  MOEBIUS_ASSIGN(workspace_, WorkspaceMemory::create(config_, largest_slice, *backend_));
  MOEBIUS_ASSIGN(cache_, KvCache::create(config_, 1, DType::kF32, cached, *backend_));
  MOEBIUS_ASSIGN(scorer_, ExpertScorer::create(config_, *backend_, threads_));
  return Status();
}

// A workspace whose lasting tensors are rows of the pass.
Workspace Calibration::workspace_of(const Slice& slice) const {
  Workspace ws = workspace_.view(slice.tokens);
  const auto rows = [&](const Tensor& t) { return t.rows(slice.begin, slice.tokens); };
  ws.cos = rows(tokens_.cos), ws.sin = rows(tokens_.sin);
  ws.x = rows(tokens_.x), ws.h = rows(tokens_.h);
  ws.expert_ids = rows(tokens_.expert_ids), ws.expert_weights = rows(tokens_.expert_weights);
  return ws;
}

// A slice through a layer up to its router, and beside its routed experts; layer -1: the embeddings.
Status Calibration::attend(int64_t layer, const Slice& slice) {
  std::vector<PageTable> pages(slice.count);
  std::vector<Segment> segments;
  std::vector<int32_t> ids;
  Status status;
  for (size_t i = 0; i < slice.count && status.ok(); ++i) {
    const std::vector<int32_t>& sequence = sequences_[slice.first + i];
    segments.push_back({&pages[i], std::ssize(ids), std::ssize(sequence), 0});
    ids.insert(ids.end(), sequence.begin(), sequence.end());
    status = cache_.reserve(pages[i], 0, std::ssize(sequence));
  }
  if (status.ok()) {
    const Workspace ws = workspace_of(slice);
    const Batch batch{ids, segments};
    if (layer < 0) {
      start_forward(model_, batch, ws);
    } else {
      attention_forward(model_, layer, batch, cache_, ws);
      if (config_.moe_layer[static_cast<size_t>(layer)]) {
        route_forward(model_, layer, ws);
        shared_forward(model_, layer, ws);
      } else {
        ffn_forward(model_, layer, ws);
      }
    }
  }
  for (PageTable& table : pages) cache_.release(table);
  return status;
}

Status Calibration::run_pass(const std::vector<Slice>& pass) {
  const int64_t n = pass.back().begin + pass.back().tokens;
  Arena arena(memory_);
  lay_out(n, arena);
  for (const Slice& slice : pass) MOEBIUS_TRY(attend(-1, slice));
  size_t moe = 0;
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    for (const Slice& slice : pass) MOEBIUS_TRY(attend(layer, slice));
    if (config_.moe_layer[static_cast<size_t>(layer)]) {
      const std::vector<ExpertWeights>& experts = files_.weights().layers[static_cast<size_t>(layer)].experts;
      scorer_->run(experts, {tokens_.h, tokens_.expert_ids, tokens_.expert_weights, tokens_.slots},
                   scores_.layers[moe++]);
      backend_->combine({tokens_.slots, tokens_.expert_ids, tokens_.expert_weights, tokens_.x});
    }
    MOEBIUS_TRY(count(n));
  }
  return Status();
}

Status Calibration::count(int64_t tokens) {
  done_ += tokens;
  if (options_.progress && !options_.progress(done_, total_)) return {Code::kCancelled, "cancelled"};
  return Status();
}

Status Calibration::run() {
  for (const std::vector<Slice>& pass : passes_) MOEBIUS_TRY(run_pass(pass));
  scorer_->finish(scores_);
  return Status();
}

}  // namespace

Status check_prunable(const ModelFiles& model) {
  const ModelConfig& c = model.config();
  const std::string& dir = model.checkpoint().dir();
  if (std::count(c.moe_layer.begin(), c.moe_layer.end(), true) == 0)
    return invalid(fmt::format("{}: a model without routed experts has nothing to prune", dir));
  if (c.moe.halves) {
    return invalid(
        fmt::format("{}: its experts are in halves already; prune the model it was made from", dir));
  }
  for (const std::vector<int64_t>& layer : c.moe.widths) {
    for (const int64_t width : layer) {
      if (width == c.moe.width) continue;
      return invalid(
          fmt::format("{}: its experts have unequal widths already ({} and {}); prune the model it "
                      "was made from",
                      dir, width, c.moe.width));
    }
  }
  return Status();
}

Result<PruneScores> calibrate(const ModelFiles& model, std::span<const std::vector<int32_t>> sequences,
                              const CalibrationOptions& options) {
  MOEBIUS_TRY(check_prunable(model));
  Calibration calibration(model, sequences, options);
  MOEBIUS_TRY(calibration.prepare());
  MOEBIUS_TRY(calibration.run());
  return calibration.take();
}

}  // namespace moebius
