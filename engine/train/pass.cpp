#include "engine/train/pass.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace moebius {
namespace {

constexpr int64_t kLogitNumbers = 1 << 22;  // in one piece of the head's work
constexpr int64_t kMaxHeadRows = 1024;

int64_t head_rows_at_once(const ModelConfig& c, int64_t n) {
  return std::clamp<int64_t>(kLogitNumbers / c.vocab, std::min<int64_t>(n, 16), std::min(n, kMaxHeadRows));
}

// [n, d] float32 seen as a table, so that embed gathers its rows.
Matrix as_matrix(const Tensor& t) {
  Matrix m;
  m.rows = t.shape[0], m.cols = t.shape[1], m.data = t.data;
  return m;
}

// Rows of logits [m, vocab] where nothing exceeds the target's. Without a branch, so that it becomes vectors.
int64_t count_hits(const Tensor& logits, const Tensor& targets) {
  const int64_t vocab = logits.shape[1];
  int64_t hits = 0;
  for (int64_t i = 0; i < logits.shape[0]; ++i) {
    const float* row = logits.f32() + i * vocab;
    const float target = row[targets.i32()[i]];
    int32_t likelier = 0;
    for (int64_t j = 0; j < vocab; ++j) likelier |= row[j] > target;
    hits += likelier == 0;
  }
  return hits;
}

}  // namespace

int64_t TrainingPass::layers_kept(const ModelConfig& c, int64_t max_tokens, int64_t kept_bytes) {
  Arena layer(nullptr);
  layer.take(DType::kF32, {max_tokens, c.hidden});
  lay_out_attention(c, max_tokens, layer);
  return std::min(c.layers, kept_bytes / layer.used());
}

TrainingPass::TrainingPass(const Model& model, int64_t max_tokens, int64_t kept_bytes,
                           WorkspaceMemory workspace)
    : model_(model),
      max_tokens_(max_tokens),
      first_kept_(model.config.layers - layers_kept(model.config, max_tokens, kept_bytes)),
      workspace_(std::move(workspace)) {}

Result<std::unique_ptr<TrainingPass>> TrainingPass::create(const Model& model, int64_t max_tokens,
                                                           int64_t kept_bytes) {
  MOEBIUS_ASSIGN(WorkspaceMemory workspace, WorkspaceMemory::create(model.config, max_tokens, model.backend));
  std::unique_ptr<TrainingPass> pass(new TrainingPass(model, max_tokens, kept_bytes, std::move(workspace)));
  Arena measured(nullptr);
  pass->lay_out(max_tokens, measured);
  MOEBIUS_ASSIGN(pass->memory_, model.backend.alloc(static_cast<size_t>(measured.used())));
  pass->reset_statistics();
  return pass;
}

void TrainingPass::lay_out(int64_t n, Arena& arena) {
  const ModelConfig& c = model_.config;
  const DType f32 = DType::kF32, i32 = DType::kI32;
  bw_ = lay_out_backward(c, n, arena);
  saved_.resize(static_cast<size_t>(c.layers));
  for (int64_t l = 0; l < c.layers; ++l) {
    Saved& saved = saved_[static_cast<size_t>(l)];
    const int64_t k = c.moe_layer[static_cast<size_t>(l)] ? c.moe.top_k : 0;
    saved.x = arena.take(f32, {n, c.hidden});
    saved.ids = arena.take(i32, {n, k});
    saved.weights = arena.take(f32, {n, k});
    saved.chosen = arena.take(i32, {n, k});
    if (l < first_kept_) continue;
    saved.after_attention = arena.take(f32, {n, c.hidden});
    saved.attention = lay_out_attention(c, n, arena);
  }
  const int64_t m = head_rows_at_once(c, n);
  head_.rows = arena.take(i32, {n});
  for (Tensor* t : {&head_.x, &head_.h, &head_.dh, &head_.dx}) *t = arena.take(f32, {m, c.hidden});
  head_.logits = arena.take(f32, {m, c.vocab});
  head_.targets = arena.take(i32, {n});
  head_.weights = arena.take(f32, {n});
  head_.loss = arena.take(f32, {n});
}

