#include "engine/batch_adapter.h"

#include <algorithm>

#include <fmt/format.h>

#include "engine/fingerprint.h"
#include "engine/placement.h"
#include "engine/uploader.h"

namespace moebius {
namespace {

// Factors and merged copies, and nothing of the base.
void put_all(const ModelConfig& config, Weights& weights, Uploader& uploader, std::deque<Lora>& loras) {
  const auto matrix = [&](const std::string&, Role, int64_t, int64_t, Matrix& w) {
    if (!w.lora) return Status();
    Lora& lora = loras.emplace_back(*w.lora);
    if (lora.merged) uploader.put(w);
    uploader.put(lora.a), uploader.put(lora.b);
    w.lora = &lora;
    return Status();
  };
  const auto vector = [](const std::string&, int64_t, Tensor&) { return Status(); };
  const Status status = visit_weights(config, weights, {matrix, vector});
  MOEBIUS_CHECK(status.ok(), status.message());
}

int64_t bytes_of(const ModelConfig& config, Weights weights) {
  std::deque<Lora> loras;
  Uploader measure(nullptr, nullptr);
  put_all(config, weights, measure, loras);
  return measure.used();
}

// base where it is, with the adapters of the same experts in `adapted`.
void hang(const std::vector<ExpertWeights>& base, const std::vector<ExpertWeights>& adapted,
          std::vector<ExpertWeights>& list) {
  list = base;
  for (size_t e = 0; e < list.size(); ++e) {
    if (list[e].elsewhere()) continue;
    list[e].gate.lora = adapted[e].gate.lora;
    list[e].up.lora = adapted[e].up.lora;
    list[e].down.lora = adapted[e].down.lora;
  }
}

}  // namespace

Result<std::shared_ptr<BatchAdapter>> BatchAdapter::open(const std::string& dir, const ModelConfig& config,
                                                         const Weights& base) {
  MOEBIUS_ASSIGN(Adapter adapter, read_adapter(dir, config));
  std::shared_ptr<BatchAdapter> opened(new BatchAdapter());
  opened->fingerprint_ = fingerprint_of(adapter);
  opened->description_ = describe_adapter(adapter);
  MOEBIUS_ASSIGN(opened->on_host_weights_,
                 AdaptedWeights::create(config, base, std::move(adapter.factors), /*gradients=*/false));
  opened->placed_ = opened->on_host_weights_->weights();
  opened->bytes_ = bytes_of(config, opened->placed_);
  return opened;
}

Status BatchAdapter::place(const Model& model) {
  if (is_placed_) return Status();
  if (model.backend.space() != Space::kHost) {
    Result<Buffer> memory = model.backend.alloc(static_cast<size_t>(bytes_));
    if (!memory.ok())
      return no_memory(
          fmt::format("the adapter takes {} bytes ({}) of the device, which are not free: {}; start with "
                      "--adapter-memory of as "
                      "much as all adapters in use take",
                      bytes_, gib_text(bytes_), memory.status().message()));
    memory_ = std::move(*memory);
    Uploader uploader(memory_.as<char>(), &model.backend);
    put_all(model.config, placed_, uploader, loras_);
    MOEBIUS_TRY(model.backend.sync());
  }
  on_device_.resize(placed_.layers.size()), on_host_.resize(placed_.layers.size());
  is_placed_ = true;
  return Status();
}

void BatchAdapter::follow(const Model& model) {
  MOEBIUS_CHECK(is_placed_);
  const std::vector<LayerWeights>& on_host = on_host_weights_->weights().layers;
  for (size_t l = 0; l < placed_.layers.size(); ++l) {
    if (std::ranges::none_of(on_host[l].experts, has_adapter)) continue;
    if (!model.cold && !on_device_[l].empty()) continue;  // nothing moves
    hang(model.weights.layers[l].experts, placed_.layers[l].experts, on_device_[l]);
    if (model.cold)
      hang(model.cold->experts().on_host(static_cast<int64_t>(l)), on_host[l].experts, on_host_[l]);
  }
}

}  // namespace moebius
