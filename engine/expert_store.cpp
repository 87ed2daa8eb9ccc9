#include "engine/expert_store.h"

#include <algorithm>
#include <tuple>

#include "engine/disk_tier.h"
#include "engine/uploader.h"

namespace moebius {
namespace {

constexpr int64_t kMoveSteps = 16;                 // between looks at who should move
constexpr int64_t kMoveBytes = int64_t{64} << 20;  // at such a look
constexpr double kHeatKept = 0.9;                  // of earlier uses, at every look

}  // namespace

bool has_adapter(const ExpertWeights& e) { return e.gate.lora || e.up.lora || e.down.lora; }

int64_t expert_bytes(const ExpertWeights& expert) {
  ExpertWeights measured = expert;
  std::deque<Lora> loras;
  Uploader uploader(nullptr, nullptr);
  uploader.put(measured, loras);
  return uploader.used();
}

int64_t expert_bytes(const Weights& host) {
  int64_t bytes = 0;
  for (const LayerWeights& layer : host.layers)
    for (const ExpertWeights& e : layer.experts) bytes += expert_bytes(e);
  return bytes;
}

int64_t largest_expert(const Weights& host) {
  int64_t bytes = 0;
  for (const LayerWeights& layer : host.layers)
    for (const ExpertWeights& e : layer.experts) bytes = std::max(bytes, expert_bytes(e));
  return bytes;
}

double weights_of(const ExpertWeights& e) {
  return static_cast<double>(e.gate.rows * e.gate.cols + e.up.rows * e.up.cols + e.down.rows * e.down.cols);
}

std::vector<ExpertLoad> expert_loads(const std::vector<ExpertWeights>& experts,
                                     const std::vector<ExpertWeights>& on_device) {
  std::vector<ExpertLoad> loads(experts.size());
  for (size_t e = 0; e < experts.size(); ++e) {
    loads[e].bytes = static_cast<double>(expert_bytes(experts[e])), loads[e].weights = weights_of(experts[e]);
    loads[e].resident = !on_device[e].elsewhere();
  }
  return loads;
}

void add_tokens(const Tensor& ids, std::vector<ExpertLoad>& loads) {
  for (int64_t i = 0; i < ids.numel(); ++i)
    if (const int32_t id = ids.i32()[i]; id >= 0) ++loads[static_cast<size_t>(id)].tokens;
}

ExpertHeat no_heat(const Weights& host) {
  ExpertHeat heat;
  for (const LayerWeights& layer : host.layers) heat.emplace_back(layer.experts.size(), 0.0);
  return heat;
}

Residency hottest_first(const Weights& host, const ExpertHeat& heat, int64_t bytes) {
  struct Candidate {
    double heat;
    size_t expert, layer;
  };
  std::vector<Candidate> order;
  Residency residency(host.layers.size());
  for (size_t l = 0; l < residency.size(); ++l) {
    const std::vector<ExpertWeights>& experts = host.layers[l].experts;
    residency[l].resize(experts.size());
    for (size_t e = 0; e < experts.size(); ++e) order.push_back({heat[l][e], e, l});
  }
  std::ranges::sort(order, [](const Candidate& a, const Candidate& b) {
    return std::tuple(-a.heat, a.expert, a.layer) < std::tuple(-b.heat, b.expert, b.layer);
  });
  for (const auto& [hot, e, l] : order) {
    const int64_t needed = expert_bytes(host.layers[l].experts[e]);
    if (needed > bytes) break;
    bytes -= needed;
    residency[l][e] = true;
  }
  return residency;
}

Result<std::unique_ptr<ExpertStore>> ExpertStore::create(const Weights& host, const Residency& residency,
                                                         ExpertHeat heat, bool release, Weights& placed,
                                                         Backend& backend) {
  std::unique_ptr<ExpertStore> store(new ExpertStore(host, std::move(heat), release, placed, backend));
  MOEBIUS_TRY(store->place(residency));
  for (size_t l = 0; release && l < residency.size(); ++l)
    for (size_t e = 0; e < residency[l].size(); ++e)
      if (residency[l][e]) give_up(host.layers[l].experts[e]);
  return store;
}

Status ExpertStore::place(const Residency& residency) {
  MOEBIUS_CHECK(residency.size() == host_.layers.size() && heat_.size() == residency.size());
  residency_ = residency;
  int64_t needed = 0;
  for (size_t l = 0; l < residency.size(); ++l) {
    const std::vector<ExpertWeights>& experts = host_.layers[l].experts;
    MOEBIUS_CHECK(residency[l].size() == experts.size());
    Layer& layer = layers_.emplace_back();
    layer.host = experts;
    std::vector<ExpertWeights>& device = placed_.layers[l].experts;
    device.assign(experts.size(), ExpertWeights());
    std::vector<int64_t>& sizes = bytes_.emplace_back();
    for (size_t e = 0; e < experts.size(); ++e) {
      sizes.push_back(expert_bytes(experts[e]));
      ++(residency[l][e] ? resident_ : layer.on_host);
      if (!residency[l][e]) continue;
      std::swap(device[e], layer.host[e]);
      map_.put(static_cast<int64_t>(l), static_cast<int64_t>(e), true);
      needed += sizes.back();
    }
    total_ += std::ssize(experts);
  }
  MOEBIUS_ASSIGN(memory_, backend_.alloc(static_cast<size_t>(needed)));
  Uploader uploader(memory_.as<char>(), &backend_);
  for (size_t l = 0; l < placed_.layers.size(); ++l)
    for (size_t e = 0; e < placed_.layers[l].experts.size(); ++e)
      if (residency[l][e]) uploader.put(placed_.layers[l].experts[e], loras_[{l, e}], false);
  return backend_.sync();
}

const std::vector<ExpertWeights>& ExpertStore::on_device(int64_t layer) const {
  return placed_.layers[static_cast<size_t>(layer)].experts;
}

void ExpertStore::count(int64_t layer, const Tensor& ids, const std::vector<ExpertWeights>& on_host,
                        int64_t host_ns) {
  map_.count(layer, ids);
  Layer& l = at(layer);
  std::vector<double>& heat = heat_[static_cast<size_t>(layer)];
  const std::vector<ExpertWeights>& resident = this->on_device(layer);
  int64_t device = 0, host = 0, streamed = 0, skipped = 0;
  for (int64_t i = 0; i < ids.numel(); ++i) {
    const int32_t id = ids.i32()[i];
    if (id < 0) {
      ++skipped;
      continue;
    }
    heat[static_cast<size_t>(id)] += 1;
    const bool on_device = on_host[static_cast<size_t>(id)].elsewhere();
    ++(on_device ? device : host);
    streamed += on_device && resident[static_cast<size_t>(id)].elsewhere();
  }
  l.device_slots += device, l.host_slots += host, l.streamed_slots += streamed;
  l.skipped_slots += skipped, l.host_ns += host_ns;
}

std::vector<LayerUse> ExpertStore::use() const {
  std::vector<LayerUse> all;
  const auto seconds = [](int64_t ns) { return 1e-9 * static_cast<double>(ns); };
  for (const Layer& l : layers_)
    all.push_back({l.device_slots, l.host_slots, l.streamed_slots, l.skipped_slots, seconds(l.host_ns),
                   seconds(l.device_ns), seconds(l.link_ns), l.moves, l.moved_bytes, l.streamed_bytes});
  return all;
}

void ExpertStore::next_step() {
  const auto first = std::stable_partition(arriving_.begin(), arriving_.end(),
                                           [&](const Arriving& a) { return !backend_.done(a.event); });
  for (auto a = first; a != arriving_.end(); ++a) finish(*a);
  arriving_.erase(first, arriving_.end());
  if (++steps_ % kMoveSteps != 0 || !arriving_.empty()) return;
  for (const ExpertMove& move : plan_moves(residency_, heat_, bytes_, kMoveBytes)) start(move);
  for (std::vector<double>& layer : heat_)
    for (double& heat : layer) heat *= kHeatKept;
}

// The expert that leaves is the host's at once; the one that comes stays the host's until it has arrived.
void ExpertStore::start(const ExpertMove& move) {
  const size_t l = static_cast<size_t>(move.layer), out = static_cast<size_t>(move.out),
               in = static_cast<size_t>(move.in);
  const std::vector<ExpertWeights>& experts = host_.layers[l].experts;
  ExpertWeights& leaving = placed_.layers[l].experts[out];
  char* place = static_cast<char*>(const_cast<void*>(leaving.gate.data));  // the store's own memory
  leaving = ExpertWeights();
  loras_.erase({l, out});
  layers_[l].host[out] = experts[out];
  if (release_) will_need(experts[out]);
  map_.put(move.layer, move.out, false);
  ++layers_[l].on_host, --resident_;
  residency_[l][out] = false, residency_[l][in] = true;
  load(arriving_.emplace_back(Arriving{move, {}}), place);
}

void ExpertStore::load(Arriving& arriving, char* place) {
  const size_t l = static_cast<size_t>(arriving.move.layer), in = static_cast<size_t>(arriving.move.in);
  arriving.expert = host_.layers[l].experts[in];
  std::deque<Lora>& loras = loras_[{l, in}];
  loras.clear();
  Uploader uploader(place, &backend_);
  backend_.begin_timing(Stream::kLoad);
  uploader.put(arriving.expert, loras, false);
  backend_.end_timing(Stream::kLoad, layers_[l].link_ns);
  arriving.event = backend_.record(Stream::kLoad);
}

void ExpertStore::load_again() {
  for (Arriving& a : arriving_) load(a, static_cast<char*>(const_cast<void*>(a.expert.gate.data)));
}

void ExpertStore::finish(const Arriving& arrived) {
  const size_t l = static_cast<size_t>(arrived.move.layer), in = static_cast<size_t>(arrived.move.in);
  placed_.layers[l].experts[in] = arrived.expert;
  Layer& layer = layers_[l];
  layer.host[in] = ExpertWeights();
  if (release_) give_up(host_.layers[l].experts[in]);
  map_.put(arrived.move.layer, arrived.move.in, true);
  --layer.on_host, ++resident_;
  ++layer.moves, layer.moved_bytes += bytes_[l][in];
}

}  // namespace moebius