void TrainingPass::reset_statistics() {
  const ModelConfig& c = model_.config;
  load_.assign(static_cast<size_t>(c.layers), {});
  for (size_t l = 0; l < load_.size(); ++l)
    if (c.moe_layer[l]) load_[l].assign(static_cast<size_t>(c.moe.n_experts + c.moe.zero_experts), 0);
  highest_.assign(static_cast<size_t>(c.layers * c.heads), -INFINITY);
}

// Views for the batch, and a segment in a one-layer cache for each of its sequences.
Status TrainingPass::begin(const TrainBatch& batch) {
  const int64_t n = static_cast<int64_t>(batch.ids.size());
  MOEBIUS_CHECK(n >= 1 && n <= max_tokens_ && batch.targets.size() == batch.ids.size());
  MOEBIUS_CHECK(batch.weights.empty() || batch.weights.size() == batch.ids.size());
  MOEBIUS_CHECK(batch.starts.size() >= 2 && batch.starts.front() == 0 && batch.starts.back() == n);
  ws_ = workspace_.view(n);
  Arena arena(memory_.as<char>());
  lay_out(n, arena);
  bw_.starts = batch.starts;

  const size_t sequences = batch.starts.size() - 1;
  int64_t cached = 0;
  for (size_t i = 0; i < sequences; ++i) {
    const int64_t count = batch.starts[i + 1] - batch.starts[i];
    MOEBIUS_CHECK(count >= 1);
    cached += (count + kPageTokens - 1) / kPageTokens * kPageTokens;
  }
  for (PageTable& table : pages_) cache_.release(table);
  if (cached > cache_tokens_) {
    MOEBIUS_ASSIGN(cache_, KvCache::create(model_.config, 1, DType::kF32, cached, model_.backend));
    cache_tokens_ = cached;
  }
  pages_.resize(std::max(pages_.size(), sequences));
  segments_.clear();
  for (size_t i = 0; i < sequences; ++i) {
    const int64_t begin = batch.starts[i], count = batch.starts[i + 1] - begin;
    MOEBIUS_TRY(cache_.reserve(pages_[i], 0, count));
    segments_.push_back({&pages_[i], begin, count, 0});
  }
  batch_ = {batch.ids, segments_};
  return Status();
}

void TrainingPass::count_load(int64_t layer) {
  const Saved& saved = saved_[static_cast<size_t>(layer)];
  if (saved.chosen.empty()) return;
  std::vector<int64_t>& load = load_[static_cast<size_t>(layer)];
  for (int64_t i = 0; i < saved.chosen.numel(); ++i) ++load[static_cast<size_t>(saved.chosen.i32()[i])];
}

// What is kept of this layer goes to, or comes from, its place.
Workspace TrainingPass::layer_workspace(int64_t layer) const {
  const Saved& saved = saved_[static_cast<size_t>(layer)];
  Workspace ws = ws_;
  ws.expert_ids = saved.ids, ws.expert_weights = saved.weights, ws.expert_chosen = saved.chosen;
  if (!saved.after_attention.empty()) static_cast<AttentionActivations&>(ws) = saved.attention;
  return ws;
}

void TrainingPass::run_forward() {
  start_forward(model_, batch_, ws_);
  for (int64_t l = 0; l < model_.config.layers; ++l) {
    const Saved& saved = saved_[static_cast<size_t>(l)];
    const Workspace ws = layer_workspace(l);
    model_.backend.copy(ws.x, saved.x);
    attention_forward(model_, l, batch_, cache_, ws);
    if (!saved.after_attention.empty()) model_.backend.copy(ws.x, saved.after_attention);
    ffn_forward(model_, l, ws);
    count_load(l);
  }
}

