#include "engine/forward.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "engine/batch_adapter.h"
#include "engine/prune/saliency.h"
#include "engine/routing_log.h"

namespace moebius {
namespace {

// What runs of rows use: choose(adapter, or null) gives what those of one use, body(begin, count, *that) is
// called for rows side by side that use the same.
template <class Choose, class Body>
void for_rows(const Workspace& ws, const Choose& choose, const Body& body) {
  if (ws.runs.empty()) return body(0, ws.x.shape[0], *choose(nullptr));
  for (size_t i = 0; i < ws.runs.size();) {
    const auto* used = choose(ws.runs[i].adapter);
    const int64_t begin = ws.runs[i].begin;
    int64_t end = begin;
    for (; i < ws.runs.size() && choose(ws.runs[i].adapter) == used; ++i) end += ws.runs[i].count;
    body(begin, end - begin, *used);
  }
}

// A layer's weights, for the rows of one pass.
struct Layer {
  const Model& m;
  const int64_t index;
  const Workspace& ws;
  const LayerWeights& w = m.weights.layers[static_cast<size_t>(index)];

  // y = x w^T + bias (+ y): one product for all rows, and what adapters add for theirs. pick(LayerWeights):
  // w.
  template <class Pick>
  void linear(const Pick& pick, const Tensor& x, const Tensor& bias, const Tensor& y,
              bool accumulate = false) const {
    m.backend.linear({std::invoke(pick, w), x, bias, y, accumulate});
    for (const AdapterRun& r : ws.runs) {
      if (!r.adapter) continue;
      const Matrix& adapted = std::invoke(pick, r.adapter->layer(index));
      if (adapted.adapted())
        m.backend.add_adapter({*adapted.lora, x.rows(r.begin, r.count), y.rows(r.begin, r.count)});
    }
  }
  // The matrix that rows of an adapter (or null) use, where adapters are merged.
  const Matrix& merged(Matrix LayerWeights::*pick, const BatchAdapter* adapter) const {
    const Matrix& own = adapter ? adapter->layer(index).*pick : w.*pick;
    return own.lora ? own : w.*pick;
  }
  const BatchAdapter* adapter_at(int64_t row) const {
    for (const AdapterRun& r : ws.runs)
      if (row >= r.begin && row < r.begin + r.count) return r.adapter;
    return nullptr;
  }
  // The experts that the device computes, or those that the host does beside it.
  const std::vector<ExpertWeights>& experts(const BatchAdapter* adapter) const {
    const std::vector<ExpertWeights>* own = adapter ? adapter->on_device(index) : nullptr;
    return own ? *own : w.experts;
  }
  const std::vector<ExpertWeights>& cold_experts(const BatchAdapter* adapter) const {
    const std::vector<ExpertWeights>* own = adapter ? adapter->on_host(index) : nullptr;
    return own ? *own : m.cold->experts().on_host(index);
  }
};

// [n, d] as one head, [n, 1, d].
Tensor one_head(const Tensor& t) { return t.split(1); }

// MLA of a few tokens each of sequences that lie side by side: kv_b is read once for all of them.
void absorbed_attention(const Layer& l, const Matrix& kv_b, std::span<const Segment> segments,
                        const KvCache& cache, const Tensor& q, const Tensor& out) {
  const ModelConfig& c = l.m.config;
  Backend& be = l.m.backend;
  const int64_t begin = segments[0].begin, count = segments.back().begin + segments.back().count - begin;
  const Tensor absorbed = l.ws.q_absorbed.split(c.heads), latents = l.ws.o_latent.split(c.heads);
  be.mla_absorb({q.rows(begin, count), kv_b, c.nope, c.v_dim, absorbed.rows(begin, count)});
  for (const Segment& s : segments)
    be.attention({absorbed.rows(s.begin, s.count), cache.view(*s.table, l.index), s.position, 1,
                  c.kv_lora + c.rope, c.kv_lora, 0, 0, c.softmax_scale, latents.rows(s.begin, s.count)});
  be.mla_value({latents.rows(begin, count), kv_b, c.nope, c.v_dim, out.rows(begin, count)});
}

// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): the cache holds the normed latent and one
// rotated key.
void mla(const Layer& l, const Batch& batch, const KvCache& cache) {
  const LayerWeights& w = l.w;
  const Workspace& ws = l.ws;
  const ModelConfig& c = l.m.config;
  Backend& be = l.m.backend;
  if (c.q_lora > 0) {
    l.linear(&LayerWeights::q_a, ws.h, w.q_bias, ws.q_a);
    be.rms_norm({ws.q_a, w.q_a_norm, c.lora_norm_eps, ws.q_a_normed});
    l.linear(&LayerWeights::q_b, ws.q_a_normed, Tensor(), ws.q);
  } else {
    l.linear(&LayerWeights::q, ws.h, Tensor(), ws.q);
  }
  l.linear(&LayerWeights::kv_a, ws.h, w.k_bias, ws.kv);
  be.rms_norm({ws.kv.slice(1, 0, c.kv_lora), w.kv_a_norm, c.lora_norm_eps, ws.latent});
  const Tensor q = ws.q.split(c.heads), key = ws.kv.slice(1, c.kv_lora, c.rope);
  be.rotary({q.slice(2, c.nope, c.rope), ws.cos, ws.sin, c.rotary.interleaved});
  be.rotary({one_head(key), ws.cos, ws.sin, c.rotary.interleaved});

  for (const Segment& s : batch.segments) {
    const CacheView view = cache.view(*s.table, l.index);
    be.cache_write({ws.latent.rows(s.begin, s.count), view, 0, s.position});
    be.cache_write({key.rows(s.begin, s.count), view, c.kv_lora, s.position});
  }
  const Tensor out = ws.attention.split(c.heads);
  const auto kv_b_of = [&](const Segment& s) {
    return &l.merged(&LayerWeights::kv_b, l.adapter_at(s.begin));
  };
  for (std::span<const Segment> rest = batch.segments; !rest.empty();) {
    const Matrix* kv_b = kv_b_of(rest[0]);
    const auto other = std::ranges::find_if(
        rest, [&](const Segment& s) { return s.count > kAbsorbedTokens || kv_b_of(s) != kv_b; });
    const size_t together = static_cast<size_t>(other - rest.begin());
    if (together > 0) {
      absorbed_attention(l, *kv_b, rest.first(together), cache, q, out);
    } else {
      const Segment& s = rest[0];
      be.mla_prefill({q.rows(s.begin, s.count), *kv_b, cache.view(*s.table, l.index), s.position, c.nope,
                      c.rope, c.v_dim, c.softmax_scale, out.rows(s.begin, s.count)});
    }
    rest = rest.subspan(std::max<size_t>(together, 1));
  }
}

// Grouped-query attention; the cache holds keys, then values.
void gqa(const Layer& l, const Batch& batch, const KvCache& cache) {
  const LayerWeights& w = l.w;
  const Workspace& ws = l.ws;
  const ModelConfig& c = l.m.config;
  Backend& be = l.m.backend;
  const int64_t n = ws.x.shape[0], kv_dim = c.kv_heads * c.head_dim;
  const Tensor q_rows = c.qk_norm ? ws.q_normed : ws.q, k_rows = c.qk_norm ? ws.k_normed : ws.k;
  const Tensor q = q_rows.split(c.heads), k = k_rows.split(c.kv_heads);
  l.linear(&LayerWeights::q, ws.h, w.q_bias, ws.q);
  l.linear(&LayerWeights::k, ws.h, w.k_bias, ws.k);
  l.linear(&LayerWeights::v, ws.h, w.v_bias, ws.v);
  if (c.qk_norm) {
    const int64_t q_heads = n * c.heads, k_heads = n * c.kv_heads, d = c.head_dim;
    be.rms_norm({ws.q.reshape({q_heads, d}), w.q_norm, c.norm_eps, q_rows.reshape({q_heads, d})});
    be.rms_norm({ws.k.reshape({k_heads, d}), w.k_norm, c.norm_eps, k_rows.reshape({k_heads, d})});
  }
  be.rotary({q, ws.cos, ws.sin, c.rotary.interleaved});
  be.rotary({k, ws.cos, ws.sin, c.rotary.interleaved});
  for (const Segment& s : batch.segments) {
    const CacheView view = cache.view(*s.table, l.index);
    be.cache_write({k_rows.rows(s.begin, s.count), view, 0, s.position});
    be.cache_write({ws.v.rows(s.begin, s.count), view, kv_dim, s.position});
    be.attention({q.rows(s.begin, s.count), view, s.position, c.kv_heads, c.head_dim, c.head_dim, 0, kv_dim,
                  c.softmax_scale, ws.attention.split(c.heads).rows(s.begin, s.count)});
  }
}

// x += down(silu(gate h) * up h): the dense feed-forward, or the shared experts.
void feed_forward(const Layer& l) {
  const Workspace& ws = l.ws;
  const int64_t width = l.w.ffn.gate.rows;
  const Tensor gate = ws.gate.slice(1, 0, width), up = ws.up.slice(1, 0, width);
  const Tensor hidden = ws.hidden.slice(1, 0, width);
  l.linear([](const LayerWeights& w) { return w.ffn.gate; }, ws.h, Tensor(), gate);
  l.linear([](const LayerWeights& w) { return w.ffn.up; }, ws.h, Tensor(), up);
  l.m.backend.swiglu({gate, up, hidden});
  l.linear([](const LayerWeights& w) { return w.ffn.down; }, hidden, Tensor(), ws.x, true);
}

// The slots of these ids whose experts the device has. experts_of(list): the list as it is to be used.
template <class ExpertsOf>
void device_experts(const Layer& l, const Tensor& all_ids, const ExpertsOf& experts_of) {
  const Workspace& ws = l.ws;
  for_rows(
      ws, [&](const BatchAdapter* a) { return &l.experts(a); },
      [&](int64_t begin, int64_t count, const std::vector<ExpertWeights>& list) {
        const Tensor h = ws.h.rows(begin, count), ids = all_ids.rows(begin, count);
        const Tensor slots = ws.slots.rows(begin, count);
        const auto& experts = experts_of(list);
        if (l.m.saliency && l.m.saliency->scores_pass() && &list == &l.w.experts)
          return l.m.saliency->run(l.index, experts, {h, ids, ws.expert_weights.rows(begin, count), slots});
        l.m.backend.expert_ffn({h, experts.data(), std::ssize(experts), ids, slots});
      });
}

// Those that the host is asked for.
std::vector<ExpertRows> host_experts(const Layer& l) {
  std::vector<ExpertRows> rows;
  for_rows(
      l.ws, [&](const BatchAdapter* a) { return &l.cold_experts(a); },
      [&](int64_t begin, int64_t count, const std::vector<ExpertWeights>& experts) {
        rows.push_back({begin, count, &experts});
      });
  return rows;
}

void route(const Layer& l) {
  const Workspace& ws = l.ws;
  const MoeConfig& c = l.m.config.moe;
  const Tensor chosen = l.m.routing ? l.m.routing->chosen(l.index) : ws.expert_chosen;
  const Tensor& forced = ws.expert_forced;
  // A half's share is half of its expert's.
  const float below = c.halves ? l.m.skip.expert / 2 : l.m.skip.expert;
  const float minor_below = c.halves ? l.m.skip.minor / 2 : 0;
  for_rows(
      ws, [&](const BatchAdapter* a) { return &l.merged(&LayerWeights::router, a); },
      [&](int64_t begin, int64_t count, const Matrix& router) {
        l.m.backend.router({ws.h.rows(begin, count), router, l.w.router_bias, c.scoring, c.group_score,
                            c.n_experts, c.n_group, c.topk_group, c.normalize, static_cast<float>(c.scale),
                            below, minor_below, ws.expert_ids.rows(begin, count),
                            ws.expert_weights.rows(begin, count),
                            chosen.empty() ? chosen : chosen.rows(begin, count),
                            forced.empty() ? forced : forced.rows(begin, count)});
      });
}

Backend& host_of(const Model& m) { return m.host ? *m.host : m.backend; }

// The host's side of what a device's router chose in a layer.
Tensor chosen_in(const Workspace& ws, int64_t layer) {
  const int64_t n = ws.x.shape[0];
  return ws.host.chosen.rows(layer * n, n);
}

void fill_angles(const Model& m, const Batch& batch, const Workspace& ws) {
  const int64_t half = m.config.rotary.dim / 2;
  for (const Segment& s : batch.segments) {
    for (int64_t i = 0; i < s.count; ++i) {
      float* cos = ws.host.cos.f32() + (s.begin + i) * half;
      float* sin = ws.host.sin.f32() + (s.begin + i) * half;
      for (int64_t j = 0; j < half; ++j) {
        const float angle =
            static_cast<float>(s.position + i) * m.rotary.inverse_frequency[static_cast<size_t>(j)];
        cos[j] = m.rotary.magnitude * std::cos(angle);
        sin[j] = m.rotary.magnitude * std::sin(angle);
      }
    }
  }
}

}  // namespace

void attention_forward(const Model& m, int64_t layer, const Batch& batch, const KvCache& cache,
                       const Workspace& ws) {
  const Layer l{m, layer, ws};
  m.backend.rms_norm({ws.x, l.w.attention_norm, m.config.norm_eps, ws.h});
  if (m.config.attention == AttentionKind::kMla) {
    mla(l, batch, cache);
  } else {
    gqa(l, batch, cache);
  }
  l.linear(&LayerWeights::o, ws.attention, l.w.o_bias, ws.x, true);
}

void ffn_forward(const Model& m, int64_t layer, const Workspace& ws) {
  ffn_begin(m, layer, ws);
  if (m.experts && !m.weights.layers[static_cast<size_t>(layer)].experts.empty())
    return m.experts->forward(m, layer, ws);
  ffn_end(m, layer, ws);
}

void ffn_begin(const Model& m, int64_t layer, const Workspace& ws) {
  const LayerWeights& w = m.weights.layers[static_cast<size_t>(layer)];
  if (w.experts.empty()) return m.backend.rms_norm({ws.x, w.ffn_norm, m.config.norm_eps, ws.h});
  route_forward(m, layer, ws);
  if (m.cold) m.cold->ask(layer, ws, host_experts({m, layer, ws}));
}

// x += the dense feed-forward; or the shared experts and the routed ones of each token, these in slot order,
// while the host computes its own.
void ffn_end(const Model& m, int64_t layer, const Workspace& ws) {
  const LayerWeights& w = m.weights.layers[static_cast<size_t>(layer)];
  std::optional<DiskTier::Chosen> chosen;
  if (m.disk && !w.experts.empty()) chosen = m.disk->chosen(layer, ws.expert_ids, w.experts);
  const bool timed = m.cold && !w.experts.empty();
  if (timed) m.backend.begin_timing(Stream::kCompute);
  shared_forward(m, layer, ws);
  if (w.experts.empty()) return;
  if (chosen) {
    m.disk->in_two(*chosen, [&](const Tensor& ids) {
      device_experts({m, layer, ws}, ids, [&](const auto& list) { return m.disk->placed(*chosen, list); });
    });
  } else {
    device_experts(
        {m, layer, ws}, ws.expert_ids, [](const auto& list) -> const auto& { return list; });
  }
  if (timed) m.backend.end_timing(Stream::kCompute, m.cold->device_ns(layer));
  if (m.cold) m.cold->answer(layer, ws);
  m.backend.combine({ws.slots, ws.expert_ids, ws.expert_weights, ws.x});
}

void route_forward(const Model& m, int64_t layer, const Workspace& ws) {
  const LayerWeights& w = m.weights.layers[static_cast<size_t>(layer)];
  m.backend.rms_norm({ws.x, w.ffn_norm, m.config.norm_eps, ws.h});
  route({m, layer, ws});
  if (!m.map) return;
  if (m.backend.space() == Space::kHost) return m.map->count(layer, ws.expert_ids);
  m.backend.copy(ws.expert_ids, chosen_in(ws, layer));
}

Status count_chosen(const Model& m, const Workspace& ws) {
  if (!m.map || m.backend.space() == Space::kHost) return Status();
  MOEBIUS_TRY(wait_for(m));
  for (int64_t layer = 0; layer < m.config.layers; ++layer)
    if (m.config.moe_layer[static_cast<size_t>(layer)]) m.map->count(layer, on_host(chosen_in(ws, layer)));
  return Status();
}

void shared_forward(const Model& m, int64_t layer, const Workspace& ws) {
  const Layer l{m, layer, ws};
  if (!l.w.ffn.gate.empty()) feed_forward(l);
}

void next_step(const Model& m) {
  if (m.cold) m.cold->next_step();
}

Status wait_for(const Model& m) {
  MOEBIUS_TRY(m.backend.sync());
  if (m.experts) return m.experts->error();
  return m.cold ? m.cold->error() : Status();
}

void clear_error(const Model& m) {
  m.backend.clear_error();
  if (m.cold) m.cold->start_again();
}

// The host looks the few rows of the embedding up, which need not be in the device's memory then.
void start_forward(const Model& m, const Batch& batch, const Workspace& ws) {
  std::copy(batch.ids.begin(), batch.ids.end(), ws.host.ids.i32());
  fill_angles(m, batch, ws);
  host_of(m).embed({m.weights.embed, on_host(ws.host.ids), on_host(ws.host.x)});
  cross(m.backend, ws.host.x, ws.x);
  cross(m.backend, ws.host.cos, ws.cos);
  cross(m.backend, ws.host.sin, ws.sin);
}

void forward(const Model& m, const Batch& batch, const KvCache& cache, const Workspace& ws) {
  if (m.saliency) m.saliency->begin_pass(std::ssize(batch.ids));
  start_forward(m, batch, ws);
  for (int64_t layer = 0; layer < m.config.layers; ++layer) {
    attention_forward(m, layer, batch, cache, ws);
    ffn_forward(m, layer, ws);
  }
}

void forward_in_two(const Model& m, const Batch& one, const Workspace& ws_one, const Batch& two,
                    const Workspace& ws_two, const KvCache& cache) {
  start_forward(m, one, ws_one);
  start_forward(m, two, ws_two);
  for (int64_t layer = 0; layer < m.config.layers; ++layer) {
    attention_forward(m, layer, one, cache, ws_one);
    ffn_begin(m, layer, ws_one);
    if (layer > 0) ffn_end(m, layer - 1, ws_two);
    attention_forward(m, layer, two, cache, ws_two);
    ffn_begin(m, layer, ws_two);
    ffn_end(m, layer, ws_one);
  }
  ffn_end(m, m.config.layers - 1, ws_two);
}

namespace {

// logits += what adapters of the head add for rows [begin, begin + count) of the pass, whose normed output
// is h.
void add_to_head(Backend& be, const Workspace& ws, int64_t begin, const Tensor& h, const Tensor& logits) {
  const bool here = be.space() == Space::kHost;
  for (const AdapterRun& r : ws.runs) {
    const int64_t from = std::max(r.begin, begin), to = std::min(r.begin + r.count, begin + h.shape[0]);
    if (!r.adapter || from >= to) continue;
    const Matrix& head = (here ? r.adapter->host_weights() : r.adapter->weights()).head;
    if (head.adapted())
      be.add_adapter({*head.lora, h.rows(from - begin, to - from), logits.rows(from - begin, to - from)});
  }
}

}  // namespace

Result<Tensor> hidden_forward(const Model& m, const Workspace& ws, int64_t begin, int64_t count) {
  const Tensor h = ws.h.rows(begin, count);
  const Tensor here = m.backend.space() == Space::kHost ? h : ws.host.x.rows(begin, count);
  m.backend.rms_norm({ws.x.rows(begin, count), m.weights.final_norm, m.config.norm_eps, h});
  cross(m.backend, h, here);
  MOEBIUS_TRY(wait_for(m));
  return on_host(here);
}

Result<Tensor> head_forward(const Model& m, const Workspace& ws, int64_t begin, int64_t count) {
  const Tensor out = ws.host.logits.rows(0, count);
  if (m.weights.head.space == m.backend.space()) {
    const Tensor h = ws.h.rows(begin, count), logits = ws.logits.rows(0, count);
    m.backend.rms_norm({ws.x.rows(begin, count), m.weights.final_norm, m.config.norm_eps, h});
    m.backend.linear({m.weights.head, h, Tensor(), logits});
    add_to_head(m.backend, ws, begin, h, logits);
    cross(m.backend, logits, out);
    MOEBIUS_TRY(wait_for(m));
  } else {
    MOEBIUS_ASSIGN(const Tensor h, hidden_forward(m, ws, begin, count));
    host_of(m).linear({m.weights.head, h, Tensor(), on_host(out)});
    add_to_head(host_of(m), ws, begin, h, on_host(out));
  }
  return out;
}

}  // namespace moebius
