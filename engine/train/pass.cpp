#include "engine/train/pass.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "engine/routing_log.h"

namespace moebius {
namespace {

// [n, d] float32 seen as a table, so that embed gathers its rows.
Matrix as_matrix(const Tensor& t) {
  Matrix m;
  m.rows = t.shape[0], m.cols = t.shape[1], m.data = t.data, m.space = t.space;
  return m;
}

}  // namespace

Result<std::unique_ptr<TrainingPass>> TrainingPass::create(const Model& model, const PassOptions& options) {
  std::unique_ptr<TrainingPass> pass(new TrainingPass(model, options));
  const ModelConfig& c = model.config;
  MOEBIUS_ASSIGN(pass->workspace_, WorkspaceMemory::create(c, options.max_tokens, model.backend));
  MOEBIUS_ASSIGN(pass->memory_, PassMemory::create(c, options, model.backend, pass->head_backend()));
  MOEBIUS_ASSIGN(pass->cache_, KvCache::create(c, 1, DType::kF32, cached_positions(options), model.backend));
  pass->pages_.resize(static_cast<size_t>(std::max<int64_t>(1, options.max_tokens / options.shortest)));
  pass->reset_statistics();
  return pass;
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
  MOEBIUS_CHECK(n >= 1 && n <= options_.max_tokens && batch.targets.size() == batch.ids.size());
  MOEBIUS_CHECK(batch.weights.empty() || batch.weights.size() == batch.ids.size());
  MOEBIUS_CHECK(batch.starts.size() >= 2 && batch.starts.front() == 0 && batch.starts.back() == n);
  const size_t sequences = batch.starts.size() - 1;
  MOEBIUS_CHECK(sequences <= pages_.size());
  ws_ = workspace_.view(n);
  v_ = memory_.view(n);
  v_.bw.starts = batch.starts;
  for (PageTable& table : pages_) cache_.release(table);
  segments_.clear();
  for (size_t i = 0; i < sequences; ++i) {
    const int64_t begin = batch.starts[i], count = batch.starts[i + 1] - begin;
    MOEBIUS_CHECK(count >= 1);
    MOEBIUS_TRY(cache_.reserve(pages_[i], 0, count));
    segments_.push_back({&pages_[i], begin, count, 0});
  }
  batch_ = {batch.ids, segments_};
  routing_ = batch.routing;
  MOEBIUS_CHECK(routing_.empty() || (model_.backend.space() == Space::kHost &&
                                     std::ssize(routing_) == n * moe_layers() * model_.config.moe.top_k));
  return Status();
}

int64_t TrainingPass::moe_layers() const {
  const std::vector<bool>& moe = model_.config.moe_layer;
  return std::count(moe.begin(), moe.end(), true);
}

// What a layer's router is to choose; empty: its best.
Tensor TrainingPass::forced(int64_t layer) const {
  const std::vector<bool>& moe = model_.config.moe_layer;
  if (routing_.empty() || !moe[static_cast<size_t>(layer)]) return Tensor();
  return routing_of_layer(routing_.data(), ws_.x.shape[0], moe_layers(), model_.config.moe.top_k,
                          std::count(moe.begin(), moe.begin() + layer, true));
}

// What is kept of this layer goes to, or comes from, its place.
Workspace TrainingPass::layer_workspace(int64_t layer) const {
  const SavedLayer& saved = v_.saved[static_cast<size_t>(layer)];
  Workspace ws = ws_;
  ws.expert_ids = saved.ids, ws.expert_weights = saved.weights, ws.expert_chosen = saved.chosen;
  ws.expert_forced = forced(layer);
  if (!saved.after_attention.empty()) static_cast<AttentionActivations&>(ws) = saved.attention;
  return ws;
}

void TrainingPass::run_forward() {
  Backend& be = model_.backend;
  start_forward(model_, batch_, ws_);
  for (int64_t l = 0; l < model_.config.layers; ++l) {
    const SavedLayer& saved = v_.saved[static_cast<size_t>(l)];
    const Workspace ws = layer_workspace(l);
    be.copy(ws.x, saved.x);
    attention_forward(model_, l, batch_, cache_, ws);
    if (!saved.after_attention.empty()) be.copy(ws.x, saved.after_attention);
    ffn_forward(model_, l, ws);
    if (!saved.chosen.empty()) cross(be, saved.chosen, saved.chosen_host);
  }
}

// While the device is idle.
void TrainingPass::count_load() {
  for (size_t l = 0; l < load_.size(); ++l) {
    const Tensor& chosen = v_.saved[l].chosen_host;
    for (int64_t i = 0; i < chosen.numel() && !chosen.empty(); ++i)
      ++load_[l][static_cast<size_t>(on_host(chosen).i32()[i])];
  }
}

// The rows with a loss, in the order of the batch; how many.
int64_t TrainingPass::choose_rows(const TrainBatch& batch, float scale) {
  const HeadWorkspace& head = v_.head;
  const Tensor rows = on_host(head.rows.host), targets = on_host(head.targets.host),
               weights = on_host(head.weights.host);
  int64_t wanted = 0;
  for (size_t i = 0; i < batch.targets.size(); ++i) {
    const float weight = batch.weights.empty() ? 1.0f : batch.weights[i];
    if (batch.targets[i] < 0 || weight == 0) continue;
    rows.i32()[wanted] = static_cast<int32_t>(i);
    targets.i32()[wanted] = batch.targets[i];
    weights.f32()[wanted++] = weight * scale;
  }
  cross(model_.backend, head.rows.host, head.rows.here);
  cross(model_.backend, head.targets.host, head.targets.here);
  cross(model_.backend, head.weights.host, head.weights.here);
  return wanted;
}

// Loss and, with gradients, dx of m of these rows.
Status TrainingPass::head_chunk(int64_t begin, int64_t m, const Gradients* gradients) {
  const float eps = model_.config.norm_eps;
  const HeadWorkspace& head = v_.head;
  Backend &be = model_.backend, &there = head_backend();
  const Tensor rows = head.rows.here.rows(begin, m), x = head.x.rows(0, m), h = head.h.here.rows(0, m);
  const Tensor logits = head.logits.rows(0, m);
  be.embed({as_matrix(ws_.x), rows, x});
  be.rms_norm({x, model_.weights.final_norm, eps, h});
  const Tensor h_there = head_here() ? h : on_host(head.h.host.rows(0, m));
  if (!head_here()) {
    be.copy(h, head.h.host.rows(0, m));
    MOEBIUS_TRY(wait_for(model_));
  }
  there.linear({model_.weights.head, h_there, Tensor(), logits});
  there.cross_entropy({logits, head.targets.here.rows(begin, m), head.weights.here.rows(begin, m),
                       head.loss.here.rows(begin, m), head.hits.here.rows(begin, m)});
  if (!gradients) return Status();
  const Tensor dh = head.dh.here.rows(0, m), dx = head.dx.rows(0, m);
  const Tensor dh_there = head_here() ? dh : on_host(head.dh.host.rows(0, m));
  there.zero(dh_there), be.zero(dx);
  there.linear_backward(
      {model_.weights.head, h_there, logits, dh_there, gradient_of(gradients->head), Tensor()});
  if (!head_here()) be.copy(head.dh.host.rows(0, m), dh);
  be.rms_norm_backward({x, model_.weights.final_norm, eps, dh, dx, gradients->final_norm});
  be.embed_backward({rows, dx, v_.bw.dx});
  return Status();
}

// In which layer numbers stopped being finite, while the device is idle; overwrites ws.x.
std::string TrainingPass::where_broken() const {
  for (size_t l = 0; l < v_.saved.size(); ++l) {
    const Tensor& x = v_.saved[l].x;
    cross(model_.backend, x, ws_.host.x);
    if (!model_.backend.sync().ok()) return "";
    const std::span<const float> numbers(on_host(ws_.host.x).f32(), static_cast<size_t>(x.numel()));
    if (std::ranges::all_of(numbers, [](float value) { return std::isfinite(value); })) continue;
    return l == 0 ? ", the embedding's rows are not finite"
                  : fmt::format(", what layer {} gives is the first that is not finite", l - 1);
  }
  return fmt::format(", what layer {} gives is the first that is not finite", v_.saved.size() - 1);
}

// Loss of the rows with a target, some at a time; with gradients, bw.dx becomes that of ws.x. Waits.
Result<double> TrainingPass::run_head(const TrainBatch& batch, float scale, const Gradients* gradients) {
  const HeadWorkspace& head = v_.head;
  const int64_t wanted = choose_rows(batch, scale), at_once = head.logits.shape[0];
  if (gradients) model_.backend.zero(v_.bw.dx);
  for (int64_t begin = 0; begin < wanted; begin += at_once)
    MOEBIUS_TRY(head_chunk(begin, std::min(at_once, wanted - begin), gradients));
  cross(model_.backend, head.loss.here, head.loss.host);
  cross(model_.backend, head.hits.here, head.hits.host);
  MOEBIUS_TRY(wait_for(model_));
  count_load();
  double sum = 0;
  hits_ = 0;
  for (int64_t i = 0; i < wanted; ++i) {
    sum += on_host(head.loss.host).f32()[i];
    hits_ += on_host(head.hits.host).i32()[i];
  }
  if (!std::isfinite(sum)) return invalid(fmt::format("the loss is {}{}", sum, where_broken()));
  return sum / scale;
}

Status TrainingPass::run_backward(const Gradients& gradients) {
  const ModelConfig& c = model_.config;
  Backend& be = model_.backend;
  const Tensor neg_sin = on_host(v_.neg_sin.host), sin = on_host(ws_.host.sin);
  for (int64_t i = 0; i < sin.numel(); ++i) neg_sin.f32()[i] = -sin.f32()[i];
  cross(be, v_.neg_sin.host, v_.neg_sin.here);
  std::ranges::copy(highest_, on_host(v_.highest.host).f32());
  cross(be, v_.highest.host, v_.highest.here);
  for (int64_t l = c.layers - 1; l >= 0; --l) {
    BackwardWorkspace bw = v_.bw;
    bw.highest = v_.highest.here.rows(l, 1).reshape({c.heads});
    const SavedLayer& saved = v_.saved[static_cast<size_t>(l)];
    if (!v_.x.empty()) be.copy(saved.x, v_.x);
    layer_backward(model_, l, batch_, cache_, v_.x.empty() ? saved.x : v_.x, saved.after_attention,
                   layer_workspace(l), bw, gradients.layers[static_cast<size_t>(l)]);
  }
  if (!gradients.embed.empty()) be.embed_backward({ws_.host.ids, v_.bw.dx, gradient_of(gradients.embed)});
  if (model_.experts) model_.experts->finish();
  cross(be, v_.highest.here, v_.highest.host);
  MOEBIUS_TRY(wait_for(model_));
  std::copy_n(on_host(v_.highest.host).f32(), highest_.size(), highest_.begin());
  return Status();
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
    if (batch.targets[i] >= 0) losses[i] = on_host(v_.head.loss.host).f32()[next++];
  return losses;
}

Result<double> TrainingPass::accumulate(const TrainBatch& batch, float scale, const Gradients& gradients,
                                        const BalanceLoss& balance) {
  MOEBIUS_TRY(begin(batch));
  v_.bw.balance = balance;
  run_forward();
  MOEBIUS_ASSIGN(const double loss, run_head(batch, scale, &gradients));
  MOEBIUS_TRY(run_backward(gradients));
  return loss;
}

}  // namespace moebius