// Loss of the rows with a target, some at a time; with gradients, bw.dx becomes that of ws.x.
Result<double> TrainingPass::run_head(const TrainBatch& batch, float scale, const Gradients* gradients) {
  const ModelConfig& c = model_.config;
  Backend& be = model_.backend;
  int64_t wanted = 0;
  for (size_t i = 0; i < batch.targets.size(); ++i) {
    const float weight = batch.weights.empty() ? 1.0f : batch.weights[i];
    if (batch.targets[i] < 0 || weight == 0) continue;
    head_.rows.i32()[wanted] = static_cast<int32_t>(i);
    head_.targets.i32()[wanted] = batch.targets[i];
    head_.weights.f32()[wanted++] = weight * scale;
  }
  if (gradients) be.zero(bw_.dx);
  double sum = 0;
  hits_ = 0;
  const int64_t at_once = head_.logits.shape[0];
  for (int64_t begin = 0; begin < wanted; begin += at_once) {
    const int64_t m = std::min(at_once, wanted - begin);
    const Tensor rows = head_.rows.rows(begin, m), loss = head_.loss.rows(begin, m);
    const Tensor x = head_.x.rows(0, m), h = head_.h.rows(0, m), logits = head_.logits.rows(0, m);
    be.embed({as_matrix(ws_.x), rows, x});
    be.rms_norm({x, model_.weights.final_norm, c.norm_eps, h});
    be.linear({model_.weights.head, h, Tensor(), logits});
    hits_ += count_hits(logits, head_.targets.rows(begin, m));
    be.cross_entropy({logits, head_.targets.rows(begin, m), head_.weights.rows(begin, m), loss});
    for (int64_t i = 0; i < m; ++i) sum += loss.f32()[i];
    if (!gradients) continue;
    const Tensor dh = head_.dh.rows(0, m), dx = head_.dx.rows(0, m);
    be.zero(dh), be.zero(dx);
    be.linear_backward({model_.weights.head, h, logits, dh, gradient_of(gradients->head), Tensor()});
    be.rms_norm_backward({x, model_.weights.final_norm, c.norm_eps, dh, dx, gradients->final_norm});
    be.embed_backward({rows, dx, bw_.dx});
  }
  if (!std::isfinite(sum)) return invalid(fmt::format("the loss is {}", sum));
  return sum / scale;
}

void TrainingPass::run_backward(const Gradients& gradients) {
  const ModelConfig& c = model_.config;
  for (int64_t i = 0; i < ws_.sin.numel(); ++i) bw_.neg_sin.f32()[i] = -ws_.sin.f32()[i];
  for (int64_t l = c.layers - 1; l >= 0; --l) {
    BackwardWorkspace bw = bw_;
    bw.highest = f32_tensor(highest_.data() + l * c.heads, {c.heads});
    const Saved& saved = saved_[static_cast<size_t>(l)];
    layer_backward(model_, l, batch_, cache_, saved.x, saved.after_attention, layer_workspace(l), bw,
                   gradients.layers[static_cast<size_t>(l)]);
  }
  if (!gradients.embed.empty())
    model_.backend.embed_backward({ws_.host.ids, bw_.dx, gradient_of(gradients.embed)});
}

Result<double> TrainingPass::evaluate(const TrainBatch& batch) {
  MOEBIUS_TRY(begin(batch));
  run_forward();
  return run_head(batch, 1.0f, nullptr);
}

Result<std::vector<float>> TrainingPass::losses(const TrainBatch& batch) {
  TrainBatch whole = batch;
  whole.weights = {};
  MOEBIUS_TRY(evaluate(whole).status());
  std::vector<float> losses(batch.ids.size(), 0.0f);
  int64_t next = 0;
  for (size_t i = 0; i < losses.size(); ++i)
    if (batch.targets[i] >= 0) losses[i] = head_.loss.f32()[next++];
  return losses;
}

Result<double> TrainingPass::accumulate(const TrainBatch& batch, float scale, const Gradients& gradients,
                                        const BalanceLoss& balance) {
  MOEBIUS_TRY(begin(batch));
  bw_.balance = balance;
  run_forward();
  MOEBIUS_ASSIGN(const double loss, run_head(batch, scale, &gradients));
  run_backward(gradients);
  return loss;
}

}  // namespace moebius
