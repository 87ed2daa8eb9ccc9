#include "engine/device_weights.h"

#include "engine/uploader.h"

namespace moebius {
namespace {

void put_all(const ModelConfig& config, Weights& weights, const DeviceWeights::Wanted& wanted,
             Uploader& uploader, std::deque<Lora>& loras) {
  const auto matrix = [&](const std::string&, Role role, int64_t, int64_t, Matrix& w) {
    if (role == Role::kEmbed || !wanted(role)) return Status();  // the host looks the embedding's rows up
    uploader.put(w, loras);
    return Status();
  };
  const auto vector = [&](const std::string&, int64_t, Tensor& v) { return uploader.put(v), Status(); };
  const Status status = visit_weights(config, weights, {matrix, vector});
  MOEBIUS_CHECK(status.ok(), status.message());
  if (config.tied_head && wanted(Role::kHead)) uploader.put(weights.head);
}

}  // namespace

int64_t DeviceWeights::bytes(const ModelConfig& config, const Weights& host, const Wanted& wanted) {
  Weights measured = host;
  std::deque<Lora> loras;
  Uploader uploader(nullptr, nullptr);
  put_all(config, measured, wanted, uploader, loras);
  return uploader.used();
}

Result<std::unique_ptr<DeviceWeights>> DeviceWeights::create(const ModelConfig& config, const Weights& host,
                                                             const Wanted& wanted, Backend& backend) {
  std::unique_ptr<DeviceWeights> device(new DeviceWeights());
  device->weights_ = host;
  MOEBIUS_ASSIGN(device->memory_, backend.alloc(static_cast<size_t>(bytes(config, host, wanted))));
  Uploader uploader(device->memory_.as<char>(), &backend);
  put_all(config, device->weights_, wanted, uploader, device->loras_);
  MOEBIUS_TRY(backend.sync());
  return device;
}

}  // namespace moebius
