#include "engine/train/device_training.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "engine/self_check.h"
#include "engine/uploader.h"

namespace moebius {
namespace {

constexpr int64_t kExpertSlack = 2048;  // of an expert, for rounding

// What goes to the device: matrices that every token reads, with the head or without, and all vectors.
struct Placed {
  std::vector<Matrix*> matrices;
  std::vector<Tensor*> vectors;

  void put(Uploader& uploader) const {
    for (Matrix* w : matrices) uploader.put(*w);
    for (Tensor* v : vectors) uploader.put(*v);
  }
};

Placed read_by_every_token(const ModelConfig& config, Weights& weights, bool head) {
  Placed placed;
  const auto matrix = [&](const std::string&, Role role, int64_t, int64_t, Matrix& w) {
    if (role != Role::kEmbed && role != Role::kExpert && (head || role != Role::kHead))
      placed.matrices.push_back(&w);
    return Status();
  };
  const auto vector = [&](const std::string&, int64_t, Tensor& v) {
    return placed.vectors.push_back(&v), Status();
  };
  const Status status = visit_weights(config, weights, {matrix, vector});
  MOEBIUS_CHECK(status.ok(), status.message());
  if (config.tied_head && head) placed.matrices.push_back(&weights.head);
  return placed;
}

int64_t adapter_numbers(const Matrix& w) { return w.lora ? w.lora->a.numel() + w.lora->b.numel() : 0; }

int64_t adapter_numbers(const ExpertWeights& e) {
  return adapter_numbers(e.gate) + adapter_numbers(e.up) + adapter_numbers(e.down);
}

// Weights alone, without adapters.
int64_t base_bytes(const ExpertWeights& expert) {
  ExpertWeights e = expert;
  Uploader measure(nullptr, nullptr);
  measure.put(e.gate), measure.put(e.up), measure.put(e.down);
  return measure.used();
}

int64_t resident_bytes(const ExpertWeights& e) {
  return base_bytes(e) + 8 * adapter_numbers(e) + kExpertSlack;
}

// Of all that every token reads, with adapters and gradients.
int64_t dense_bytes(const ModelConfig& config, const Weights& adapted, bool head) {
  Weights views = adapted;
  const Placed placed = read_by_every_token(config, views, head);
  Uploader measure(nullptr, nullptr);
  placed.put(measure);
  int64_t numbers = 0;
  for (const Matrix* w : placed.matrices) numbers += w->lora ? adapter_numbers(*w) + 64 : 0;
  return measure.used() + 8 * numbers;
}

int64_t pass_bytes(const ModelConfig& config, const PassOptions& pass, bool head) {
  const PassMemory::Bytes b = PassMemory::bytes(config, pass, false, head);
  return b.kept + b.workspace + (head ? b.head : 0) + WorkspaceMemory::bytes(config, pass.max_tokens) +
         scratch_bytes(config, pass.max_tokens) +
         (cached_positions(pass) + kPageTokens) * cache_row_bytes(DType::kF32, config.cache_width());
}

int64_t bytes_without_residents(const ModelConfig& config, const Weights& adapted, const PassOptions& pass,
                                bool head, int64_t ring_places) {
  HybridExperts::Options ring;
  ring.ring_places = ring_places;
  return dense_bytes(config, adapted, head) + pass_bytes(config, pass, head) +
         HybridExperts::bytes(adapted, ring) + kDeviceSlack;
}

PassOptions parked(PassOptions pass, bool park) {
  pass.park = park, pass.kept_bytes = 0;
  return pass;
}

}  // namespace

int64_t DeviceTraining::least_bytes(const ModelConfig& config, const Weights& adapted,
                                    const PassOptions& pass) {
  return bytes_without_residents(config, adapted, parked(pass, true), false, 0);
}

int64_t DeviceTraining::needed_bytes(const ModelConfig& config, const Weights& adapted,
                                     const PassOptions& pass, const TrainingPlan& plan) {
  return bytes_without_residents(config, adapted, parked(pass, plan.park), plan.head_on_device,
                                 plan.ring_places);
}

Result<std::unique_ptr<DeviceTraining>> DeviceTraining::create(const ModelConfig& config, Trained& trained,
                                                               const TrainingPlan& plan,
                                                               const Options& options, Backend& host,
                                                               Backend& device) {
  std::unique_ptr<DeviceTraining> t(new DeviceTraining(config, trained, host, device));
  // The plan counts roughly; memory has the last word.
  t->head_ = plan.head_on_device, t->ring_places_ = plan.ring_places;
  t->pass_ = parked(options.pass, plan.park);
  const auto left = [&] {
    return options.memory -
           bytes_without_residents(config, trained.weights(), t->pass_, t->head_, t->ring_places_);
  };
  if (left() < 0) t->pass_.park = true;
  if (left() < 0) t->head_ = false;
  if (left() < 0) t->ring_places_ = std::min<int64_t>(t->ring_places_, 2);
  if (left() < 0) t->ring_places_ = 0;
  MOEBIUS_TRY(t->place(std::min(left(), plan.resident_bytes)));
  MOEBIUS_TRY(self_check(config, trained.weights(), t->placed_, device));
  if (t->total_ == 0) return t;
  HybridExperts::Options how;
  how.max_tokens = options.pass.max_tokens, how.overlap = options.overlap;
  how.ring_places = t->resident_ == t->total_ ? 0 : t->ring_places_;
  t->ring_places_ = how.ring_places;
  MOEBIUS_ASSIGN(t->experts_, HybridExperts::create(config, trained.weights(), t->placed_, how,
                                                    options.speeds, host, device));
  return t;
}

// Layer by layer, so that every layer has about as many.
std::vector<ExpertWeights*> DeviceTraining::choose_residents(int64_t bytes) {
  const Weights& home = trained_.weights();
  std::vector<ExpertWeights*> residents;
  size_t most = 0;
  for (LayerWeights& layer : placed_.layers) {
    total_ += std::ssize(layer.experts), most = std::max(most, layer.experts.size());
    layer.experts.assign(layer.experts.size(), ExpertWeights());
  }
  for (size_t e = 0; e < most; ++e) {
    for (size_t l = 0; l < home.layers.size(); ++l) {
      if (e >= home.layers[l].experts.size()) continue;
      const ExpertWeights& expert = home.layers[l].experts[e];
      if (resident_bytes(expert) > bytes) continue;
      bytes -= resident_bytes(expert);
      placed_.layers[l].experts[e] = expert;
      residents.push_back(&placed_.layers[l].experts[e]);
    }
  }
  resident_ = std::ssize(residents);
  return residents;
}

Status DeviceTraining::place(int64_t bytes_for_residents) {
  Placed placed = read_by_every_token(config_, placed_, head_);
  for (ExpertWeights* e : choose_residents(bytes_for_residents))
    for (Matrix* w : {&e->gate, &e->up, &e->down}) placed.matrices.push_back(w);
  for (Matrix* w : placed.matrices)
    if (w->lora) twins_.push_back({w->lora, *w->lora, *w, w});
  Uploader measure(nullptr, nullptr);
  placed.put(measure);
  MOEBIUS_ASSIGN(weights_memory_, device_.alloc(static_cast<size_t>(measure.used())));
  Uploader uploader(weights_memory_.as<char>(), &device_);
  placed.put(uploader);
  MOEBIUS_TRY(place_adapters());
  return device_.sync();
}

// Values of all adapters lie in one block, gradients in another of the same shape.
Status DeviceTraining::place_adapters() {
  if (twins_.empty()) return Status();
  for (Twin& twin : twins_) twin.placed->lora = &twin.here;
  Arena measured(nullptr);
  for (Twin& twin : twins_) lay_out(twin, measured, twin.here.a, twin.here.b);
  block_bytes_ = measured.used();
  const size_t bytes = static_cast<size_t>(block_bytes_);
  MOEBIUS_ASSIGN(values_, device_.alloc(bytes));
  MOEBIUS_ASSIGN(gradients_, device_.alloc(bytes));
  MOEBIUS_ASSIGN(staged_, device_.alloc_pinned(bytes));
  Arena values(values_), gradients(gradients_);
  for (Twin& twin : twins_) {
    lay_out(twin, values, twin.here.a, twin.here.b);
    lay_out(twin, gradients, twin.here.da, twin.here.db);
  }
  return send();
}

void DeviceTraining::lay_out(const Twin& twin, Arena& arena, Tensor& a, Tensor& b) {
  const Lora& home = *twin.home;
  a = arena.take(DType::kF32, {home.a.shape[0], home.a.shape[1]});
  b = arena.take(DType::kF32, {home.b.shape[0], home.b.shape[1]});
}

// copy(number at home, number in the staged block) for each tensor of the adapters.
template <class Copy>
void DeviceTraining::for_each_staged(const Copy& copy) {
  Arena arena(staged_.as<char>());
  for (const Twin& twin : twins_) {
    Tensor a, b;
    lay_out(twin, arena, a, b);
    copy(twin, a, b);
  }
}

Status DeviceTraining::send() {
  const auto copy = [](const Tensor& from, const Tensor& to) {
    std::memcpy(to.data, from.data, static_cast<size_t>(to.numel()) * sizeof(float));
  };
  for_each_staged([&](const Twin& twin, const Tensor& a, const Tensor& b) {
    copy(twin.home->a, a), copy(twin.home->b, b);
  });
  if (!twins_.empty())
    device_.copy_bytes(Stream::kLoad, staged_.data(), values_.data(), static_cast<size_t>(block_bytes_));
  for (const Twin& twin : twins_) {
    if (!twin.home->merged) continue;
    const size_t bytes = static_cast<size_t>(twin.matrix.rows * twin.matrix.cols) * sizeof(float);
    device_.copy_bytes(Stream::kLoad, twin.matrix.data, const_cast<void*>(twin.placed->data), bytes);
  }
  return device_.sync();
}

void DeviceTraining::zero_gradients() {
  trained_.zero_gradients();
  if (twins_.empty()) return;
  device_.zero(Tensor(gradients_.data(), DType::kF32, {block_bytes_ / 64, 16}, Space::kDevice));
}

Status DeviceTraining::collect_gradients() {
  if (twins_.empty()) return Status();
  device_.copy_bytes(Stream::kCompute, gradients_.data(), staged_.data(), static_cast<size_t>(block_bytes_));
  MOEBIUS_TRY(device_.sync());
  const auto copy = [](const Tensor& from, const Tensor& to) {
    if (!to.empty()) std::memcpy(to.data, from.data, static_cast<size_t>(to.numel()) * sizeof(float));
  };
  for_each_staged([&](const Twin& twin, const Tensor& da, const Tensor& db) {
    copy(da, twin.home->da), copy(db, twin.home->db);
  });
  return Status();
}

Status DeviceTraining::step(double lr, const TrainingPass& statistics, ThreadPool& pool) {
  MOEBIUS_TRY(trained_.step(lr, statistics, pool));
  return send();
}

Status DeviceTraining::refresh() {
  MOEBIUS_TRY(trained_.refresh());
  return send();
}

Model DeviceTraining::model(const RotaryTable& rotary) const {
  Model model{config_, placed_, rotary, device_};
  model.host = &host_;
  model.experts = experts_.get();
  return model;
}

std::string DeviceTraining::describe() const {
  std::string text = fmt::format("{} of {} experts on the device", resident_, total_);
  if (total_ == 0) text = "the whole model on the device";
  if (ring_places_ > 0)
    text += fmt::format(", others streamed through {} places or on the CPU", ring_places_);
  if (ring_places_ == 0 && resident_ < total_) text += ", others on the CPU";
  if (!head_) text += ", the head on the CPU";
  if (pass_.park) text += ", activations wait in the host's memory";
  return text;
}

}  // namespace moebius
